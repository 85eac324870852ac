"""Hides the service's files from other users of the machine: a URL in video.json can contain a password."""

import os
from pathlib import Path

from configs.loading import SettingsError

OWNER_ONLY = 0o700


def keep_files_private(data_dir: Path) -> None:
    """Creates `data_dir`. This process and its children now create files with mode 0600 and folders with mode 0700.

    Every process of the service calls this before it writes anything. An existing folder keeps its mode, and
    `longwatch doctor` reports it if others can read it. Raises SettingsError if the folder cannot be created.
    """
    os.umask(0o777 & ~OWNER_ONLY)
    try:
        data_dir.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"cannot create data_dir {data_dir}: {error}; choose a writable folder") from error
