"""Which worker processes are alive, and which models they run."""

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter
from redis import Redis

from storage.connection import as_text, mget, redis_errors
from storage.errors import DamagedState

log = logging.getLogger(__name__)

FINGERPRINT = re.compile(r"[0-9a-f]*")

ALIVE = "lw:workers"  # set of names; a worker is alive until its own key expires
ADOPTED = "lw:model:adopted"
MODEL = "lw:model"  # the fingerprint whose progress is shown: that of the worker that started last


@dataclass(frozen=True)
class Worker:
    """A live worker process."""

    name: str
    kind: str  # ingest, encode, reason
    host: str
    pid: int
    queues: tuple[str, ...]
    fingerprint: str | None = None
    max_frames: int | None = None  # reasoners only: how many frames a question can be about
    trouble: str | None = None  # the failure of archive, Redis or disk that its jobs wait for


class Workers:
    """Workers as they announce themselves. Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def announce(self, worker: Worker, alive_s: float) -> None:
        """Notes that the worker is alive, for `alive_s` seconds."""
        try:
            self._announce(worker, alive_s)
        except DamagedState as error:
            log.error("removing the list of workers, each announces itself again: %s", error)
            with redis_errors():
                self._redis.delete(ALIVE)
            self._announce(worker, alive_s)

    def _announce(self, worker: Worker, alive_s: float) -> None:
        with redis_errors(), self._redis.pipeline() as pipeline:
            pipeline.sadd(ALIVE, worker.name)
            pipeline.set(_worker_key(worker.name), json.dumps(asdict(worker)), ex=max(int(alive_s), 1))
            if worker.fingerprint is not None:
                pipeline.set(MODEL, worker.fingerprint, nx=True)  # a flush removes it
            pipeline.execute()

    def announce_model(self, fingerprint: str) -> None:
        """Notes that a worker started with this model: from now on its progress is shown."""
        with redis_errors():
            self._redis.set(MODEL, fingerprint)

    def withdraw(self, name: str) -> None:
        """Removes a worker that has stopped."""
        with redis_errors():
            self._redis.srem(ALIVE, name)
            self._redis.delete(_worker_key(name))

    def list_alive(self) -> list[Worker]:
        """All live workers."""
        with redis_errors():
            names = sorted(map(as_text, self._redis.smembers(ALIVE)))
            found = mget(self._redis, [_worker_key(name) for name in names]) if names else []
            dead = [name for name, blob in zip(names, found, strict=True) if blob is None]
            if dead:
                self._redis.srem(ALIVE, *dead)  # a live one's next beat adds it again
        return [worker for blob in found if blob and (worker := _parse(blob))]

    def read_max_frames(self) -> int | None:
        """How many frames a question can be about; None if no live reasoner says."""
        return max((worker.max_frames for worker in self.list_alive() if worker.max_frames is not None), default=None)

    def count_by_queue(self) -> Counter[str]:
        """How many live workers listen to each queue."""
        return Counter(queue for worker in self.list_alive() for queue in worker.queues)

    def read_model(self) -> str:
        """The fingerprint of the model whose progress is shown; empty until a worker with a model has started."""
        with redis_errors():
            (raw,) = mget(self._redis, [MODEL])  # MGET answers nil for a value of another type
        model = as_text(raw) if raw else ""
        if not FINGERPRINT.fullmatch(model):
            log.error("removing a model from Redis that is not a fingerprint: %r", model)
            with redis_errors():
                self._redis.delete(MODEL)  # the next worker's heartbeat sets it again
            return ""
        return model

    def read_adopted(self) -> str:
        """The model that every video was last made due for."""
        with redis_errors():
            (raw,) = mget(self._redis, [ADOPTED])
        return as_text(raw) if raw else ""

    def set_adopted(self, fingerprint: str) -> None:
        """Notes that every video was made due for this model."""
        with redis_errors():
            self._redis.set(ADOPTED, fingerprint)


_ENTRY = TypeAdapter(Worker)


def _parse(blob: bytes) -> Worker | None:
    try:
        return _ENTRY.validate_json(blob)
    except ValueError as error:
        log.error("ignoring a damaged entry of a worker in Redis: %s", error)
        return None


def _worker_key(name: str) -> str:
    return f"lw:worker:{name}"


def list_fingerprints(workers: Sequence[Worker]) -> list[str]:
    """The models of these workers, each once."""
    return sorted({worker.fingerprint for worker in workers if worker.fingerprint})
