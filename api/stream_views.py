"""What the API returns of streams: the document, what the capturing host says, and what is counted."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, Field

from api import examples
from api.schemas import SamplingMode, shown
from api.views import Failure
from configs.settings import CameraSettings
from storage.documents import Gap, Problem, Retention, Video
from storage.live_documents import StreamCondition, StreamState
from storage.sizes import HeldBytes
from storage.store import Store
from storage.stretch import SETTLING_S
from storage.text import escape_controls
from storage.timeline import find_gaps, segments_of

STARTING_S = 15.0  # a new stream, or one whose host has just died, is "connecting" this long
NO_HOST = Problem(
    code="camera-no-host",
    message="no capture worker has this camera: start `longwatch worker capture`, or raise cameras.max_captures",
)
MOST_GAPS = 1000  # the newest ones


class StreamView(BaseModel):
    """A stream as the API shows it, without user name and password."""

    model_config = shown(examples.STREAM)

    id: str
    name: str | None
    url: str = Field(description="Without its query, which may hold secrets.")
    transport: Literal["tcp", "udp"]
    sample_fps: float
    decode: SamplingMode
    record: bool
    retention: Retention
    static_threshold: float
    declared: bool = Field(description="It comes from the operator's file: change it there.")
    created_at: datetime
    state: StreamCondition
    since: datetime | None
    problem: Failure | None = Field(description="Why it is offline.")
    next_try_at: datetime | None
    host: str | None = Field(description="The worker that captures it.")
    input_fps: float | None
    codec: str | None
    width_px: int | None
    height_px: int | None
    has_audio: bool
    last_frame_at: datetime | None
    frozen_since: datetime | None
    frames_sampled: int
    frames_static: int
    frames_lost: int
    reconnects: int
    lag_s: float = Field(description="How long the oldest frame that is not encoded has been waiting.")
    gaps: list[Gap] = Field(description="Times without frames, within the last `cameras.gaps_shown_h`.")
    frames_bytes: int = Field(description="Disk used by pictures and tokens.")
    recordings_bytes: int = Field(description="Disk used by recordings.")
    removed_until: datetime | None = Field(description="Retention removed what came before.")
    recordings_removed_until: datetime | None = Field(description="Retention removed the recordings before.")


class StreamPage(BaseModel):
    """Streams, newest first; `next_cursor` leads to the next page. Their `gaps` are left out."""

    streams: list[StreamView]
    next_cursor: str | None


def view_streams(
    store: Store, streams: Sequence[Video], settings: CameraSettings, *, with_gaps: bool = False
) -> list[StreamView]:
    """The views of streams; reads what hosts say of all of them in one go."""
    ids = [stream.id for stream in streams]
    states, held = store.stream_states.read(ids), store.sizes.read_totals(ids)
    return [
        _view(store, stream, state or _without_host(stream), size, settings, with_gaps=with_gaps)
        for stream, state, size in zip(streams, states, held, strict=True)
    ]


def _view(
    store: Store, stream: Video, state: StreamState, held: HeldBytes, settings: CameraSettings, *, with_gaps: bool
) -> StreamView:
    capture, grid = stream.capture, stream.grid
    assert capture is not None, "a stream has one"
    condition = "paused" if capture.paused else state.state
    problem = state.problem if condition == "offline" else None
    removed, unrecorded = (
        grid.clock(t_s) if t_s else None for t_s in (stream.removed_until_s, stream.recordings_removed_until_s)
    )
    said = state.model_dump(include=set(StreamView.model_fields) - {"state", "problem", "host", "frames_sampled"})
    captured = len(store.open_frames.list_slots(stream.id))
    return StreamView(
        **said,
        id=stream.id,
        name=stream.title,
        url=stream.source,
        transport=capture.transport,
        sample_fps=stream.sample_fps,
        decode=stream.mode,
        record=capture.record,
        retention=capture.retention,
        static_threshold=capture.static_threshold,
        declared=capture.declared,
        created_at=stream.created_at,
        state=condition,
        problem=None if problem is None else Failure(code=problem.code, message=escape_controls(problem.message)),
        host=state.host or None,
        frames_sampled=store.coverage.count_sampled(stream.id) + captured,
        gaps=list_gaps(store, stream, settings.gaps_shown_h) if with_gaps else [],
        frames_bytes=held.frames,
        recordings_bytes=held.recordings,
        removed_until=removed,
        recordings_removed_until=unrecorded,
    )


def list_gaps(store: Store, stream: Video, hours: float) -> list[Gap]:
    """The times without frames in the last hours, except what retention removed."""
    grid, now = stream.grid, datetime.now(UTC)
    since_s = max(grid.seconds(now - timedelta(hours=hours)), stream.removed_until_s, 0.0)
    slots = range(grid.slot_at(since_s), max(grid.slot_at(grid.seconds(now) - SETTLING_S), 0))
    covered = store.read_coverage(stream, segments_of(slots), store.workers.read_model())
    found = find_gaps(covered.sampled, slots)[-MOST_GAPS:]
    return [as_gap(stream, gap) for gap in found]


def as_gap(stream: Video, slots: range) -> Gap:
    """The wall-clock time of slots without frames."""
    grid = stream.grid
    start, end = (grid.clock(slot / grid.sample_fps) for slot in (slots.start, slots.stop))
    assert start is not None
    assert end is not None
    return Gap(start=start, end=end)


def _without_host(stream: Video) -> StreamState:
    """What is known of a stream that no host captures."""
    young = (datetime.now(UTC) - stream.created_at).total_seconds() < STARTING_S
    if young:
        return StreamState(state="connecting", since=stream.created_at)
    return StreamState(state="offline", since=stream.created_at, problem=NO_HOST)
