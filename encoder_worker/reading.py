"""Reads pictures from the archive for the model."""

import logging
from collections.abc import Mapping, Sequence

from encoder_worker.encoder import Encoder, Picture, decode_jpeg
from encoder_worker.scheduler import Encodings, Wish
from storage.archive import Archive
from storage.decoding import decode_picture
from storage.documents import Video
from storage.errors import DamagedFile, NotFound
from storage.segments import SegmentReader
from storage.timeline import places_in

log = logging.getLogger(__name__)


def encode_places(
    archive: Archive,
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
    if video.media == "image":
        image = _read_image(archive, video.id)
        return encoder.encode_image(image, wishes, urgent=urgent)
    frames = [
        frame for segment, mask in sorted(masks.items()) for frame in read_frames(archive, video.id, segment, mask)
    ]
    return encoder.encode_frames(frames, wishes, urgent=urgent)


def read_frames(archive: Archive, video_id: str, segment: int, mask: int) -> list[Picture]:
    """The frames in the mask; the nearest whole frame stands in for a damaged one. Raises as `encode_places` does."""
    path = archive.segment_path(video_id, segment)
    try:
        with archive.open_segment(video_id, segment) as pictures:
            return [_read_frame(pictures, path, place) for place in places_in(mask)]
    except NotFound as error:
        raise _explain_loss(archive, video_id, error) from error


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
