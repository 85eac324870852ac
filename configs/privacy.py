"""Keeps what the service writes from other users of the machine: video.json can hold passwords of addresses."""

import os
from pathlib import Path

from configs.loading import SettingsError

OWNER_ONLY = 0o700


def keep_files_private(data_dir: Path) -> None:
    """From now on this process and its children make files of mode 0600 and folders of mode 0700, `data_dir` first.

    Every process of the service calls it before it writes anything. A folder that exists keeps its mode: `longwatch
    doctor` says so if others can read it. Raises SettingsError if the folder cannot be made.
    """
    os.umask(0o777 & ~OWNER_ONLY)
    try:
        data_dir.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"cannot make data_dir {data_dir}: {error}; choose a folder that can be written") from error
