"""What crosses the pipe between the supervisor and a camera's child process: one plan down, messages up."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class CameraPlan:
    """Everything that a child knows. Plain values: the child loads no settings."""

    url: str  # without a user name or a password
    username: str
    password: str = field(repr=False)
    transport: Literal["tcp", "udp"]
    networks: tuple[str, ...]  # ingest.camera_networks
    start_epoch_s: float  # the stream's start, its grid's anchor, in seconds since 1970
    sample_fps: float
    mode: Literal["exact", "keyframes"]
    first_slot: int  # the first one that may be filled
    spool_folder: str  # of this stream
    record: bool = False
    model_side_px: int = 336
    jpeg_quality: int = 90
    view_long_side_px: int = 960
    view_jpeg_quality: int = 85
    static_threshold: float = 0.0  # mean difference of grey levels (0 to 255); 0: no frame is static
    frozen_s: float = 60.0
    connect_timeout_s: float = 10.0  # from connecting to the first packet
    silence_s: float = 20.0  # a camera that sends no packet for this long is given up
    max_pixels: int = 8192 * 4320
    max_held_bytes: int = 64 * 1024 * 1024  # coded packets that wait to be decoded


@dataclass(frozen=True)
class Opened:
    """The camera sends video. Sent again when its resolution changes."""

    codec: str
    width_px: int  # 0 until the first picture, if the camera does not say
    height_px: int
    fps: float | None
    audio_codec: str | None


@dataclass(frozen=True)
class FrameSpooled:
    """A slot is filled, and its frame is in the spool."""

    slot: int
    segment: int
    t_s: float  # the slot's time, in seconds from the stream's start
    static: bool


@dataclass(frozen=True)
class Statistics:
    """Counts since the child began; about every second while packets arrive."""

    input_fps: float
    packets: int
    decoded: int
    sampled: int
    static: int
    damaged: int  # packets and frames that were damaged or missing
    late: int  # frames from before the last slot that was filled: the host's clock was set back
    unfilled: int  # slots whose frame was damaged, or could not be written
    held_bytes: int
    recorded_bytes: int


@dataclass(frozen=True)
class SenderJumped:
    """The sender's timestamps jumped, and a new timeline began."""

    kind: Literal["ahead", "behind", "missing", "useless"]
    seconds: float
    at_s: float  # seconds from the stream's start


@dataclass(frozen=True)
class HostClockStepped:
    """This host's clock was set forward (or back, if negative)."""

    seconds: float
    at_s: float


@dataclass(frozen=True)
class PictureFrozen:
    """The picture has not changed by a single bit since `since_s`."""

    since_s: float


@dataclass(frozen=True)
class PictureMoving:
    """A frozen picture changed again."""

    at_s: float


@dataclass(frozen=True)
class Recorded:
    """A recording is finished: `file` is its name in the spool folder."""

    file: str
    segment: int
    start_ms: int  # from the stream's start
    duration_ms: int
    codec: str
    size_bytes: int


@dataclass(frozen=True)
class Noticed:
    """Something that people should know, although capturing goes on."""

    code: str
    message: str


@dataclass(frozen=True)
class Failed:
    """The connection could not be made, or ended. The last message of a child."""

    code: str
    message: str


Message = (
    Opened
    | FrameSpooled
    | Statistics
    | SenderJumped
    | HostClockStepped
    | PictureFrozen
    | PictureMoving
    | Recorded
    | Noticed
    | Failed
)
