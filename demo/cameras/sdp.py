"""Describes a clip as an SDP (RFC 8866), the way a camera answers DESCRIBE."""

from demo.cameras.clips import VIDEO, Clip, Track

JPEG_TYPE, VIDEO_TYPE, AUDIO_TYPE = 26, 96, 97  # RTP payload types: RFC 3551 fixes the first
_ENCODINGS = {"h264": "H264", "hevc": "H265", "mjpeg": "JPEG"}


def choose_payload_type(track: Track) -> int:
    """Returns the RTP payload type under which a track is offered."""
    return {"mjpeg": JPEG_TYPE, "aac": AUDIO_TYPE}.get(track.codec, VIDEO_TYPE)


def describe(clip: Clip, name: str) -> str:
    """Returns the SDP. Each track is controlled as `trackID=` and its number."""
    lines = ["v=0", "o=- 1 1 IN IP4 0.0.0.0", f"s={name}", "c=IN IP4 0.0.0.0", "t=0 0", "a=range:npt=now-"]
    lines.append("a=control:*")
    for number, track in enumerate(clip.tracks):
        lines += _describe_video(track) if number == VIDEO else _describe_audio(track)
        lines.append(f"a=control:trackID={number}")
    return "".join(f"{line}\r\n" for line in lines)


def _describe_video(track: Track) -> list[str]:
    kind = choose_payload_type(track)
    lines = [f"m=video 0 RTP/AVP {kind}", f"a=rtpmap:{kind} {_ENCODINGS[track.codec]}/{track.clock_hz}"]
    sets = track.encode_sets()
    if track.codec == "h264":
        profile = track.parameter_sets[0][1:4].hex()
        lines.append(
            f"a=fmtp:{kind} packetization-mode=1; profile-level-id={profile}; sprop-parameter-sets={','.join(sets)}"
        )
    elif track.codec == "hevc":
        names = ("sprop-vps", "sprop-sps", "sprop-pps")
        lines.append(f"a=fmtp:{kind} " + "; ".join(f"{n}={s}" for n, s in zip(names, sets, strict=True)))
    return lines


def _describe_audio(track: Track) -> list[str]:
    return [
        f"m=audio 0 RTP/AVP {AUDIO_TYPE}",
        f"a=rtpmap:{AUDIO_TYPE} mpeg4-generic/{track.clock_hz}/{track.channels}",
        f"a=fmtp:{AUDIO_TYPE} streamtype=5; profile-level-id=1; mode=AAC-hbr; sizelength=13; indexlength=3; "
        f"indexdeltalength=3; config={track.config.hex()}",
    ]
