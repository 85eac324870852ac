"""Routes for what was sampled from a video: segments, pictures, the original of an image."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import RedirectResponse

from api.context import ServiceNeeded
from api.description import headers, responses
from api.moments import LONGEST_S, TEXT, LastSeconds, QueryMoment, end_of, find_past_s, find_second
from api.ranges import IfRange, Range, read_part, respond_with_part
from api.views import Failure, SegmentList, SegmentView
from storage.coverage import Covered
from storage.documents import Video
from storage.errors import NotFound
from storage.store import Store
from storage.text import escape_controls
from storage.timeline import SEGMENT_SLOTS, locate, mask_within, segments_of

router = APIRouter(prefix="/{video_id}", tags=["frames"])  # of videos, and of streams
source_router = APIRouter(prefix="/v1/videos/{video_id}", tags=["frames"])
STORAGE = ("file-damaged", "archive-unavailable", "redis-unavailable")
FOREVER = {"cache-control": "private, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
KINDS_OF_IMAGES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}  # by first bytes
BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
LAST_SLOT = 2**40  # far beyond any video

Slot = Annotated[int, Path(ge=0, le=LAST_SLOT)]
Kind = Annotated[Literal["view", "model"], Query(description="For people, or what the model sees.")]
IfNoneMatch = Annotated[str | None, Header()]


@router.get("/segments", responses=responses("bad-request", "not-found", "invalid", *STORAGE))
def list_segments(
    video_id: str,
    service: ServiceNeeded,
    start: QueryMoment = None,
    end: QueryMoment = None,
    last_s: LastSeconds = None,
) -> SegmentList:
    """Lists the segments that have frames in a stretch."""
    store = service.store
    video, holder = store.read_video(video_id), store.read_holder(video_id)
    start_s, end_s = find_past_s(video, start, end, last_s, LONGEST_S)
    store.count_video(holder)
    known_s = end_s if holder.is_live else holder.grid.segment_start_s(store.coverage.count_segments(holder.id))
    until_s = min(each for each in (end_s, known_s) if each is not None)
    slots = holder.grid.slots_between(start_s, until_s)
    covered = store.read_coverage(holder, segments_of(slots), store.workers.read_model())
    there = [segment for segment, mask in sorted(covered.sampled.items()) if mask & mask_within(slots, segment)]
    return SegmentList(segments=[_view(video, segment, covered) for segment in there])


@router.get(
    "/frames/{slot}.jpg",
    responses={
        200: {"content": {"image/jpeg": BINARY}, "description": "The picture", "headers": headers("ETag")},
        304: {"description": "The picture has not changed"},
        **responses("not-found", "invalid", *STORAGE),
    },
    response_class=Response,
)
def read_frame(
    video_id: str,
    slot: Slot,
    service: ServiceNeeded,
    kind: Kind = "view",
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Returns the frame in a slot. If it has no picture for people, `view` returns the model's."""
    holder = service.store.read_holder(video_id)
    etag = f'"{holder.id}-{slot}-{kind}"'  # never changes: a segment is written once
    if _is_known(etag, if_none_match):
        return Response(status_code=304, headers={**FOREVER, "etag": etag})
    picture = _read_picture(service.store, holder, slot, kind)
    return Response(picture, media_type="image/jpeg", headers={**FOREVER, "etag": etag})


@router.get(
    "/frame",
    status_code=307,
    responses={
        307: {"description": "Redirects to the picture", "headers": headers("Location")},
        **responses("bad-request", "not-found", "invalid", *STORAGE),
    },
    response_class=RedirectResponse,
)
def find_frame(
    video_id: str,
    service: ServiceNeeded,
    at: Annotated[str, Query(max_length=64, description=TEXT)],
    kind: Kind = "view",
) -> RedirectResponse:
    """Redirects to the picture on display at a given time."""
    store = service.store
    t_s = find_second(store.read_video(video_id), at, "at")
    slot = _find_slot(store, store.read_holder(video_id), t_s)
    query = "" if kind == "view" else f"?kind={kind}"
    return RedirectResponse(f"/v1/videos/{video_id}/frames/{slot}.jpg{query}", 307)


