"""Routes for looking at the past: clips, contact sheets, and what was recorded."""

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from api.context import Service, ServiceNeeded
from api.description import headers, responses
from api.moments import LastSeconds, QueryMoment, find_past_s
from api.ranges import IfRange, Range, read_part, respond_with_part, stream_chunks
from playback.contact_sheet import MOST_COLUMNS, count_tiles, make_sheet
from playback.joining import Clip, Open, plan_clip, read_clip
from playback.picture_film import TimedPicture, make_film
from playback.playable import Verdict, judge_file
from playback.playlist import MEDIA_TYPE, write_entry, write_playlist
from storage.documents import Video
from storage.errors import BadRequest, Conflict, DamagedFile, NotFound
from storage.picture_reading import read_pictures
from storage.recordings import Recording, parse_name
from storage.store import Store
from storage.timeline import SEGMENT_SLOTS, Masks, count_frames, locate, mask_within, places_in, segments_of

router = APIRouter(prefix="/{video_id}", tags=["recordings"])  # of videos, and of streams
stream_router = APIRouter(prefix="/v1/streams/{stream_id}", tags=["recordings"])
STORAGE = ("file-damaged", "archive-unavailable", "redis-unavailable")
FOREVER = {"cache-control": "private, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
FRESH = {"cache-control": "private, no-cache", "x-content-type-options": "nosniff"}
MP4 = "video/mp4"
BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
CLIP_S = 60.0  # without any time, a stream's clip shows the last minute
PLAYED_S = 3600.0  # ... and its playlist, list and contact sheet the last hour
MOST_FILES = 10_000  # of a list or playlist
SEALED_S = 60.0  # after a segment's end its last recording is in the archive
LIVE_ADVICE = "it is in the archive once its segment is over"

Source = Annotated[
    Literal["auto", "recording", "pictures"],
    Query(description="What the clip is made of; `auto`: the recording, if it shows at least half of the stretch."),
]
Columns = Annotated[int, Query(ge=1, le=MOST_COLUMNS)]


class RecordingView(BaseModel):
    """A recorded file."""

    name: str
    path: str = Field(description="Where it can be read, with Range requests. Its times count from the stream's start.")
    start: datetime
    end: datetime
    start_s: float
    end_s: float
    codec: str
    bytes: int
    playable: Verdict = Field(description="Whether browsers play it.")
    hint: str | None = Field(description="What to do if they do not.")


class RecordingList(BaseModel):
    """Recorded files in order of time."""

    recordings: list[RecordingView]


@router.get(
    "/clip.mp4",
    responses={
        200: {
            "content": {MP4: BINARY},
            "description": "The clip",
            "headers": headers("Longwatch-Source", "Longwatch-Start", "Longwatch-End", "ETag"),
        },
        206: {"content": {MP4: BINARY}, "description": "A part of a clip that was recorded"},
        **responses("bad-request", "not-found", "conflict", "range-not-satisfiable", "invalid", *STORAGE),
    },
    response_class=Response,
)
def read_clip_file(
    video_id: str,
    service: ServiceNeeded,
    start: QueryMoment = None,
    end: QueryMoment = None,
    last_s: LastSeconds = None,
    source: Source = "auto",
    range: Range = None,
    if_range: IfRange = None,
) -> Response:
    """Returns a stretch as MP4: what the camera sent, from the keyframe before, or else a film of the pictures.

    `Longwatch-Source` says which of the two (`recording`, `pictures`), `Longwatch-Start` and `Longwatch-End` what it
    shows. Only a recording can be read in parts. Of a video there are always the pictures.
    """
    store = service.store
    video, holder = store.read_video(video_id), store.read_holder(video_id)
    start_s, end_s = _find_stretch_s(video, holder, service, start, end, last_s, CLIP_S)
    most_s = service.settings.api.max_clip_s
    if end_s - start_s > most_s:
        raise BadRequest(f"the clip would be {end_s - start_s:.0f} s long; at most {most_s:g} s (api.max_clip_s)")
    masks = _find_masks(store, holder, start_s, end_s)
    if source != "pictures" and holder.is_live:
        clip = _plan_clip(store, video, masks, start_s, end_s, needed=source == "recording")
        if clip is not None:
            return _respond_with_clip(store, video, clip, range, if_range)
    if source == "recording":
        raise NotFound(f"nothing was recorded in this stretch, or not yet: {LIVE_ADVICE}")
    return _respond_with_film(service, video, holder, masks)


@router.get(
    "/strip.jpg",
    responses={
        200: {"content": {"image/jpeg": BINARY}, "description": "The contact sheet"},
        **responses("bad-request", "not-found", "invalid", *STORAGE),
    },
    response_class=Response,
)
def read_strip(
    video_id: str,
    service: ServiceNeeded,
    start: QueryMoment = None,
    end: QueryMoment = None,
    last_s: LastSeconds = None,
    columns: Columns = 6,
) -> Response:
    """Returns pictures of a stretch in rows and columns, evenly spread, each with its time; 12 rows at most."""
    store = service.store
    video, holder = store.read_video(video_id), store.read_holder(video_id)
    start_s, end_s = _find_stretch_s(video, holder, service, start, end, last_s, PLAYED_S)
    masks = _find_masks(store, holder, start_s, end_s)
    chosen = _spread(masks, count_tiles(count_frames(masks), columns))
    tiles = [(_write_label(video, each.t_s), each.jpeg) for each in read_pictures(store, holder, chosen)]
    if not tiles:
        raise NotFound(f"{video_id} has no pictures in this stretch")
    return Response(make_sheet(tiles, columns), media_type="image/jpeg", headers=FRESH)


@stream_router.get("/recordings", responses=responses("bad-request", "not-found", "invalid", *STORAGE))
def list_recordings(
    stream_id: str,
    service: ServiceNeeded,
    start: QueryMoment = None,
    end: QueryMoment = None,
    last_s: LastSeconds = None,
) -> RecordingList:
    """Lists what was recorded in a stretch, and whether browsers play it."""
    stream = service.store.read_stream(stream_id)
    start_s, end_s = _find_stretch_s(stream, stream, service, start, end, last_s, PLAYED_S)
    return RecordingList(recordings=[_view(stream, each) for each in _list(service.store, stream, start_s, end_s)])


@stream_router.get(
    "/recordings/{name}",
    responses={
        200: {"content": {MP4: BINARY}, "description": "The file", "headers": headers("ETag")},
        206: {"content": {MP4: BINARY}, "description": "A part of the file"},
        **responses("not-found", "range-not-satisfiable", "invalid", *STORAGE),
    },
    response_class=Response,
)
def read_recording(
    stream_id: str,
    name: str,
    service: ServiceNeeded,
    range: Range = None,
    if_range: IfRange = None,
) -> Response:
    """Returns a recorded file, or a part of it."""
    store = service.store
    store.read_stream(stream_id)
    recording = parse_name(name, 0)
    if recording is None:
        raise NotFound(f"no recording {name!r}: `recordings` of the stream lists them")
    size = store.archive.measure_recording(stream_id, recording)

    def read(first: int, count: int) -> Iterator[bytes]:
        return read_part(lambda: store.archive.open_recording(stream_id, recording), first, count)

    return respond_with_part(size, f'"{stream_id}-{name}"', MP4, read, range, if_range, FOREVER)


@stream_router.get(
    "/playlist.m3u8",
    responses={
        200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}, "description": "The playlist"},
        **responses("bad-request", "not-found", "invalid", *STORAGE),
    },
    response_class=Response,
)
def read_playlist(
    stream_id: str,
    service: ServiceNeeded,
    start: QueryMoment = None,
    end: QueryMoment = None,
    last_s: LastSeconds = None,
) -> Response:
    """Returns an HLS playlist of what was recorded; without `end` it grows with the recordings.

    Without `start` it only names the playlist that begins `last_s` ago (or an hour): a player loads that one again and
    again, and its beginning must not move.
    """
    stream = service.store.read_stream(stream_id)
    start_s, end_s = _find_stretch_s(stream, stream, service, start, end, last_s, PLAYED_S)
    if start is None and end is None:
        at = _clock(stream, start_s).isoformat(timespec="seconds").replace("+00:00", "Z")
        return Response(write_entry(f"playlist.m3u8?{urlencode({'start': at})}"), media_type=MEDIA_TYPE, headers=FRESH)
    recordings = _list(service.store, stream, start_s, end_s)
    if not recordings:
        raise NotFound(f"nothing was recorded in this stretch, or not yet: {LIVE_ADVICE}")
    complete = end is not None and (recordings[-1].end_s >= end_s or _is_sealed(stream, end_s))
    text = write_playlist(recordings, lambda t_s: _clock(stream, t_s), start_s, complete=complete)
    return Response(text, media_type=MEDIA_TYPE, headers=FRESH)


