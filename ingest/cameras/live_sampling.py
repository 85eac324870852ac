"""Chooses the frame for each slot of a live stream, and decodes only what that frame needs.

Coded packets are held back until a slot is decided: that is when a packet beyond its time has arrived, so that the
frame on display then is known. Everything before the last keyframe that this frame can be decoded from is dropped, as
are the frames that no other is predicted from. Decoding stops at the frame, and goes on from there for the next slot.

With reordered frames (B-frames) a packet beyond the slot's time does not mean that none before it follows. At most as
many do as the stream reorders, so as many packets more are awaited.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import av
from av.packet import Packet as CodedPacket
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ingest.cameras.coded_frames import CodedFrame
from storage.timeline import Grid

EPSILON_S = 1e-6  # slot times and arrivals are sums of rounded seconds
REORDERED = 16  # H.264, A.3.1: the most frames that are reordered
LATE_S = 1.0  # reordered frames are less late
LOST_AFTER = 64  # packets: a decoder that was given so many more will not return the frame

Mode = Literal["exact", "keyframes"]


@dataclass(frozen=True, eq=False)
class SampledPicture:
    """The frame on display at a slot's time. `number` is the same for slots that show the same coded frame."""

    slot: int
    t_s: float
    number: int
    frame: VideoFrame


@dataclass(eq=False)
class _Entry:
    """A packet on its way: held back, given to the decoder, or decoded."""

    number: int
    t_s: float
    entrance: bool  # the decoder may begin here
    key: bool  # and all that is shown from here on needs nothing from before
    reference: bool
    has_picture: bool
    good: bool  # False: it is damaged, or predicted from a damaged frame
    size: int
    packet: "CodedPacket[VideoStream] | None"  # None: the decoder has it
    frame: VideoFrame | None = None
    shown: bool = True  # False: from before the host's clock was set

    @property
    def held(self) -> bool:
        """Whether the packet still waits to be decoded."""
        return self.packet is not None


