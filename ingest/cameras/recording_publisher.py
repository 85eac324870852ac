"""Brings this host's finished recordings from the spool to the archive. Its own thread: uploads delay no frames."""

import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

from configs.settings import Settings
from ingest.cameras.recording import PARTIAL, finish_partial_recordings
from playback.boxes import measure_head
from storage.errors import DamagedFile, LongwatchError, NewerDocument, NotFound
from storage.ids import VIDEO_ID
from storage.recordings import Recording
from storage.store import Store

log = logging.getLogger(__name__)

LOOK_S = 1.0  # between two looks at the spool
PAUSE_S = 2.0  # after a failure of Redis or the archive
ABANDONED_S = 60.0  # a partial file that did not grow for so long, of a stream that this host does not capture
SENT = ".sent"  # a second name of a file that is being moved
_FINISHED = re.compile(r"(\d{6,})-(\d+)-(\d+)-([a-z0-9_]{1,32})\.mp4")


class RecordingPublisher:
    """One thread. Level-triggered: whatever is finished in the spool belongs in the archive.

    `list_captured` names the streams that this host captures: their partial files are still being written.
    """

    def __init__(self, settings: Settings, store: Store, list_captured: Callable[[], Collection[str]]) -> None:
        self._spool = settings.spool_dir
        self._store = store
        self._list_captured = list_captured

    def run_forever(self, stop: threading.Event) -> None:
        """Publishes until `stop` is set. No exception ends it."""
        while not stop.is_set():
            try:
                self.look_at_spool()
                stop.wait(LOOK_S)
            except LongwatchError as error:
                log.error("recordings stay in the spool for now: %s", error)
                stop.wait(PAUSE_S)
            except Exception:
                log.exception("recordings stay in the spool for now")
                stop.wait(PAUSE_S)

    def look_at_spool(self) -> None:
        """Moves all finished recordings; finishes those that nobody writes any more."""
        for folder in self._list_folders():
            self._finish_abandoned(folder)
            finished = [file for file in sorted(folder.glob("*.mp4")) if _FINISHED.fullmatch(file.name)]
            if not finished:
                continue
            try:
                stream = self._store.read_stream(folder.name)
            except NotFound:
                continue  # `Publisher` removes the folder
            except (DamagedFile, NewerDocument) as error:
                log.error("recordings of %s stay in the spool: %s", folder.name, error)
                continue
            for file in finished:
                self._move(stream.id, file)

    def _finish_abandoned(self, folder: Path) -> None:
        if folder.name in self._list_captured():
            return
        partial = [file.stat().st_mtime for file in folder.glob(f"*{PARTIAL}")]
        if partial and time.time() - max(partial) > ABANDONED_S:
            finish_partial_recordings(folder)

    def _move(self, stream_id: str, file: Path) -> None:
        """Moves a file under a second name: the first one stays until the index knows of it."""
        recording = _describe(file)
        if recording is None:
            file.unlink(missing_ok=True)
            return
        sent = file.with_suffix(SENT)
        sent.unlink(missing_ok=True)
        try:
            sent.hardlink_to(file)
        except OSError:  # the disk has no links
            shutil.copyfile(file, sent)
        try:
            self._store.add_recording(stream_id, recording, sent)
        except NotFound:
            log.info("stream %s was deleted meanwhile", stream_id)
        finally:
            sent.unlink(missing_ok=True)
        file.unlink(missing_ok=True)

    def _list_folders(self) -> list[Path]:
        try:
            return sorted(path for path in self._spool.iterdir() if VIDEO_ID.fullmatch(path.name))
        except FileNotFoundError:
            return []


def _describe(file: Path) -> Recording | None:
    """The recording in the file; None if it is damaged."""
    match = _FINISHED.fullmatch(file.name)
    assert match is not None, "the caller looked"
    try:
        with file.open("rb") as content:
            head_bytes, form = measure_head(content)
    except (OSError, DamagedFile) as error:
        log.error("the recording %s is damaged and is removed: %s", file, error)
        return None
    segment, start_ms, duration_ms = (int(match[group]) for group in (1, 2, 3))
    return Recording(start_ms, segment, duration_ms, match[4], head_bytes, form, file.stat().st_size)
