"""Decides which files of this machine may be ingested by path, and hashes them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ingest.errors import FetchRefused, SourceUnavailable


def allowed_file(location: str, roots: Sequence[Path]) -> Path:
    """The real file at `location`, links followed.

    Raises FetchRefused where it does not lie below one of `roots`, SourceUnavailable where there is no file.
    """
    path = Path(location).resolve()
    if not any(path.is_relative_to(root.resolve()) for root in roots):
        listed = ", ".join(str(root) for root in roots) or "none"
        raise FetchRefused(f"{location} lies below none of the folders in ingest.allowed_roots ({listed})")
    if not path.is_file():
        raise SourceUnavailable(f"there is no file {location}")
    return path


def sha256_of(path: Path) -> str:
    """The hash of the file's content; raises SourceUnavailable."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceUnavailable(f"cannot read {path}: {error}") from error
