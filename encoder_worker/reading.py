"""Reads pictures from the archive for the model."""

import logging
from collections.abc import Mapping, Sequence

from encoder_worker.encoder import Encoder, Picture, decode_jpeg
from encoder_worker.scheduler import Encodings, Wish
from storage.archive import Archive
from storage.decoding import decode_picture
from storage.documents import Video
from storage.errors import DamagedFile, NotFound, Surroundings
from storage.segments import SegmentFrame, SegmentReader
from storage.store import Store
from storage.timeline import places_in

log = logging.getLogger(__name__)


class CacheLostPictures(Surroundings):
    """Pictures of an open segment are gone from the cache. They come again from the spool of their host."""

    code = "redis-unavailable"


def encode_places(
    store: Store,
    encoder: Encoder,
    video: Video,
    masks: Mapping[int, int],
    wishes: Sequence[Wish],
    *,
    urgent: bool = False,
) -> Encodings:
    """Runs the frames in the masks (segment -> mask) through the model, in time order.

    Raises DamagedFile if no picture of a segment can be read, NotFound if the video was deleted.
    """
    archive = store.archive
    if video.media == "image":
        image = _read_image(archive, video.id)
        return encoder.encode_image(image, wishes, urgent=urgent)
    frames: list[Picture] = []
    shares: list[int] = []  # of each frame in the masks: the place in `frames` of the picture that it is encoded from
    for segment, mask in sorted(masks.items()):
        pictures, same_as = _read_segment(store, video, segment, mask)
        places = {place: len(frames) + k for k, place in enumerate(pictures)}
        shares += [places[same_as.get(place, place)] for place in places_in(mask)]
        frames += pictures.values()
    shared = [(ids, [shares[place] for place in chosen]) for ids, chosen in wishes]
    encoded = encoder.encode_frames(frames, shared, urgent=urgent)
    return Encodings(encoded.tokens[shares], encoded.means)


def _read_segment(store: Store, video: Video, segment: int, mask: int) -> tuple[dict[int, Picture], dict[int, int]]:
    """Place -> picture of the frames to encode, and the places that share the token of another one.

    The nearest whole frame stands in for a damaged one. Raises as `encode_places` does.
    """
    path = store.archive.segment_path(video.id, segment)
    try:
        with store.archive.open_segment(video.id, segment) as reader:
            same_as = {place: other for place, other in reader.same_as.items() if mask >> place & mask >> other & 1}
            return {k: _read_frame(reader, path, k) for k in places_in(mask) if k not in same_as}, same_as
    except NotFound as error:
        if video.is_live:
            return _read_open_segment(store, video, segment, mask)
        raise _explain_loss(store.archive, video.id, error) from error


def _read_open_segment(
    store: Store, video: Video, segment: int, mask: int
) -> tuple[dict[int, Picture], dict[int, int]]:
    """The frames of a segment that is not in the archive yet, from the cache."""
    frames = store.open_frames.read_pictures(video.id, segment, mask)
    lost = [place for place in places_in(mask) if place not in frames or frames[place].model is None]
    if lost:
        raise CacheLostPictures(
            f"the cache lost {len(lost)} pictures of {video.id}'s open segment {segment}; its host sends them again"
        )
    same_as = {k: f.same_as for k, f in frames.items() if f.same_as is not None and f.same_as in frames}
    return {k: read_open_picture(frame, video.id) for k, frame in frames.items() if k not in same_as}, same_as


def read_open_picture(frame: SegmentFrame, video_id: str) -> Picture:
    """The model's picture of a captured frame; raises DamagedFile."""
    return decode_jpeg(frame.model or b"", f"place {frame.place} of an open segment of {video_id}")


def _read_image(archive: Archive, video_id: str) -> Picture:
    try:
        return decode_picture(archive.read_source(video_id))
    except NotFound as error:
        raise _explain_loss(archive, video_id, error) from error
    except DamagedFile as error:
        raise DamagedFile(f"the image of {video_id}: {error}; restore it, or add it again") from error


def _explain_loss(archive: Archive, video_id: str, error: NotFound) -> NotFound | DamagedFile:
    """A missing file was deleted with its video, or the archive lost it."""
    if not archive.has_video(video_id):
        return error
    return DamagedFile(f"{error}, although it was stored: the archive lost it; restore it, or add the video again")


def _read_frame(pictures: SegmentReader, path: str, place: int) -> Picture:
    """Raises DamagedFile naming the segment's file if none of its pictures is whole."""
    problem: DamagedFile | None = None
    for near in sorted(places_in(pictures.mask), key=lambda other: (abs(other - place), other)):
        try:
            picture = decode_jpeg(pictures.read_picture("model", near), f"{path}/model/{near:02d}.jpg")
        except NotFound as error:
            problem = DamagedFile(f"{error}; restore it, or add the video again")
        except DamagedFile as error:
            problem = error
        else:
            if near != place:
                log.error("%s: frame %d stands in for frame %d (%s)", path, near, place, problem)
            return picture
    raise problem or DamagedFile(f"{path} holds no frame")
