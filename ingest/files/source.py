"""Samples a video file: lists its packets, decodes those it needs, and yields a frame for every slot."""

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
from ingest.errors import UnsupportedSource
from ingest.files.container import SourceInfo, check_duration, describe_video, find_last_end_s, open_video
from ingest.files.frame_encoding import FrameConverter, SampledFrame, match_frames, time_frames_in_turn
from ingest.files.packets import list_packets, read_packets
from ingest.files.sampling import (
    Packets,
    find_frames_on_display,
    find_nearest_frames,
    find_needed_packets,
    find_slot_times,
)
from storage.text import escape_controls

log = logging.getLogger(__name__)

AT_THE_END = (True, False, None)  # makes the decoder return the frames it still holds
WITHOUT_DISPLAY_TIMES = ("avi",)  # FFmpeg makes them up, in decoding order
ENDED_EARLY_S = 1.5  # containers round their duration; if more is missing, the file was cut off
FRAME_S = 0.04  # how long the last frame is shown if the file says nothing

CodedPackets = Iterator["CodedPacket[VideoStream]"]


class VideoSource:
    """A video file whose packets are listed and checked against the limits.

    `truncated` says where and why the file ended early; None if it did not.

    Raises UnsupportedSource, SourceUnavailable, SourceTooLarge.
    """

    def __init__(self, path: Path, settings: IngestSettings) -> None:
        self.info: SourceInfo = describe_video(path, settings)
        self._path = path
        self._settings = settings
        with open_video(path, settings) as (container, stream):
            self._packets = Packets.collect(list_packets(container, stream))
            if not self._packets.shown.any():
                raise UnsupportedSource("the file holds no video frames")
            self._base_s = float(stream.time_base or 0)
            timed = self._packets.timed and container.format.name not in WITHOUT_DISPLAY_TIMES
            self._in_order = timed or not stream.codec_context.has_b_frames
        self._end_s = self._find_end_s()
        check_duration(self._end_s, settings)  # the file may last longer than it says
        self.truncated = self._explain_early_end()

    def count_slots(self, sample_fps: float) -> int:
        """How many slots the video fills: all from 0 to its end."""
        return len(find_slot_times(self._end_s, sample_fps))

    def sample_frames(self, sample_fps: float, *, mode: str = "exact", start_slot: int = 0) -> Iterator[SampledFrame]:
        """A frame for every slot from `start_slot` on (see `sampling.find_slot_times`).

        "exact" gives the frame on display at the slot's time; "keyframes" the nearest keyframe, for 6 % of the
        work. The frame before a damaged one stands in for it. A later start gives the same frames.
        """
        if start_slot == 0:
            yield from self._sample_from(0, sample_fps, mode)
            return
        frames = self._sample_from(start_slot - 1, sample_fps, mode)
        before = next(frames, None)
        if before is None or not before.exact:  # only decoding from 0 shows which frame stands in for a damaged one
            frames = self._sample_from(0, sample_fps, mode)
        yield from (frame for frame in frames if frame.slot >= start_slot)

    def _sample_from(self, slot: int, sample_fps: float, mode: str) -> Iterator[SampledFrame]:
        packets = self._packets
        candidates = packets.shown & packets.key if mode == "keyframes" else packets.shown
        if not candidates.any():  # a clip can begin after the only keyframe
            mode, candidates = "exact", packets.shown
        first, _ = packets.span()
        shown = np.unique(packets.pts[candidates])
        slots_s = find_slot_times(self._end_s, sample_fps)[slot:]
        if not len(slots_s):
            return
        shown_s = np.asarray((shown - first) * self._base_s, np.float64)
        wanted = shown[(find_frames_on_display if mode == "exact" else find_nearest_frames)(shown_s, slots_s)]
        with open_video(self._path, self._settings) as (container, stream):
            coded = read_packets(container, stream)
            if mode == "keyframes":
                frames = self._decode_packets(coded, stream, packets.key & np.isin(packets.pts, wanted), packets.key)
            elif self._in_order:
                frames = self._decode_packets(coded, stream, find_needed_packets(packets, wanted), packets.clean)
            else:
                everything = np.ones(len(packets), np.bool_)
                frames = time_frames_in_turn(
                    self._decode_packets(_number_packets(coded), stream, everything, packets.clean), shown.tolist()
                )
            converter = FrameConverter(self.info.pixel_aspect, self._settings)
            yield from match_frames(frames, wanted.tolist(), slots_s.tolist(), slot, converter)

    def _decode_packets(
        self, packets: CodedPackets, stream: VideoStream, needed: NDArray[np.bool_], fresh: NDArray[np.bool_]
    ) -> Iterator[VideoFrame]:
        """The frames of the `needed` packets, in display order.

        After a gap, decoding restarts at a `fresh` packet: no frame after it is shown before an earlier one.
        """
        decoder, gap = stream.codec_context, False
        decoder.thread_type = "AUTO"
        decoder.thread_count = self._settings.decoder_threads
        for need, begins, packet in chain(zip(needed, fresh, packets, strict=False), [AT_THE_END]):
            if not need:
                gap = True
                continue
            if gap and begins:
                # After a gap the decoder may drop frames that it holds back for reordering: take them out first.
                yield from self._decode_packet(decoder, None)
                decoder.flush_buffers()
            gap = False
            yield from self._decode_packet(decoder, packet)

    def _decode_packet(self, decoder: Any, packet: Any) -> Iterator[VideoFrame]:
        try:
            yield from decoder.decode(packet)
        except av.FFmpegError as error:
            log.warning("%s: skipping a damaged frame: %s", escape_controls(self._path.name), error)

    def _find_end_s(self) -> float:
        """When the last frame in the file ends, in seconds from the first."""
        first, last = self._packets.span()
        last_s, end_s = ((ticks - first) * self._base_s for ticks in (last, self._packets.end))
        if end_s <= last_s:
            end_s = last_s + (1 / self.info.fps if self.info.fps else FRAME_S)
        declared_s = self.info.duration_s or 0.0
        return min(end_s, declared_s) if declared_s > last_s else end_s  # reordered frames' durations are unreliable

    def _explain_early_end(self) -> str | None:
        declared_s = self.info.duration_s
        if declared_s is None or self._end_s > declared_s - ENDED_EARLY_S:
            return None
        with open_video(self._path, self._settings) as (container, _):
            if find_last_end_s(container) > declared_s - ENDED_EARLY_S:
                return None  # only the sound lasts longer
        return f"the file ends at {self._end_s:.1f} s of {declared_s:.1f} s: it was cut off or is damaged there"


def _number_packets(packets: CodedPackets) -> CodedPackets:
    for number, packet in enumerate(packets):
        packet.pts = number
        yield packet
