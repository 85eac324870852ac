"""Keeps disk space free: a full disk would stop the archive, Redis and every download."""

import shutil
from pathlib import Path

from configs.settings import ApiSettings
from storage.errors import DiskFull


def require_free_disk(folder: Path, settings: ApiSettings, coming_bytes: int = 0) -> None:
    """Raises DiskFull if less than `api.min_free_disk_bytes` would be free once `coming_bytes` are written."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes - coming_bytes < settings.min_free_disk_bytes:
        needed = f"{coming_bytes} more are to be written and {settings.min_free_disk_bytes} must stay free"
        raise DiskFull(
            f"the disk of {folder} has {free_bytes} bytes free, but {needed} (api.min_free_disk_bytes): free some space"
        )
