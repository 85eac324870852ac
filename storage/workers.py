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

FINGERPRINT = re.compile(r"\w*", re.ASCII)  # not only hexadecimal: tests use names

ALIVE = "lw:workers"  # set of names; whose entry has expired by Redis' clock is dead
ADOPTED = "lw:model:adopted"
MODEL = "lw:model"  # the fingerprint whose progress is shown: that of the worker started last


@dataclass(frozen=True)
class Worker:
    """A live worker process."""

    name: str
    kind: str  # ingest, encode, reason
    host: str
    pid: int
    queues: tuple[str, ...]
    fingerprint: str | None = None
    max_frames: int | None = None  # of a reasoner: how many its model can be asked about at once
    trouble: str | None = None  # the surroundings' fault that its jobs wait for


class Workers:
    """Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def announce(self, worker: Worker, alive_s: float) -> None:
        """Says that the worker lives, for `alive_s` seconds."""
        try:
            self._announce(worker, alive_s)
        except DamagedState as error:
            log.error("the list of workers is removed, each of them announces itself anew: %s", error)
            with redis_errors():
                self._redis.delete(ALIVE)
            self._announce(worker, alive_s)

    def _announce(self, worker: Worker, alive_s: float) -> None:
        with redis_errors(), self._redis.pipeline() as pipeline:
            pipeline.sadd(ALIVE, worker.name)
            pipeline.set(_worker_key(worker.name), json.dumps(asdict(worker)), ex=max(int(alive_s), 1))
            if worker.fingerprint is not None:
                pipeline.set(MODEL, worker.fingerprint, nx=True)  # a flush forgets it
            pipeline.execute()

    def announce_model(self, fingerprint: str) -> None:
        """A worker has started with this model: its progress is what counts from now on."""
        with redis_errors():
            self._redis.set(MODEL, fingerprint)

    def withdraw(self, name: str) -> None:
        """The worker has stopped."""
        with redis_errors():
            self._redis.srem(ALIVE, name)
            self._redis.delete(_worker_key(name))

    def list_alive(self) -> list[Worker]:
        """All live workers; cost: what it answers."""
        with redis_errors():
            names = sorted(map(as_text, self._redis.smembers(ALIVE)))
            found = mget(self._redis, [_worker_key(name) for name in names]) if names else []
            dead = [name for name, blob in zip(names, found, strict=True) if blob is None]
            if dead:
                self._redis.srem(ALIVE, *dead)  # one that lives after all adds itself with its next beat
        return [worker for blob in found if blob and (worker := _parse(blob))]

    def read_max_frames(self) -> int | None:
        """How many frames a question can be about; None if no live reasoner says."""
        return max((worker.max_frames for worker in self.list_alive() if worker.max_frames is not None), default=None)

    def count_by_queue(self) -> Counter[str]:
        """How many live workers listen to each queue."""
        return Counter(queue for worker in self.list_alive() for queue in worker.queues)

    def read_model(self) -> str:
        """The fingerprint of the model whose progress counts; empty before any worker with a model has come up."""
        with redis_errors():
            (raw,) = mget(self._redis, [MODEL])  # MGET takes a value of another type for none
        model = as_text(raw) if raw else ""
        if not FINGERPRINT.fullmatch(model):
            log.error("the model in Redis is none of ours and is removed: %r", model)
            with redis_errors():
                self._redis.delete(MODEL)  # the next heart that beats names its own
            return ""
        return model

    def read_adopted(self) -> str:
        """The model that every video was last made due for."""
        with redis_errors():
            (raw,) = mget(self._redis, [ADOPTED])
        return as_text(raw) if raw else ""

    def set_adopted(self, fingerprint: str) -> None:
        """Every video is due for this model, or was."""
        with redis_errors():
            self._redis.set(ADOPTED, fingerprint)


_ENTRY = TypeAdapter(Worker)


def _parse(blob: bytes) -> Worker | None:
    try:
        return _ENTRY.validate_json(blob)
    except ValueError as error:
        log.error("a worker's entry in Redis is damaged and is passed over: %s", error)
        return None


def _worker_key(name: str) -> str:
    return f"lw:worker:{name}"


def list_fingerprints(workers: Sequence[Worker]) -> list[str]:
    """The models that are alive, each once."""
    return sorted({worker.fingerprint for worker in workers if worker.fingerprint})