def _find_stretch_s(
    video: Video,
    holder: Video,
    service: Service,
    start: str | None,
    end: str | None,
    last_s: float | None,
    default_s: float,
) -> tuple[float, float]:
    """(start, end) in seconds; without an end a video's stretch ends with its last frame."""
    start_s, end_s = find_past_s(video, start, end, last_s, default_s)
    if end_s is None:
        service.store.count_video(holder)
        end_s = max(holder.grid.segment_start_s(service.store.coverage.count_segments(holder.id)), start_s)
        end_s = min(end_s, max(service.store.coverage.count_sampled(holder.id) / holder.sample_fps, start_s))
    return start_s, end_s


def _find_masks(store: Store, holder: Video, start_s: float, end_s: float) -> Masks:
    """The frames of the stretch: (segment, mask), ascending."""
    slots = holder.grid.slots_between(start_s, end_s)
    sampled = store.read_coverage(holder, segments_of(slots), store.workers.read_model()).sampled
    found = ((segment, mask & mask_within(slots, segment)) for segment, mask in sorted(sampled.items()))
    return tuple((segment, mask) for segment, mask in found if mask)


def _spread(masks: Masks, count: int) -> dict[int, int]:
    """`count` of the frames, evenly spread, as segment -> mask."""
    total = count_frames(masks)
    wanted = iter([int((number + 0.5) * total / count) for number in range(count)])
    chosen: dict[int, int] = {}
    before, place_wanted = 0, next(wanted, None)
    for segment, mask in masks:
        places = places_in(mask)
        while place_wanted is not None and place_wanted < before + len(places):
            chosen[segment] = chosen.get(segment, 0) | 1 << places[place_wanted - before]
            place_wanted = next(wanted, None)
        before += len(places)
    return chosen


