"""A worker of its own process for the tests: its jobs write what they do into a folder."""

import sys
import threading
from pathlib import Path

from configs.settings import Settings
from storage.store import Store
from storage.worker import run_worker


def main(settings_json: str, folder: str) -> None:
    """Runs `encode_segment` jobs: segment 0 waits for a file `go`, segment 1 fails twice, others just say so."""
    settings = Settings.model_validate_json(settings_json)
    place = Path(folder)

    def encode_segment(video_id: str, segment: int) -> None:
        tries = len(list(place.glob(f"{segment}-*")))
        (place / f"{segment}-{tries}").touch()
        if segment == 0:
            while not (place / "go").exists():
                threading.Event().wait(0.05)
        if segment == 1 and tries < 2:
            raise ValueError("not yet")
        (place / f"done-{segment}").touch()

    run_worker(settings, Store.open(settings), {"encode_segment": encode_segment})


if __name__ == "__main__":
    main(*sys.argv[1:])