class LiveSampler:
    """Fills the slots of one connection, from `first_slot` on. Slots that are never decided stay gaps.

    In the mode "keyframes" only keyframes are decoded, and a slot shows the last one that began by its time.
    """

    def __init__(self, decoder: Any, grid: Grid, mode: Mode, first_slot: int, max_held_bytes: int) -> None:
        self._decoder = decoder
        self._grid = grid
        self._mode = mode
        self._next_slot = first_slot
        self._max_held_bytes = max_held_bytes
        self._entries: list[_Entry] = []  # in decoding order
        self._fed: dict[int, _Entry] = {}
        self._wanted: deque[tuple[int, _Entry]] = deque()  # decided slots whose frame is not decoded yet
        self._recent_s: deque[float] = deque(maxlen=REORDERED + 1)  # times of the last packets in order of arrival
        self._reordered = 0
        self._number = 0
        self._follows = False  # whether the decoder has everything before the first held packet
        self._broken = True  # nothing can be shown before the first keyframe
        self._refreshing = False
        self._begun = False
        self.decoded = 0  # frames that the decoder returned
        self.damaged = 0  # packets or frames that were damaged, or missing
        self.late = 0  # packets from before the last slot that was filled
        self.unfilled = 0  # decided slots whose frame could not be shown

    def add_packet(self, packet: "CodedPacket[VideoStream]", t_s: float, coded: CodedFrame) -> list[SampledPicture]:
        """Takes the next packet in decoding order; returns the pictures of the slots that are now filled."""
        entrance = bool(packet.is_keyframe)
        key = entrance and coded.intra
        if entrance and not key:
            self._mode = "exact"  # there is no keyframe that could be decoded alone
        good = self._judge(packet, entrance, coded)
        if not self._begun:
            if not entrance:
                return []
            self._begin_at(t_s)
        if coded.has_picture:
            self._note_order(t_s)
            if t_s < self._grid.time_s(self._next_slot - 1) - LATE_S:
                self.late += 1
        if key or self._mode == "exact":
            self._hold(packet, t_s, entrance, coded, good)
        filled = list(self._push_wanted())
        while self._is_decided(self._next_slot):
            self._decide(self._next_slot)
            self._next_slot += 1
            filled += self._take_filled()
            filled += self._push_wanted()
        self._forget_superseded()
        self._bound_held()
        return filled

    def restart_display(self, t_s: float) -> None:
        """The host's clock was set, and it is `t_s` now: what was shown before the step fills no slot after it."""
        for entry in self._entries:
            entry.shown = False
        self._recent_s.clear()
        if self._begun:
            self._begin_at(t_s)

    @property
    def held_bytes(self) -> int:
        """Coded packets that wait to be decoded."""
        return sum(entry.size for entry in self._entries if entry.held)

    def _begin_at(self, t_s: float) -> None:
        """No slot before `t_s` will be filled."""
        self._begun = True
        self._next_slot = max(self._next_slot, self._grid.slots_between(t_s, t_s + 2 / self._grid.sample_fps).start)

    def _judge(self, packet: "CodedPacket[VideoStream]", entrance: bool, coded: CodedFrame) -> bool:
        """Whether the packet's frame can be shown, as far as that is known before it is decoded.

        A gradual refresh is complete, at the latest, when the next one begins.
        """
        corrupt = packet.is_corrupt
        key = entrance and coded.intra
        if self._begun and (corrupt or (coded.after_loss and not key)):
            self.damaged += 1
        if key:
            self._broken = corrupt
        elif (corrupt and coded.reference) or coded.after_loss:
            self._broken, self._refreshing = True, False
        elif entrance:
            self._broken, self._refreshing = self._broken and not self._refreshing, True
        return not self._broken and not corrupt

    def _note_order(self, t_s: float) -> None:
        self._reordered = max(self._reordered, sum(other_s > t_s for other_s in self._recent_s))
        self._reordered = min(self._reordered, REORDERED)
        self._recent_s.append(t_s)

    def _hold(
        self, packet: "CodedPacket[VideoStream]", t_s: float, entrance: bool, coded: CodedFrame, good: bool
    ) -> None:
        key = entrance and coded.intra
        if key and t_s <= self._grid.time_s(self._next_slot) + EPSILON_S:
            self._drop_held(len(self._entries))  # the next slot shows this frame or a later one
        self._number += 1
        reference = coded.reference or not coded.has_picture
        entry = _Entry(self._number, t_s, entrance, key, reference, coded.has_picture, good, packet.size, packet)
        self._entries.append(entry)

    def _is_decided(self, slot: int) -> bool:
        time_s = self._grid.time_s(slot)
        if max(self._recent_s, default=time_s) <= time_s + EPSILON_S:
            return False
        later = sum(t_s > time_s + EPSILON_S for t_s in self._recent_s)
        reordered = max(self._reordered, self._decoder.reorder_depth) if self._mode == "exact" else 0
        return later > min(reordered, REORDERED)

    def _decide(self, slot: int) -> None:
        """Chooses the frame for the slot, and decodes up to it."""
        limit_s = self._grid.time_s(slot) + EPSILON_S
        target = self._find_displayed(limit_s)
        if target is None:
            return
        if target.good and target.held:
            self._decode_up_to(target)
        if target.good and (target.frame is not None or target.number in self._fed):
            self._wanted.append((slot, target))
        else:
            self.unfilled += 1

    def _find_displayed(self, limit_s: float) -> _Entry | None:
        """The last frame that began by `limit_s`."""
        found = None
        for entry in self._entries:
            if entry.has_picture and entry.shown and entry.t_s <= limit_s and (not found or entry.t_s >= found.t_s):
                found = entry
        return found

    def _decode_up_to(self, target: _Entry) -> None:
        """Gives the decoder what the target needs, and the target."""
        held = [entry for entry in self._entries if entry.held]
        end = held.index(target)
        start = next((i for i in range(end, -1, -1) if held[i].key and held[i].t_s <= target.t_s), None)
        if start is None and not self._follows:
            start = next((i for i in range(end) if held[i].entrance), None)
        if start is not None and (start > 0 or not self._follows):
            self._drop_held(self._entries.index(held[start]))
            self._reset_decoder()
        elif not self._follows:
            target.good = False
            return
        for entry in [entry for entry in self._entries if entry.held]:
            if entry.reference or entry is target or entry.t_s > target.t_s:
                self._feed(entry)
            else:
                self._entries.remove(entry)
            if entry is target:
                break
        if self._mode == "keyframes":
            self._reset_decoder()  # makes it return the frame

    def _drop_held(self, end: int) -> None:
        """Drops the held packets among the first `end` entries, but no parameters."""
        dropped = [entry for entry in self._entries[:end] if entry.held and entry.has_picture]
        if dropped:
            self._entries = [entry for entry in self._entries if entry not in dropped]
            self._follows = False

    def _reset_decoder(self) -> None:
        """Takes out the frames that the decoder holds back for reordering, and lets it begin anew."""
        if self._fed:
            try:
                self._take_frames(self._decoder.decode(None))
            except av.FFmpegError:
                self.damaged += 1
            self._fed.clear()
        self._decoder.flush_buffers()
        self._follows = True

    def _feed(self, entry: _Entry) -> None:
        packet, entry.packet = entry.packet, None
        assert packet is not None
        packet.pts, packet.dts = entry.number, None
        if entry.has_picture:
            self._fed[entry.number] = entry
        try:
            self._take_frames(self._decoder.decode(packet))
        except av.FFmpegError:
            if entry.has_picture:
                self._fed.pop(entry.number, None)
                self._break_from(entry)
        if not entry.has_picture:
            self._entries.remove(entry)

    def _take_frames(self, frames: list[VideoFrame]) -> None:
        for frame in frames:
            self.decoded += 1
            entry = self._fed.pop(frame.pts, None) if frame.pts is not None else None
            if entry is not None and frame.is_corrupt:
                self._break_from(entry)
            elif entry is not None:
                entry.frame = frame

    def _break_from(self, damaged: _Entry) -> None:
        """The entry is damaged, and so is all that is predicted from it: up to the next keyframe."""
        self.damaged += 1
        damaged.good = False
        if not damaged.reference:
            return
        for entry in self._entries:
            if entry.number > damaged.number:
                if entry.key:
                    return
                entry.good = False
        self._broken, self._refreshing = True, False

    def _push_wanted(self) -> Iterator[SampledPicture]:
        """Gives the decoder more packets while it holds back a frame that a slot waits for."""
        if not self._wanted:
            return
        for entry in [entry for entry in self._entries if entry.held]:
            if not self._wanted or self._wanted[0][1].frame is not None or not self._follows:
                break
            self._feed(entry)
            yield from self._take_filled()

    def _take_filled(self) -> Iterator[SampledPicture]:
        """The decided slots, in turn, whose frames are decoded. Gives up the slots whose frames never will be."""
        while self._wanted:
            slot, entry = self._wanted[0]
            lost = entry.frame is None and (entry.number not in self._fed or self._number > entry.number + LOST_AFTER)
            if not entry.good or lost:
                self.unfilled += 1
            elif entry.frame is None:
                return
            else:
                yield SampledPicture(slot, entry.t_s, entry.number, entry.frame)
            self._wanted.popleft()

    def _forget_superseded(self) -> None:
        """Forgets decoded frames that no slot can show any more, because a later one is on display before it."""
        displayed = self._find_displayed(self._grid.time_s(self._next_slot) + EPSILON_S)
        if displayed is None:
            return
        waited_for = {entry.number for _, entry in self._wanted}
        kept = []
        for entry in self._entries:
            superseded = not entry.held and (entry.t_s < displayed.t_s or not entry.shown)
            if not superseded or entry.number in waited_for:
                kept.append(entry)
        self._entries = kept

    def _bound_held(self) -> None:
        """Decodes the oldest packets early, if more bytes wait than allowed: slots far apart, or no keyframes."""
        while self.held_bytes > self._max_held_bytes:
            entry = next(entry for entry in self._entries if entry.held)
            if entry.entrance and not self._follows:
                self._reset_decoder()
            if self._follows:
                self._feed(entry)
                self._forget_superseded()
            else:
                self._entries.remove(entry)
