"""A checkpoint's name means the same in every working directory."""

from pathlib import Path

import pytest

from configs.loading import SettingsError, load_settings
from configs.places import CHECKPOINTS, PROCFILE
from configs.settings import ModelSettings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another working directory that contains a folder with the bundled checkpoint's name."""
    (tmp_path / "checkpoints" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_bundled_checkpoint_is_beside_the_code() -> None:
    assert ModelSettings().checkpoint == load_settings().model.checkpoint == str(CHECKPOINTS / "tiny")
    assert (Path(ModelSettings().checkpoint) / "model.safetensors").is_file()


def test_a_relative_path_is_below_the_working_directory(elsewhere: Path) -> None:
    for name in ("checkpoints/tiny", "./checkpoints/tiny", str(elsewhere / "checkpoints" / "tiny")):
        assert ModelSettings(checkpoint=name).checkpoint == str(elsewhere / "checkpoints" / "tiny")
    assert ModelSettings(checkpoint="~/tiny").checkpoint == str(Path.home() / "tiny")


def test_checkpoint_settings_survive_being_written_and_read_again() -> None:
    for name in ("bundled:tiny", "hub:owner/name", "some/folder"):
        once = ModelSettings(checkpoint=name)
        assert ModelSettings.model_validate_json(once.model_dump_json()) == once


def test_only_a_name_with_the_hub_prefix_means_the_hub() -> None:
    assert load_settings("llava-mini-8b").model.checkpoint == "hub:ICTNLP/llava-mini-llama-3.1-8b"
    assert not ModelSettings(checkpoint="owner/name").checkpoint.startswith("hub:")


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("bundled:large", "only: tiny"),
        ("bundled:../configs", "only: tiny"),
        ("hub:name", "hub:owner/name"),
        ("hub:./owner/name", "hub:owner/name"),
        ("hub:a/b/c", "hub:owner/name"),
        ("", "no checkpoint is named"),
    ],
)
def test_an_invalid_checkpoint_name_stops_the_start(name: str, named: str, elsewhere: Path) -> None:
    file = elsewhere / "mine.yaml"
    file.write_text(f"model: {{checkpoint: '{name}'}}")
    with pytest.raises(SettingsError, match=named) as caught:
        load_settings(file)
    assert "model.checkpoint" in str(caught.value)


def test_the_procfile_comes_with_the_settings() -> None:
    assert PROCFILE.is_file()
