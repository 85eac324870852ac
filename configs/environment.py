"""Tells mistyped settings in the environment from other programs' variables."""

import logging
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from pydantic import BaseModel

log = logging.getLogger(__name__)

ALIKE = 0.75  # least difflib ratio: DATADRI and DATADIR have .86, CONFIG_FILE and CONFIG .75, VERSION and FUSION .62

# Kubernetes sets these in every container of a namespace, for each of its Services (here longwatch or longwatch-api):
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_ADDRESS = r"(tcp|udp|sctp)://.+"
_SERVICE_VARIABLES = (
    (r"_SERVICE_HOST", r"[0-9A-Fa-f.:]+"),
    (r"_SERVICE_PORT(_\w+)?", r"\d+"),
    (r"_PORT", _ADDRESS),
    (r"_PORT_\d+_(TCP|UDP|SCTP)", _ADDRESS),
    (r"_PORT_\d+_(TCP|UDP|SCTP)_PROTO", r"(tcp|udp|sctp)"),
    (r"_PORT_\d+_(TCP|UDP|SCTP)_PORT", r"\d+"),
    (r"_PORT_\d+_(TCP|UDP|SCTP)_ADDR", r"[0-9A-Fa-f.:]+"),
)


class UnknownVariable(ValueError):
    """A variable looks like a setting, but is not one."""


def refuse_mistyped(
    environment: Mapping[str, str], prefix: str, delimiter: str, settings: type[BaseModel], others: tuple[str, ...]
) -> None:
    """Raises UnknownVariable for a variable that resembles a setting but names none; pydantic-settings ignores it.

    A variable with `prefix` is a setting if its first word is a field of `settings`, or if it is one of `others`.
    Kubernetes' variables for Services are ignored. Any other variable that resembles no setting is logged.
    """
    first_words = {f"{prefix}{field}".upper() for field in settings.model_fields}
    names = [*others, *(f"{prefix}{delimiter.join(path)}".upper() for path in list_paths(settings))]
    for variable, value in environment.items():
        name = variable.upper()
        if not name.startswith(prefix) or name in others or name.split(delimiter)[0] in first_words:
            continue
        if _is_service_variable(name, value, prefix):
            continue
        meant = _find_similar(name, names, prefix, delimiter)
        if meant or delimiter in name:
            parts = f"the parts are {', '.join(settings.model_fields)}"
            hint = f"did you mean {' or '.join(meant)}?" if meant else parts
            raise UnknownVariable(f"unknown setting in the environment: {variable}; {hint}")
        log.warning("%s is not a Longwatch setting and is ignored", variable)


def list_paths(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """Lists every setting as a path of words, such as (`api`, `port`)."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from ((name, *path) for path in list_paths(kind))
        else:
            yield (name,)


def _is_service_variable(name: str, value: str, prefix: str) -> bool:
    service = rf"{prefix.rstrip('_')}(_[A-Z0-9]+)*?"
    return any(
        re.fullmatch(service + ending, name) and re.fullmatch(values, value) for ending, values in _SERVICE_VARIABLES
    )


def _find_similar(name: str, names: list[str], prefix: str, delimiter: str) -> list[str]:
    """Finds the settings that `name` may stand for: without the part, with single underscores, or misspelt."""
    without_part = [known for known in names if name.removeprefix(prefix) == known.split(delimiter)[-1]]
    if without_part:
        return without_part
    plain = {known.removeprefix(prefix).replace("_", ""): known for known in names}
    found = get_close_matches(name.removeprefix(prefix).replace("_", ""), plain, n=1, cutoff=ALIKE)
    return [plain[key] for key in found]