@source_router.get(
    "/source",
    responses={
        200: {
            "content": dict.fromkeys([*KINDS_OF_IMAGES.values(), "video/*"], BINARY),
            "description": "The source",
            "headers": headers("ETag"),
        },
        206: {"content": {"video/*": BINARY}, "description": "A part of a video"},
        **responses("not-found", "range-not-satisfiable", "invalid", *STORAGE),
    },
    response_class=Response,
)
def read_source(video_id: str, service: ServiceNeeded, range: Range = None, if_range: IfRange = None) -> Response:
    """Returns an image or a video as it was submitted. Videos are kept if `ingest.keep_source` says so."""
    holder = service.store.read_holder(video_id)
    if holder.media != "image":
        return _respond_with_video(service.store, holder, range, if_range)
    content = service.store.archive.read_source(holder.id)
    kind = next((kind for start, kind in KINDS_OF_IMAGES.items() if content.startswith(start)), None)
    return Response(content, media_type=kind or "application/octet-stream", headers=FOREVER)


def _respond_with_video(store: Store, holder: Video, wanted: str | None, if_range: str | None) -> Response:
    if holder.source_type is None:
        raise NotFound(f"the source of {holder.id} is not kept: only images are, or all with ingest.keep_source")
    size = store.archive.measure_source(holder.id)

    def read(first: int, count: int) -> Iterator[bytes]:
        return read_part(lambda: store.archive.open_kept_source(holder.id), first, count)

    return respond_with_part(size, f'"{holder.id}-source"', holder.source_type, read, wanted, if_range, FOREVER)


def _view(video: Video, segment: int, covered: Covered) -> SegmentView:
    grid, mask = video.grid, covered.sampled[segment]
    start_s = grid.segment_start_s(segment)
    end_s = end_of(grid, segment * SEGMENT_SLOTS + mask.bit_length() - 1)
    reason = covered.failed.get(segment)
    return SegmentView(
        segment=segment,
        start=grid.clock(start_s) or start_s,
        start_s=start_s,
        end_s=end_s,
        start_at=grid.clock(start_s),
        end_at=grid.clock(end_s),
        frames=mask.bit_count(),
        mask=f"{mask:016x}",
        encoded=not mask & ~covered.encoded.get(segment, 0),
        problem=None if reason is None else Failure(code="not-encoded", message=escape_controls(reason)),
    )


def _read_picture(store: Store, holder: Video, slot: int, kind: str) -> bytes:
    """The picture; if there is none of the kind, the model's. Raises NotFound."""
    segment, place = locate(slot)
    try:
        with store.archive.open_segment(holder.id, segment) as reader:
            return reader.read_picture(kind if kind == "model" or reader.has(kind, place) else "model", place)
    except NotFound:
        frame = store.open_frames.read_pictures(holder.id, segment, 1 << place).get(place) if holder.is_live else None
        picture = frame and ((frame.view if kind == "view" else None) or frame.model)
        if not picture:
            raise
        return picture


def _find_slot(store: Store, holder: Video, t_s: float) -> int:
    """The slot on display at `t_s`; at the very end, the last one. Raises NotFound."""
    slot = holder.grid.slot_at(t_s)
    last = slot - 1 if slot > 0 and end_of(holder.grid, slot - 1) >= t_s else slot
    for candidate in (slot, last):
        segment, place = locate(max(candidate, 0))
        covered = store.read_coverage(holder, range(segment, segment + 1), store.workers.read_model())
        if candidate >= 0 and covered.sampled.get(segment, 0) >> place & 1:
            return candidate
    raise NotFound(f"no frame at {t_s:g} s: {_describe_length(store, holder)}")


def _describe_length(store: Store, holder: Video) -> str:
    if holder.is_live:
        return "the camera was not captured then; `gaps` of the stream, and its segments, say when it was"
    store.count_video(holder)
    so_far = "" if holder.settled else " so far"
    frames = store.coverage.count_sampled(holder.id)
    if not frames:
        return f"the video has no frames{so_far}"
    return f"the video has frames from 0 to {frames / holder.sample_fps:g} s{so_far}"


def _is_known(etag: str, if_none_match: str | None) -> bool:
    known = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in known or "*" in known
