"""Samples a video file: lists its packets, decodes those it must, and gives a picture for every target."""

import logging
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.packet import Packet as CodedPacket
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from configs.settings import IngestSettings
from ingest.container import SourceInfo, check_duration, described, last_end_s, opened
from ingest.errors import UnsupportedSource
from ingest.frames import SampledFrame, in_turn, matched
from ingest.index import coded_packets, list_packets
from ingest.sampling import Packets, nearest, needed_packets, on_display, target_times

log = logging.getLogger(__name__)

AT_THE_END = (True, False, None)  # has the decoder hand out what it still holds
WITHOUT_DISPLAY_TIMES = ("avi",)  # FFmpeg makes them up, in decoding order
ENDED_EARLY_S = 1.5  # containers round their duration; what is missing beyond this was cut off
FRAME_S = 0.04  # how long the last frame is shown where the file says nothing

CodedPackets = Iterator["CodedPacket[VideoStream]"]


class VideoSource:
    """A video file, looked through and checked against the limits.

    `truncated` says where and why it ended early, None where it did not. Raises UnsupportedSource, SourceUnavailable,
    SourceTooLarge.
    """

    def __init__(self, path: Path, settings: IngestSettings) -> None:
        self.info: SourceInfo = described(path, settings)
        self._path = path
        self._settings = settings
        with opened(path, settings) as (container, stream):
            self._packets = Packets.of(list_packets(container, stream))
            if not self._packets.shown.any():
                raise UnsupportedSource("the file holds no frame of video")
            self._base_s = float(stream.time_base or 0)
            timed = self._packets.timed and container.format.name not in WITHOUT_DISPLAY_TIMES
            self._in_order = timed or not stream.codec_context.has_b_frames
        self._end_s = self._ends_s()
        check_duration(self._end_s, settings)  # the file may last longer than it says
        self.truncated = self._cut_off()

    def sample(self, sample_fps: float, *, mode: str = "exact", start_index: int = 0) -> Iterator[SampledFrame]:
        """Frames from number `start_index` on; the first stands for 0.5 s at 1 fps (see `sampling.target_times`).

        "exact" gives the frame on display at each target; "keyframes" the nearest keyframe, for a tenth of the work.
        Damaged frames are passed over: the one before stands in.
        """
        packets = self._packets
        candidates = packets.shown & packets.key if mode == "keyframes" else packets.shown
        if not candidates.any():  # a clip can begin behind the only keyframe
            mode, candidates = "exact", packets.shown
        first, _ = packets.span()
        shown = np.unique(packets.pts[candidates])
        targets_s = target_times(self._end_s, sample_fps)
        times_s = np.asarray((shown - first) * self._base_s, np.float64)
        chosen = (on_display if mode == "exact" else nearest)(times_s, targets_s)
        wanted = shown[chosen][start_index:]
        if not len(wanted):
            return
        with opened(self._path, self._settings) as (container, stream):
            coded = coded_packets(container, stream)
            if mode == "keyframes":
                frames = self._decoded(coded, stream, packets.key & np.isin(packets.pts, wanted), packets.key)
            elif self._in_order:
                frames = self._decoded(coded, stream, needed_packets(packets, wanted), packets.clean)
            else:
                everything = np.ones(len(packets), np.bool_)
                frames = in_turn(self._decoded(_numbered(coded), stream, everything, packets.clean), shown.tolist())
            yield from matched(frames, wanted.tolist(), targets_s.tolist(), start_index)

    def _decoded(
        self, packets: CodedPackets, stream: VideoStream, needed: NDArray[np.bool_], fresh: NDArray[np.bool_]
    ) -> Iterator[VideoFrame]:
        """The frames of the packets that are `needed`, in the order they are shown.

        After a gap, a packet that is `fresh` begins anew: nothing that follows it is shown before what came before it.
        """
        decoder, gap = stream.codec_context, False
        decoder.thread_type = "AUTO"
        decoder.thread_count = self._settings.decoder_threads
        for need, begins, packet in chain(zip(needed, fresh, packets, strict=False), [AT_THE_END]):
            if not need:
                gap = True
                continue
            if gap and begins:
                # Across a gap the decoder may forget what it still holds back for reordering: have it out first.
                yield from self._frames(decoder, None)
                decoder.flush_buffers()
            gap = False
            yield from self._frames(decoder, packet)

    def _frames(self, decoder: Any, packet: Any) -> Iterator[VideoFrame]:
        try:
            yield from decoder.decode(packet)
        except av.FFmpegError as error:
            log.warning("%s: a damaged frame is passed over: %s", self._path.name, error)

    def _ends_s(self) -> float:
        """When the last frame that is there ends, from the first one on."""
        first, last = self._packets.span()
        last_s, end_s = ((ticks - first) * self._base_s for ticks in (last, self._packets.end))
        if end_s <= last_s:
            end_s = last_s + (1 / self.info.fps if self.info.fps else FRAME_S)
        declared_s = self.info.duration_s or 0.0
        return min(end_s, declared_s) if declared_s > last_s else end_s  # of reordered frames durations are vague

    def _cut_off(self) -> str | None:
        declared_s = self.info.duration_s
        if declared_s is None or self._end_s > declared_s - ENDED_EARLY_S:
            return None
        with opened(self._path, self._settings) as (container, _):
            if last_end_s(container) > declared_s - ENDED_EARLY_S:
                return None  # it is the sound that lasts longer
        return f"the file ends at {self._end_s:.1f} s of {declared_s:.1f} s: it was cut off or is damaged there"


def _numbered(packets: CodedPackets) -> CodedPackets:
    for number, packet in enumerate(packets):
        packet.pts = number
        yield packet
