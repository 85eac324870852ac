"""Finds other packages that have our plain names (`api`, `storage`) and are imported instead or mixed with ours."""

from collections.abc import Iterable
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

from configs.places import HOME

DISTRIBUTION = "longwatch"
PACKAGES = (
    "api",
    "cli",
    "configs",
    "encoder_worker",
    "ingest",
    "jobs",
    "llava_mini",
    "playback",
    "reasoner",
    "storage",
)
REMEDY = "give Longwatch an environment of its own (pipx, or a virtual environment)"


def find_shadowed(packages: Iterable[str] = PACKAGES, home: Path = HOME) -> list[str]:
    """One message for each of `packages` that is not imported from `home` or that another distribution installs too."""
    installed = packages_distributions()
    messages = []
    for package in packages:
        found = _find_folder(package)
        if found is None:
            messages.append(f"{package} cannot be imported: install Longwatch again")
        elif found != (home / package).resolve():
            messages.append(f"{package} is imported from {found}, not from {home / package}: {REMEDY}")
        elif others := sorted(set(installed.get(package, [])) - {DISTRIBUTION}):
            messages.append(f"{package} is also installed by {', '.join(others)}, into the same folder: {REMEDY}")
    return messages


def _find_folder(package: str) -> Path | None:
    """Finds the folder that `import package` loads, or the file of a plain module; None if there is neither."""
    spec = find_spec(package)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(str(spec.origin)).resolve()
