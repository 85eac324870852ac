"""Reads a video file as the coded units that a camera would send."""

from base64 import b64encode
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import av
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.packet import Packet as AvPacket
from av.stream import Stream
from av.video.stream import VideoStream

from demo.cameras.rtp import packetize, split_nals

VIDEO, AUDIO = 0, 1
VIDEO_CLOCK_HZ = 90_000
CODECS = ("h264", "hevc", "mjpeg")

Packet: TypeAlias = "AvPacket[Stream]"


@dataclass(frozen=True)
class Track:
    """One video or audio track."""

    codec: str  # one of CODECS, or "aac"
    clock_hz: int  # of its RTP timestamps
    channels: int = 0
    config: bytes = b""  # of AAC: the AudioSpecificConfig
    parameter_sets: tuple[bytes, ...] = ()  # of H.264 and H.265: NAL units

    def encode_sets(self) -> list[str]:
        """Returns the parameter sets in base64, as an SDP writes them."""
        return [b64encode(nal).decode() for nal in self.parameter_sets]


@dataclass(frozen=True)
class Unit:
    """One coded picture or one frame of sound."""

    track: int  # VIDEO or AUDIO
    codec: str
    data: bytes  # Annex B for H.264 and H.265, else as in the file
    shown_s: float  # when a camera would have captured it, from the start of the clip
    decoded_s: float  # when it is decoded; with B-frames earlier than that, even below zero
    is_key: bool

    @cached_property
    def payloads(self) -> list[bytes]:
        """Its RTP payloads, made once for all loops and clients."""
        return packetize(self.codec, self.data)


@dataclass(frozen=True)
class Clip:
    """A file in memory, still coded."""

    tracks: tuple[Track, ...]  # the video, then the audio if there is any
    units: tuple[Unit, ...]  # in the order of decoding and sending
    delay_s: float  # a unit is sent this long after `decoded_s`, and so never before it is captured
    duration_s: float  # of one loop: the video's, with the last frame as long as the others on average


def read_clip(path: Path) -> Clip:
    """Reads a file's first video track, and its audio if that is AAC. Keeps the GOPs and the coding order."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        sound = next((stream for stream in container.streams.audio if _is_aac(stream)), None)
        codec = video.codec_context.name
        if codec not in CODECS:
            raise ValueError(f"{path.name} is {codec}; cameras here speak {', '.join(CODECS)}")
        streams = [video] if sound is None else [video, sound]
        packets = [packet for packet in container.demux(streams) if packet.size]
        pictures = _unwrap(video, [packet for packet in packets if packet.stream is video])
        tracks = [Track(codec, VIDEO_CLOCK_HZ, parameter_sets=_find_parameter_sets(codec, bytes(pictures[0])))]
        if sound is not None:
            config = sound.codec_context.extradata or b""
            tracks.append(Track("aac", sound.codec_context.sample_rate, sound.codec_context.channels, config))
        sounds = [packet for packet in packets if packet.stream is sound]
        return _schedule(codec, tuple(tracks), pictures, sounds)


def _is_aac(stream: AudioStream) -> bool:
    return stream.codec_context.name == "aac" and bool(stream.codec_context.extradata)


def _unwrap(video: VideoStream, packets: list[Packet]) -> list[Packet]:
    """Length-prefixed NAL units become Annex B, with the parameter sets before each key picture."""
    if video.codec_context.name == "mjpeg":
        return packets
    unwrapper = BitStreamFilterContext(f"{video.codec_context.name}_mp4toannexb", video)
    return [unwrapped for packet in packets for unwrapped in unwrapper.filter(packet)]


def _schedule(codec: str, tracks: tuple[Track, ...], pictures: list[Packet], sounds: list[Packet]) -> Clip:
    shown = [_time_s(packet) for packet in pictures]
    start_s, end_s = min(shown), max(shown)
    duration_s = (end_s - start_s) * len(shown) / max(len(shown) - 1, 1)
    # One picture is decoded at each frame's time, early enough for all. Matroska files hold no decoding times.
    early_s = max(slot_s - shown_s for slot_s, shown_s in zip(sorted(shown), shown, strict=True))
    units = [
        Unit(VIDEO, codec, bytes(packet), shown_s - start_s, slot_s - early_s - start_s, packet.is_keyframe)
        for packet, shown_s, slot_s in zip(pictures, shown, sorted(shown), strict=True)
    ]
    for packet in sounds:
        captured_s = _time_s(packet) - start_s
        if 0 <= captured_s < duration_s:
            units.append(Unit(AUDIO, "aac", bytes(packet), captured_s, captured_s, False))
    delay_s = max(unit.shown_s - unit.decoded_s for unit in units)
    return Clip(tracks, tuple(sorted(units, key=lambda unit: unit.decoded_s)), delay_s, duration_s)


def _time_s(packet: Packet) -> float:
    ticks = packet.pts if packet.pts is not None else packet.dts  # AVI has only the latter
    if ticks is None:
        raise ValueError("a packet has no timestamp; put the video into an MP4 or Matroska file")
    return float(ticks * packet.time_base)


def _find_parameter_sets(codec: str, access_unit: bytes) -> tuple[bytes, ...]:
    if codec == "mjpeg":
        return ()
    if codec == "h264":
        return tuple(nal for nal in split_nals(access_unit) if nal[0] & 0x1F in {7, 8})  # SPS, PPS
    return tuple(nal for nal in split_nals(access_unit) if nal[0] >> 1 & 0x3F in {32, 33, 34})  # VPS, SPS, PPS