def _list(store: Store, stream: Video, start_s: float, end_s: float) -> list[Recording]:
    recordings = store.list_recordings(stream, start_s, end_s)
    if len(recordings) > MOST_FILES:
        raise BadRequest(f"the stretch has {len(recordings)} recordings, more than {MOST_FILES}: give a shorter one")
    return recordings


def _plan_clip(store: Store, stream: Video, masks: Masks, start_s: float, end_s: float, *, needed: bool) -> Clip | None:
    """The clip of what was recorded; None if the pictures show more than twice as much, or files cannot be joined."""
    recordings = _list(store, stream, start_s, end_s)
    recorded_s = sum(min(each.end_s, end_s) - max(each.start_s, start_s) for each in recordings)
    if not recordings or (not needed and 2 * recorded_s < count_frames(masks) / stream.sample_fps):
        return None
    try:
        return plan_clip(recordings, start_s, end_s, _opener(store, stream))
    except (Conflict, NotFound, DamagedFile):
        if needed:
            raise
        return None


def _opener(store: Store, stream: Video) -> Open:
    return lambda recording: store.archive.open_recording(stream.id, recording)


def _respond_with_clip(store: Store, stream: Video, clip: Clip, wanted: str | None, if_range: str | None) -> Response:
    parts = [(piece.recording.name, piece.offset, piece.end) for piece in clip.pieces]
    etag = hashlib.sha256(repr((stream.id, parts)).encode()).hexdigest()[:32]

    def read(first: int, count: int) -> Iterator[bytes]:
        return read_clip(clip, first, count, _opener(store, stream))

    more = FRESH | _describe(stream, "recording", clip.start_s, clip.end_s)
    return respond_with_part(clip.size_bytes, f'"{etag}"', MP4, read, wanted, if_range, more)


def _respond_with_film(service: Service, video: Video, holder: Video, masks: Masks) -> Response:
    """A film of the pictures. The first one is read before the answer begins, so that a failure is a problem."""
    pictures = read_pictures(service.store, holder, dict(masks))
    frame_s = 1 / holder.sample_fps
    film = make_film((TimedPicture(each.t_s, each.jpeg) for each in pictures), frame_s)
    if film is None:
        raise NotFound(f"{video.id} has neither recordings nor pictures in this stretch")
    segment, mask = masks[-1]
    last_s = holder.grid.time_s(segment * SEGMENT_SLOTS + mask.bit_length() - 1)
    more = FRESH | _describe(video, "pictures", film.start_s, last_s + frame_s) | {"accept-ranges": "none"}
    content = stream_chunks(film.pieces, service.films)
    return StreamingResponse(content, headers=more, media_type=MP4)


def _describe(video: Video, source: str, start_s: float, end_s: float) -> dict[str, str]:
    """The headers that say what a clip shows."""
    times = [f"{t_s:.3f}" if video.recorded_at is None else _write_clock(video, t_s) for t_s in (start_s, end_s)]
    stamp = re.sub(r"[^0-9A-Za-z]+", "", times[0].split(".")[0])
    title = re.sub(r"[^0-9A-Za-z_-]+", "-", video.title or "").strip("-")[:60] or video.id
    return {
        "longwatch-source": source,
        "longwatch-start": times[0],
        "longwatch-end": times[1],
        "content-disposition": f'inline; filename="{title}-{stamp}.mp4"',
    }


def _view(stream: Video, recording: Recording) -> RecordingView:
    verdict, hint = judge_file(MP4, recording.codec)
    return RecordingView(
        name=recording.name,
        path=f"/v1/streams/{stream.id}/recordings/{recording.name}",
        start=_clock(stream, recording.start_s),
        end=_clock(stream, recording.end_s),
        start_s=recording.start_s,
        end_s=recording.end_s,
        codec=recording.codec,
        bytes=recording.size_bytes,
        playable=verdict,
        hint=hint,
    )


def _is_sealed(stream: Video, end_s: float) -> bool:
    """Whether nothing more can be recorded before `end_s`."""
    segment, _ = locate(stream.grid.slot_at(end_s))
    return stream.grid.seconds(datetime.now(UTC)) > stream.grid.segment_start_s(segment + 1) + SEALED_S


def _clock(stream: Video, t_s: float) -> datetime:
    at = stream.grid.clock(t_s)
    assert at is not None, "a stream has a grid in wall-clock time"
    return at


def _write_clock(video: Video, t_s: float) -> str:
    return _clock(video, t_s).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _write_label(video: Video, t_s: float) -> str:
    """The time in a picture's corner: of the day, if it is known."""
    at = video.grid.clock(t_s)
    if at is not None:
        return f"{at:%m-%d %H:%M:%S}"
    minutes, seconds = divmod(int(t_s), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
