"""Applies the operator's file of streams (`cameras.streams_file`): what it declares is what is captured."""

import logging
import threading
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from configs.settings import Settings
from jobs.intake import Intake
from jobs.stream_specs import StreamSpec, make_stream
from storage.documents import Video
from storage.errors import LongwatchError
from storage.store import Store

log = logging.getLogger(__name__)

LOOK_S = 3.0  # between two looks at the file
HOLD_S = 60.0


class StreamsFile(BaseModel):
    """The file's content: `streams`, a list of cameras with unique names."""

    model_config = ConfigDict(extra="forbid")

    streams: list[StreamSpec] = []


class DeclaredStreams:
    """One thread that looks at the file. Streams are told apart by their names."""

    def __init__(self, settings: Settings, store: Store, file: Path) -> None:
        self._settings = settings
        self._store = store
        self._file = file
        self._intake = Intake(store, settings)
        self._applied: bytes | None = None
        self._problem = ""  # that was logged last

    def run_forever(self, stop: threading.Event) -> None:
        """Applies the file at the start and whenever it changes. No exception ends it."""
        while True:
            try:
                self.apply()
            except LongwatchError as error:
                log.error("%s cannot be applied yet: %s", self._file, error)
            except Exception:
                log.exception("%s cannot be applied", self._file)
            if stop.wait(LOOK_S):
                return

    def apply(self) -> None:
        """Applies the file if it has changed. A file that is wrong changes nothing, and is reported."""
        try:
            content = self._file.read_bytes()
            if content == self._applied:
                return
            specs = parse_streams(content)
        except (OSError, ValueError) as error:
            if str(error) != self._problem:  # it is looked at every few seconds
                log.error("%s: %s", self._file, error)
            self._problem = str(error)
            self._store.index.report_unreadable(str(self._file), str(error))
            return
        with self._store.locks.hold("declared-streams", HOLD_S, wait_s=HOLD_S) as held:
            if held is None or not self._store.index.is_ready():
                return
            problems = self._match(specs)
        if problems:
            self._store.index.report_unreadable(str(self._file), "; ".join(problems))
        else:
            self._store.index.clear_unreadable(str(self._file))
        self._applied, self._problem = content, ""

    def _match(self, specs: dict[str, StreamSpec]) -> list[str]:
        """Adds, changes and pauses streams; returns what could not be done."""
        found = self._store.index.list_streams(None, self._settings.cameras.max_streams)
        declared = {video.title: video for video in self._store.read_videos(found) if _is_declared(video)}
        problems = []
        for name, spec in specs.items():
            try:
                self._match_one(spec, declared.pop(name, None))
            except LongwatchError as error:
                problems.append(f"{name}: {error}")
        for stream in declared.values():
            log.warning("stream %s (%s) is no longer declared: it is paused", stream.id, stream.title)
            self._intake.change_stream(stream.id, {"paused": True}, None)
        return problems

    def _match_one(self, spec: StreamSpec, known: Video | None) -> None:
        stream, credentials = make_stream(spec, self._settings, declared=True)
        if known is None:
            self._intake.add_stream(stream, credentials)
            log.info("stream %s (%s) is declared and was added", stream.id, spec.name)
            return
        assert stream.capture is not None, "a stream has one"
        changes: dict[str, object] = {"location": stream.location, "source": stream.source, "mode": stream.mode}
        changes |= stream.capture.model_dump(exclude={"revision", "retention"}) | {
            "retention": stream.capture.retention
        }
        before = self._store.archive.read_credentials(known.id)
        self._intake.change_stream(known.id, changes, None if before == credentials else credentials)
        if stream.sample_fps != known.sample_fps:
            log.error("stream %s (%s) keeps its %g fps: give it another name", known.id, spec.name, known.sample_fps)


def parse_streams(content: bytes) -> dict[str, StreamSpec]:
    """Name -> stream; raises ValueError that says what is wrong, without the passwords in the file."""
    try:
        specs = StreamsFile.model_validate(yaml.safe_load(content) or {}).streams
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        raise ValueError(f"this is not YAML{f' (line {where.line + 1})' if where else ''}") from error
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise ValueError("; ".join(wrong)) from error
    names = [spec.name for spec in specs]
    if None in names or len(set(names)) < len(names):
        raise ValueError("each stream needs a name of its own")
    return {str(spec.name): spec for spec in specs}


def _is_declared(video: Video) -> bool:
    return video.capture is not None and video.capture.declared
