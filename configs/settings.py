"""Every setting of Longwatch with its unit and default: frozen, typo-proof, loaded once and passed down."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

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


class RedisSettings(Part):
    """The hot copy, the queues and the streams of answers."""

    url: str = Field("", description="redis://, rediss:// or unix:// URL; empty: the private instance of `up`.")
    connect_timeout_s: PositiveFloat = 5.0
    retries: PositiveInt = 6
    record_ttl_s: PositiveInt = Field(6 * 3600, description="How long a record stays hot after its last use.")
    answer_ttl_s: PositiveInt = Field(3600, description="How long the pieces of an answer can be re-read.")
    max_memory_mb: PositiveInt = Field(2048, description="Memory of the private instance (volatile-lru).")


class QueueSettings(Part):
    """Jobs: how often they are retried, and how quickly a dead worker is noticed."""

    job_timeout_s: PositiveInt = 6 * 3600
    retries: PositiveInt = 5
    retry_backoff_s: tuple[int, ...] = (1, 2, 5, 15, 30)
    heartbeat_interval_s: PositiveFloat = 3.0
    worker_dead_after_s: PositiveInt = Field(15, description="A job whose worker is silent this long is retried.")
    failed_retry_after_s: PositiveInt = Field(3600, description="A job that failed for good is tried again then.")
    reconcile_interval_s: PositiveFloat = 5.0
    max_pending_segments: PositiveInt = Field(8, description="Encode jobs of one video queued at once.")


class IngestSettings(Part):
    """Where video may come from, and how it is sampled."""

    sample_fps: PositiveFloat = 1.0
    mode: Literal["exact", "keyframes"] = "exact"
    decoder_threads: PositiveInt = Field(1, description="More make one video faster, and all of them a little slower.")
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 90
    max_frame_pixels: PositiveInt = Field(8192 * 4320, description="8K is the largest frame taken.")
    max_duration_s: PositiveFloat = 24 * 3600.0
    max_streams: PositiveInt = 32
    allowed_roots: tuple[Path, ...] = Field((), description="Folders whose files may be submitted by path.")
    allowed_private_hosts: tuple[str, ...] = Field(
        (), description="Host names, addresses or CIDR networks that may be fetched although not public."
    )
    max_download_bytes: PositiveInt = 20 * 1024**3
    download_timeout_s: PositiveFloat = 4 * 3600.0
    connect_timeout_s: PositiveFloat = 10.0
    read_timeout_s: PositiveFloat = 30.0
    max_redirects: Annotated[int, Field(ge=0)] = 3


class ModelSettings(Part):
    """Which checkpoint runs, and how."""

    checkpoint: str = Field("checkpoints/tiny", description="Folder or hub id in the released layout.")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = Field("auto", description="auto: cuda when there is one, else cpu.")
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = "auto"
    language_weights: Literal["full", "int8", "int4"] = "full"
    system_prompt: str = PUBLIC_SYSTEM_PROMPT
    generation_prompt: bool = Field(True, description="Whether the answer's header is part of the prompt.")


class EncoderSettings(Part):
    """The vision half."""

    batch_frames: PositiveInt = 16
    max_fusions_per_record: PositiveInt = Field(64, description="Oldest questions' fusions go first.")
    threads: PositiveInt | None = Field(None, description="CPU threads of torch; empty: torch's own choice.")


class ReasonerSettings(Part):
    """The language half."""

    fusion: Literal["focused", "sampled", "exact"] = "focused"
    sample_frames: PositiveInt = Field(16, description="Even sample over the stretch (docs/design.md).")
    focus_frames: PositiveInt = Field(16, description="Frames most attended to, at most (docs/design.md).")
    focus_baseline: bool = Field(False, description="Score relative to a neutral question (attention sinks).")
    evidence_frames: PositiveInt = 4
    fusion_timeout_s: PositiveFloat = 600.0
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
        "`host` is added when it is one.",
    )
    max_connections: PositiveInt = Field(512, description="Open at once; half of the usual 1,024 files of a process.")
    header_timeout_s: PositiveFloat = Field(10.0, description="From connecting, or the last answer, to a whole header.")
    body_timeout_s: PositiveFloat = Field(30.0, description="Waiting for a body, on top of what its size allows.")
    min_body_bytes_per_s: PositiveInt = Field(32 * 1024, description="A slower body is given up.")
    send_timeout_s: PositiveFloat = Field(60.0, description="A client that reads nothing this long is cut off.")
    max_upload_bytes: PositiveInt = 4 * 1024**3
    max_uploads: PositiveInt = Field(4, description="Files received at once.")
    min_free_disk_bytes: Annotated[int, Field(ge=0)] = Field(
        1024**3, description="Kept free below data_dir: what would leave less is refused."
    )
    max_body_bytes: PositiveInt = 64 * 1024
    max_question_chars: PositiveInt = 4000
    max_wait_s: PositiveFloat = 60.0
    page_size: PositiveInt = 50
    progress_interval_s: PositiveFloat = 0.5


class Settings(Part):
    """All settings of one installation."""

    data_dir: Path = Path("data")
    archive: ArchiveSettings = ArchiveSettings()
    redis: RedisSettings = RedisSettings()
    queues: QueueSettings = QueueSettings()
    ingest: IngestSettings = IngestSettings()
    model: ModelSettings = ModelSettings()
    encoder: EncoderSettings = EncoderSettings()
    reasoner: ReasonerSettings = ReasonerSettings()
    api: ApiSettings = ApiSettings()

    @property
    def archive_url(self) -> str:
        """Where the archive is: the configured URL, or a folder beside the rest of the data."""
        return self.archive.url or str((self.data_dir / "archive").absolute())

    @property
    def redis_socket(self) -> Path:
        """The socket of the private Redis instance that `longwatch up` runs when no URL is configured."""
        return (self.data_dir / "redis" / "redis.sock").absolute()

    @property
    def redis_url(self) -> str:
        """Where Redis is: the configured URL, or the private instance's socket."""
        return self.redis.url or f"unix://{self.redis_socket}"

    @property
    def work_dir(self) -> Path:
        """Where uploads and downloads lie until they are ingested (shared by `serve` and `worker ingest`)."""
        return (self.data_dir / "incoming").absolute()

    def work_file(self, video_id: str) -> Path:
        """Where the bytes of an uploaded or downloaded video lie until it is ingested."""
        return self.work_dir / f"{video_id}.video"
