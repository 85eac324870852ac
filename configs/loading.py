"""Reads the settings: a YAML file, overridden by LONGWATCH_* in the environment."""

import argparse
import os
from difflib import get_close_matches
from pathlib import Path

import yaml
from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)
from pydantic_settings import SettingsError as SourceError

from configs.environment import ALIKE, UnknownVariable, list_paths, refuse_mistyped
from configs.places import CONFIGS
from configs.settings import Settings

PREFIX = "LONGWATCH_"
DELIMITER = "__"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"


class SettingsError(ValueError):
    """A setting is wrong; the message names the key or variable and what is expected."""


def load_settings(config: str | Path | None = None) -> Settings:
    """Reads `config` (a YAML path, or the name of a bundled file such as "tiny"), overridden by the environment.

    Without `config`, LONGWATCH_CONFIG names the file; the default is "tiny".
    A variable such as LONGWATCH_INGEST__SAMPLE_FPS=2 overrides `ingest: {sample_fps: ...}`.
    Raises SettingsError naming the file, key or variable at fault.
    """
    path = find_config(str(config or os.environ.get(CONFIG_VARIABLE) or "tiny"))
    try:
        refuse_mistyped(os.environ, PREFIX, DELIMITER, Settings, others=(CONFIG_VARIABLE,))
        return _read_settings(path)
    except ValidationError as error:
        raise SettingsError(_explain(error, path)) from error
    except UnknownVariable as error:
        raise SettingsError(str(error)) from error
    except (SourceError, OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, ValueError) as error:
        raise SettingsError(f"cannot read settings from {path} and {PREFIX}* variables: {error}") from error


def settings_from_command_line(description: str | None) -> Settings:
    """Reads the settings of a process from `--config`; stops the process with a message if they are wrong."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", help="YAML file, or the name of a bundled one")
    try:
        return load_settings(parser.parse_args().config)
    except SettingsError as error:
        parser.error(str(error))


def list_configs() -> dict[str, Path]:
    """The bundled files by name."""
    return {file.stem: file for file in sorted(CONFIGS.glob("*.yaml"))}


def find_config(name: str) -> Path:
    """Finds the YAML file `name`: the name of a bundled file, or a path. Raises SettingsError."""
    bundled = list_configs()
    path = bundled.get(name, Path(name).absolute())
    if not path.is_file():
        known = ", ".join(bundled)
        raise SettingsError(f"no settings file {path}; give a path, or the name of a bundled one: {known}")
    return path


def _read_settings(path: Path) -> Settings:
    class Configured(BaseSettings, Settings):
        model_config = SettingsConfigDict(
            env_prefix=PREFIX, env_nested_delimiter=DELIMITER, extra="forbid", frozen=True
        )

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=path)

    return Settings.model_validate(Configured().model_dump())


def _explain(error: ValidationError, path: Path) -> str:
    lines = []
    for item in error.errors(include_url=False):
        name = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            meant = _find_similar(name)
            lines.append(f"  {name}: there is no such setting{f'; did you mean {meant}?' if meant else ''}")
        else:
            lines.append(f"  {name}: {item['msg']} (got {item['input']!r})")
    return f"wrong settings (from {path} and {PREFIX}* variables):\n" + "\n".join(lines)


def _find_similar(name: str) -> str | None:
    """The setting or section that `name` may stand for: misspelt in its section, or without its section."""
    section, _, word = name.rpartition(".")
    paths = list(list_paths(Settings))
    depth = name.count(".")
    beside = {
        path[depth]: ".".join(path[: depth + 1])
        for path in paths
        if ".".join(path[:depth]) == section and len(path) > depth
    }
    elsewhere = {path[-1]: ".".join(path) for path in paths}
    similar = get_close_matches(word, beside, n=1, cutoff=ALIKE)
    return beside[similar[0]] if similar else elsewhere.get(word)
