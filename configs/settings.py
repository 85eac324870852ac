"""Every setting of Longwatch with its unit and default: frozen, typo-proof, loaded once and passed down."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from configs.places import locate_checkpoint
from configs.private_hosts import check_private_host

Fraction = Annotated[float, Field(gt=0, le=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
HostName = Annotated[str, Field(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)$")]  # as in a URL, without a port

# The public implementation's system prompt for Llama 3.1 (golden/SEMANTICS.md, item 11).
PUBLIC_SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)


class Part(BaseModel):
    """The settings of one part: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ArchiveSettings(Part):
    """The system of record."""

    url: str = Field("", description="Folder or any fsspec URL; empty: {data_dir}/archive.")
    options: dict[str, Any] = Field({}, description="For the filesystem; for S3: endpoint_url, key, secret ...")
    orphan_after_s: PositiveInt = Field(86400, description="A folder without a video.json is removed at this age.")


class RedisSettings(Part):
    """Redis in two roles: `state` (queues, locks, progress; can be rebuilt from the archive) and `cache`."""

    state_url: str = Field("", description="redis://, rediss:// or unix:// URL; empty: `longwatch up` runs one.")
    cache_url: str = Field("", description="Like state_url. May be the same server if that server evicts nothing.")
    connect_timeout_s: PositiveFloat = 3.0
    command_timeout_s: PositiveFloat = Field(3.0, description="A server that is silent this long is down.")
    retries: Annotated[int, Field(ge=0)] = 2
    state_max_memory_mb: PositiveInt = Field(2048, description="Limit of the private server (noeviction).")
    cache_max_memory_mb: PositiveInt = Field(4096, description="Limit of the private server (allkeys-lru).")
    cache_ttl_s: PositiveInt = Field(24 * 3600, description="Longest time that a cached value is kept.")
    answer_ttl_s: PositiveInt = Field(3600, description="How long an answer's pieces can be read again.")


class JobSettings(Part):
    """How often jobs are tried, and how quickly a dead worker is noticed."""

    max_attempts: PositiveInt = Field(
        3, description="A target fails after this many of its jobs failed or killed their worker."
    )
    max_fetch_attempts: PositiveInt = Field(10, description="Like max_attempts, for downloads, which share a process.")
    retry_after_s: tuple[PositiveFloat, ...] = Field((1, 5, 15), description="Pauses before a failed job's retries.")
    heartbeat_interval_s: PositiveFloat = 3.0
    worker_dead_after_s: PositiveInt = Field(
        15, description="A worker that is silent this long loses its job to another."
    )
    reconcile_interval_s: PositiveFloat = 2.0
    recheck_after_s: PositiveFloat = Field(30.0, description="Unfinished work is checked at least this often.")
    max_pending_segments: PositiveInt = Field(8, description="Encode jobs of a video queued at once.")
    max_backlog_segments: PositiveInt = Field(
        64,
        description="Encode jobs queued at once when finished videos are encoded again: new videos wait behind these.",
    )
    surroundings_retry_after_s: PositiveFloat = Field(
        10.0, description="Pause after a failure of the archive, Redis or the disk."
    )
    exclusive_wait_s: PositiveFloat = Field(
        30.0, description="How long a suspect job waits to be alone in its process."
    )


