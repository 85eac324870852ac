"""Decides which files of this machine may be ingested by path, and hashes them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ingest.errors import FetchRefused, SourceUnavailable
from storage.text import escape_controls


def find_allowed_file(location: str, roots: Sequence[Path]) -> Path:
    """The real file at `location`, links followed.

    Raises FetchRefused if it does not lie below one of `roots`, SourceUnavailable if there is no file.
    """
    shown = escape_controls(location)
    try:
        path = Path(location).resolve()
        is_file, roots = path.is_file(), [root.resolve() for root in roots]
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, a loop of links, a name too long
        raise SourceUnavailable(f"there is no file {shown}: {type(error).__name__}") from error
    if not any(path.is_relative_to(root) for root in roots):
        listed = ", ".join(str(root) for root in roots) or "none"
        raise FetchRefused(f"{shown} is not below a folder in ingest.allowed_roots ({listed})")
    if not is_file:
        raise SourceUnavailable(f"there is no file {shown}")
    return path


def hash_file(path: Path) -> str:
    """The hash of the file's content; raises SourceUnavailable."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceUnavailable(f"cannot read {escape_controls(str(path))}: {error}") from error
