"""Finds the files packed with the code, and resolves checkpoint names, from any working directory."""

import re
from pathlib import Path

HOME = Path(__file__).parent.parent  # the folder that holds the packages: a clone, or site-packages
CONFIGS = HOME / "configs"
CHECKPOINTS = HOME / "checkpoints"
PROCFILE = CONFIGS / "Procfile"

BUNDLED = "bundled:"
HUB = "hub:"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


def list_checkpoints() -> list[str]:
    """The names of the bundled checkpoints."""
    return sorted(file.parent.name for file in CHECKPOINTS.glob("*/config.json"))


def locate_checkpoint(name: str) -> str:
    """Turns `bundled:tiny` or a path into an absolute folder; leaves `hub:owner/name` as it is.

    A relative path is below the working directory. Does not check that the folder exists, because the machine that
    runs the API need not have it. Raises ValueError for an invalid name.
    """
    if name.startswith(HUB):
        if not HUB_ID.fullmatch(name.removeprefix(HUB)):
            raise ValueError(f"{name} is not an id on the hub; write {HUB}owner/name")
        return name
    if name.startswith(BUNDLED):
        known = list_checkpoints()
        if name.removeprefix(BUNDLED) not in known:
            raise ValueError(f"this installation has no checkpoint {name}, only: {', '.join(known) or 'none'}")
        return str(CHECKPOINTS / name.removeprefix(BUNDLED))
    if not name.strip():
        raise ValueError(f"no checkpoint is named; give a folder, {BUNDLED}tiny or {HUB}owner/name")
    return str(Path(name).expanduser().absolute())
