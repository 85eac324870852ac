"""A worker process for the tests. Its jobs write what they do into a folder.

Files in the folder control the job of segment n: `kill-n` makes it kill the process, `hold-n` holds it until the file
is gone, `fail-n` makes it fail, `away-n` makes the archive unavailable. If `company` exists too, `kill-n` waits until
two other jobs have begun.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from configs.settings import Settings
from jobs.inspector import Inspector
from jobs.names import ENCODE
from jobs.runner import Handler
from jobs.worker import Pool, run_worker
from storage.errors import ArchiveUnavailable
from storage.store import Store
from storage.timeline import FULL_MASK
from tests.storage.making import MODEL, make_record


def main(settings_json: str, folder: str, threads: str, clock_off_s: str) -> None:
    """Runs `encode_segment` jobs with a clock that is off by `clock_off_s` seconds."""
    true_time = time.time
    time.time = lambda: true_time() + float(clock_off_s)
    settings = Settings.model_validate_json(settings_json)
    store, notes = Store.open(settings), Path(folder)
    inspector = Inspector(store, settings.jobs)

    def note(text: str) -> None:
        with (notes / "notes").open("a") as file:
            file.write(text + "\n")

    def encode_segment(video_id: str, segment: int) -> None:
        note(f"begin {segment}")
        if (notes / f"kill-{segment}").exists():
            while (notes / "company").exists() and (notes / "notes").read_text().count("begin") < 3:
                threading.Event().wait(0.02)
            os.kill(os.getpid(), signal.SIGKILL)
        while (notes / f"hold-{segment}").exists():
            threading.Event().wait(0.02)
        if (notes / f"fail-{segment}").exists():
            raise ValueError("these pictures are odd")
        if (notes / f"away-{segment}").exists():
            raise ArchiveUnavailable("the archive is away")
        store.create_record(video_id, segment, make_record())
        note(f"end {segment}")
        inspector.inspect_video(video_id)

    def give_up(reason: str, video_id: str, segment: int) -> None:
        note(f"give-up {segment} {reason}")
        store.coverage.mark_failed(video_id, segment, FULL_MASK, MODEL, reason)
        inspector.inspect_video(video_id)

    handlers = {"encode_segment": Handler(encode_segment, give_up)}
    run_worker(settings, store, "encode", [Pool((ENCODE,), int(threads))], handlers, MODEL)


if __name__ == "__main__":
    main(*sys.argv[1:])