class IngestSettings(Part):
    """Where video may come from, and how it is sampled."""

    sample_fps: PositiveFloat = 1.0
    mode: Literal["exact", "keyframes"] = "exact"
    decoder_threads: PositiveInt = Field(
        1, description="More threads make one video faster, but all of them a little slower."
    )
    model_side_px: PositiveInt = Field(336, description="Side of the model's pictures; LLaVA-Mini-HD needs 672.")
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = Field(90, description="For the model's pictures.")
    view_long_side_px: Annotated[int, Field(ge=0, le=8192)] = Field(
        960, description="Longest side of the pictures for people; 0: keep none."
    )
    view_jpeg_quality: Annotated[int, Field(ge=1, le=100)] = Field(85, description="For the pictures for people.")
    keep_source: bool = Field(False, description="Whether the archive keeps videos after they are sampled.")
    max_frame_pixels: PositiveInt = Field(8192 * 4320, description="The largest frame or image accepted: 8K.")
    max_duration_s: PositiveFloat = 24 * 3600.0
    max_streams: PositiveInt = 32
    allowed_roots: tuple[Path, ...] = Field((), description="Folders whose files may be submitted by path.")
    allowed_private_hosts: tuple[Annotated[str, AfterValidator(check_private_host)], ...] = Field(
        (), description="Host names, addresses or networks that are not public but allowed; host:port for one port."
    )
    camera_networks: tuple[Annotated[str, AfterValidator(check_private_host)], ...] = Field(
        (), description="Hosts, addresses or networks whose cameras may be captured; host:port for one port."
    )
    max_download_bytes: PositiveInt = 20 * 1024**3
    min_free_disk_bytes: Annotated[int, Field(ge=0)] = Field(
        2 * 1024**3, description="A download stops before the disk has less than this left."
    )
    download_timeout_s: PositiveFloat = Field(4 * 3600.0, description="For a whole download, redirects included.")
    connect_timeout_s: PositiveFloat = Field(10.0, description="To resolve a host and connect; again for TLS.")
    header_timeout_s: PositiveFloat = Field(30.0, description="From connecting to the last header of the response.")
    read_timeout_s: PositiveFloat = Field(30.0, description="Longest silence of a server.")
    min_download_bytes_per_s: PositiveInt = Field(10 * 1024, description="A slower download is aborted.")
    max_redirects: Annotated[int, Field(ge=0)] = 3
    concurrent_downloads: PositiveInt = Field(8, description="Downloads at once in one ingest worker.")
    concurrent_videos: PositiveInt = Field(2, description="Videos sampled at once in one ingest worker.")


class CameraSettings(Part):
    """How live cameras are captured."""

    streams_file: Path | None = Field(None, description="YAML file that declares streams (docs/live.md).")
    max_streams: PositiveInt = Field(1000, description="Streams that may exist.")
    max_captures: PositiveInt = Field(64, description="Cameras captured at once by one capture worker.")
    lease_s: PositiveFloat = Field(8.0, description="A silent host loses its cameras to another after this.")
    connect_timeout_s: PositiveFloat = Field(10.0, description="From connecting to the first packet.")
    stall_s: PositiveFloat = Field(20.0, description="A camera that sends no frame this long is connected again.")
    retry_least_s: PositiveFloat = Field(1.0, description="Pause before the first reconnect; doubled each time.")
    retry_most_s: PositiveFloat = Field(30.0, description="Longest pause between two reconnects.")
    frozen_s: PositiveFloat = Field(60.0, description="A picture that does not change by a bit this long is reported.")
    lag_s: PositiveFloat = Field(30.0, description="Frames that wait longer for the encoder are reported.")
    max_gop_mb: PositiveInt = Field(64, description="Coded packets held between keyframes, of one camera.")
    default_stretch_s: PositiveFloat = Field(60.0, description="A question without a time is about the last seconds.")
    gaps_shown_h: PositiveFloat = Field(24.0, description="A stream's `gaps` reach back this far.")


class EventSettings(Part):
    """How long events can be resumed from, and how webhooks are delivered."""

    log_max_events: PositiveInt = Field(
        100_000, description="Kept in Redis for readers: about 150 MB. The archive has all."
    )
    log_max_age_h: PositiveFloat = Field(168.0, description="Older events are kept in the archive only.")
    poll_interval_s: PositiveFloat = Field(0.25, description="How often a process of the API looks for new events.")
    allowed_private_hosts: tuple[Annotated[str, AfterValidator(check_private_host)], ...] = Field(
        (),
        description="Hosts, addresses or networks of webhooks that are not public but allowed; host:port for one port.",
    )
    concurrent_deliveries: PositiveInt = Field(8, description="Webhooks called at once by one ingest worker.")
    delivery_timeout_s: PositiveFloat = Field(
        10.0, description="For one call of a webhook, from resolving its host on."
    )
    max_delivery_attempts: PositiveInt = Field(15, description="A delivery is given up after this many failures.")
    delivery_retry_least_s: PositiveFloat = Field(5.0, description="Pause after the first failure; doubled each time.")
    delivery_retry_most_s: PositiveFloat = Field(900.0, description="Longest pause between two attempts.")


