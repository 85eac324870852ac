"""Writes HLS playlists (RFC 8216) of recorded files: each file is a media segment, its head is the map."""

import math
from collections.abc import Callable, Sequence
from datetime import datetime

from storage.recordings import Recording

MEDIA_TYPE = "application/vnd.apple.mpegurl"
JOINED_S = 0.5  # a recording that begins this soon after the last one goes on with it
VERSION = 7  # of the protocol: maps of fragmented MP4


def is_continued(earlier: Recording, later: Recording) -> bool:
    """Whether players can go on from one file to the next: same parameters, and no gap."""
    return earlier.form == later.form and abs(later.start_s - earlier.end_s) <= JOINED_S


def write_playlist(
    recordings: Sequence[Recording], clock: Callable[[float], datetime], start_s: float, *, complete: bool
) -> str:
    """A media playlist. Unless it is `complete`, players load it again, and more is added at its end."""
    longest_s = max((recording.duration_ms / 1000 for recording in recordings), default=1.0)
    lines = [
        "#EXTM3U",
        f"#EXT-X-VERSION:{VERSION}",
        f"#EXT-X-TARGETDURATION:{max(math.ceil(longest_s), 1)}",
        "#EXT-X-MEDIA-SEQUENCE:0",
        f"#EXT-X-PLAYLIST-TYPE:{'VOD' if complete else 'EVENT'}",
        "#EXT-X-INDEPENDENT-SEGMENTS",
    ]
    if complete and recordings and start_s > recordings[0].start_s:
        lines.append(f"#EXT-X-START:TIME-OFFSET={start_s - recordings[0].start_s:.3f},PRECISE=YES")
    before: Recording | None = None
    for recording in recordings:
        continued = before is not None and is_continued(before, recording)
        if before is not None and not continued:
            lines.append("#EXT-X-DISCONTINUITY")
        uri = f"recordings/{recording.name}"
        if before is None or before.form != recording.form:
            lines.append(f'#EXT-X-MAP:URI="{uri}",BYTERANGE="{recording.head_bytes}@0"')
        lines += [
            f"#EXT-X-PROGRAM-DATE-TIME:{_write_time(clock(recording.start_s))}",
            f"#EXTINF:{recording.duration_ms / 1000:.3f},",
            f"#EXT-X-BYTERANGE:{recording.size_bytes - recording.head_bytes}@{recording.head_bytes}",
            uri,
        ]
        before = recording
    if complete:
        lines.append("#EXT-X-ENDLIST")
    return "\n".join(lines) + "\n"


def write_entry(uri: str) -> str:
    """A playlist that only names another one, whose beginning is fixed."""
    return (
        f"#EXTM3U\n#EXT-X-VERSION:{VERSION}\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-STREAM-INF:BANDWIDTH=4000000\n{uri}\n"
    )


def _write_time(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