class RetentionSettings(Part):
    """How much of all streams together is kept. Each stream can have limits of its own."""

    check_every_s: PositiveFloat = 30.0
    max_gb: PositiveFloat | None = Field(None, description="Of all streams, with recordings; the oldest goes first.")
    min_free_disk_gb: Annotated[float, Field(ge=0)] = Field(
        5.0, description="If the archive's disk has less, the oldest segments of all streams go early."
    )


class WatchSettings(Part):
    """Limits of standing questions."""

    max_per_stream: PositiveInt = 200
    max_window_s: PositiveFloat = Field(3600.0, description="Longest window of a watch.")
    max_tokens: PositiveInt = Field(32, description="Longest answer of a watch.")
    questions_at_once: PositiveInt = Field(32, description="Watches answered in one pass over a shared prefix.")
    max_history: PositiveInt = Field(1000, description="Evaluations of a watch that are remembered.")
    max_test_evaluations: PositiveInt = Field(200, description="Of one `test`.")


class ModelSettings(Part):
    """Which checkpoint runs, and how."""

    checkpoint: Annotated[str, AfterValidator(locate_checkpoint)] = Field(
        "bundled:tiny",
        description="bundled:NAME, a folder, or hub:OWNER/NAME, in the released layout.",
        validate_default=True,
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = Field("auto", description="auto: cuda if there is a GPU, else cpu.")
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = "auto"
    language_weights: Literal["full", "int8", "int4"] = "full"
    system_prompt: str = PUBLIC_SYSTEM_PROMPT
    generation_prompt: bool = Field(True, description="Whether the answer's header is part of the prompt.")
    chat_template: str = Field("", description="Jinja text for a checkpoint without one; empty: the checkpoint's own.")


class EncoderSettings(Part):
    """The vision half."""

    batch_frames: PositiveInt = 16
    concurrent_jobs: PositiveInt = Field(3, description="Jobs that load and store data beside the one model thread.")
    threads: PositiveInt | None = Field(None, description="CPU threads of torch; empty: torch's own choice.")


class ReasonerSettings(Part):
    """The language half."""

    fusion: Literal["focused", "sampled", "exact"] = "focused"
    sample_frames: PositiveInt = Field(16, description="Frames sampled evenly over the stretch (docs/design.md).")
    focus_frames: PositiveInt = Field(16, description="Frames chosen by attention, at most (docs/design.md).")
    focus_baseline: bool = Field(False, description="Score relative to a neutral question (attention sinks).")
    evidence_frames: PositiveInt = 4
    concurrent_questions: PositiveInt = Field(4, description="Questions answered at once by one worker.")
    fusion_timeout_s: PositiveFloat = Field(
        600.0, description="How long a question waits for encoder workers' fusions."
    )
    encoder_missing_after_s: PositiveFloat = Field(
        5.0, description="A question goes back to waiting after this long without encoder workers."
    )
    max_tokens: PositiveInt = 256
    prefix_cache_mb: PositiveInt = 1024
    threads: PositiveInt | None = None


class ApiSettings(Part):
    """The HTTP service."""

    host: str = "127.0.0.1"
    port: Port = 8000
    allowed_hosts: tuple[HostName, ...] = Field(
        ("localhost", "127.0.0.1", "[::1]"),
        description="Names and addresses, without a port, that clients may use for this service. "
        "`host` is added unless it is a wildcard such as 0.0.0.0.",
    )
    max_connections: PositiveInt = Field(512, description="Open at once: half of a process's usual 1,024 files.")
    header_timeout_s: PositiveFloat = Field(
        10.0, description="From connecting, or the last response, to a whole header."
    )
    body_timeout_s: PositiveFloat = Field(
        30.0, description="To receive a body, plus time for its size (min_body_bytes_per_s)."
    )
    min_body_bytes_per_s: PositiveInt = Field(32 * 1024, description="A slower body is cut off.")
    send_timeout_s: PositiveFloat = Field(60.0, description="A client that reads nothing this long is cut off.")
    max_upload_bytes: PositiveInt = 4 * 1024**3
    max_uploads: PositiveInt = Field(4, description="Files received at once.")
    min_free_disk_bytes: Annotated[int, Field(ge=0)] = Field(
        1024**3, description="Kept free below data_dir: a request that would leave less is refused."
    )
    max_unsettled_videos: PositiveInt = Field(
        1000, description="Queued or in progress; more are refused until some end."
    )
    max_unsettled_questions: PositiveInt = Field(
        200, description="Queued or being answered; like max_unsettled_videos."
    )
    max_waiting_questions_per_video: PositiveInt = Field(100, description="Waiting for frames; they hold no worker.")
    max_waiting_questions: PositiveInt = Field(
        1000, description="Waiting for frames of any video. Checking them takes about 3 % of a core for 1,000."
    )
    max_body_bytes: PositiveInt = 64 * 1024
    max_question_chars: PositiveInt = 4000
    max_wait_s: PositiveFloat = 60.0
    max_clip_s: PositiveFloat = Field(3600.0, description="Longest clip: a film of so many pictures takes a minute.")
    page_size: PositiveInt = 50
    progress_interval_s: PositiveFloat = 0.5


class Settings(Part):
    """All settings of one installation."""

    data_dir: Path = Path("data")
    archive: ArchiveSettings = ArchiveSettings()
    redis: RedisSettings = RedisSettings()
    jobs: JobSettings = JobSettings()
    ingest: IngestSettings = IngestSettings()
    cameras: CameraSettings = CameraSettings()
    watches: WatchSettings = WatchSettings()
    retention: RetentionSettings = RetentionSettings()
    events: EventSettings = EventSettings()
    model: ModelSettings = ModelSettings()
    encoder: EncoderSettings = EncoderSettings()
    reasoner: ReasonerSettings = ReasonerSettings()
    api: ApiSettings = ApiSettings()

    @property
    def archive_url(self) -> str:
        """The archive's URL: the configured one, or a folder beside the rest of the data."""
        return self.archive.url or str((self.data_dir / "archive").absolute())

    @property
    def state_socket(self) -> Path:
        """The socket of the private Redis that holds the state."""
        return (self.data_dir / "redis" / "state.sock").absolute()

    @property
    def cache_socket(self) -> Path:
        """The socket of the private Redis that holds the cache."""
        return (self.data_dir / "redis" / "cache.sock").absolute()

    @property
    def state_url(self) -> str:
        """The state server's URL: the configured one, or the private server's socket."""
        return self.redis.state_url or f"unix://{self.state_socket}"

    @property
    def cache_url(self) -> str:
        """The cache server's URL: the configured one, or the private server's socket."""
        return self.redis.cache_url or f"unix://{self.cache_socket}"

    @property
    def work_dir(self) -> Path:
        """The folder for incoming uploads and downloads: local to this host, and not part of the archive."""
        return (self.data_dir / "incoming").absolute()

    @property
    def spool_dir(self) -> Path:
        """The folder for captured frames until the archive has them: local to this host."""
        return (self.data_dir / "spool").absolute()

    def work_file(self, video_id: str) -> Path:
        """The file of a video while it is received or downloaded.

        With a remote archive it is also the local copy that is being sampled.
        """
        return self.work_dir / f"{video_id}.video"
