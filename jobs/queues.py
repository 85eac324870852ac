"""Puts jobs into RQ's queues, each at most once at a time, and finds those that died with their worker."""

import json
import logging
import time
from collections.abc import Sequence
from typing import Any, cast

from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY

from jobs.names import (
    ANSWER,
    FUSE,
    JOBS,
    QUEUES,
    FusionRequest,
    answer_job_id,
    encode_job_id,
    fetch_job_id,
    fuse_job_id,
    ingest_job_id,
)
from storage.connection import as_text, redis_errors

log = logging.getLogger(__name__)

LONGEST_JOB_S = 7 * 86400  # jobs end by their own limits; RQ must not interrupt them

# In a script each, because between two commands another process may queue, take or end the same job.
_PUSH = """
if redis.call('LPOS', KEYS[1], ARGV[1]) then return 0 end
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[2], '+inf')) do
  if string.sub(entry, 1, #ARGV[1] + 1) == ARGV[1] .. ':' then return 0 end
end
redis.call('DEL', KEYS[3])
redis.call('HSET', KEYS[3], unpack(ARGV, 3))
redis.call('RPUSH', KEYS[1], ARGV[1])
return 1
"""
_TAKE_DEAD = """
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('DEL', KEYS[2])
return 1
"""
_WITHDRAW = "if redis.call('LREM', KEYS[1], 0, ARGV[1]) > 0 then redis.call('DEL', KEYS[2]) end"


class Queues:
    """Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._push_once = redis.register_script(_PUSH)
        self._take_dead = redis.register_script(_TAKE_DEAD)
        self._remove_waiting = redis.register_script(_WITHDRAW)
        self._queues = {name: Queue(name, connection=redis, serializer=JSONSerializer) for name in QUEUES}

    def fetch(self, video_id: str) -> None:
        """Have the video downloaded."""
        self._enqueue(fetch_job_id(video_id), "fetch_video", video_id)

    def ingest(self, video_id: str) -> None:
        """Have the video sampled."""
        self._enqueue(ingest_job_id(video_id), "ingest_video", video_id)

    def encode(self, video_id: str, segments: Sequence[int]) -> None:
        """Have the segments' records made."""
        live = self.list_live(JOBS["encode_segment"], [encode_job_id(video_id, segment) for segment in segments])
        for segment in segments:
            if encode_job_id(video_id, segment) not in live:
                self._enqueue(encode_job_id(video_id, segment), "encode_segment", video_id, segment)

    def fuse(self, video_id: str, requests: Sequence[FusionRequest]) -> None:
        """Have these texts fused with these frames of the video: one job, however many segments they lie in."""
        self._enqueue(fuse_job_id(video_id, requests), "fuse_question", video_id, list(requests))

    def answer(self, question_id: str) -> bool:
        """Have the question answered; False if its job waits or runs already."""
        return self._enqueue(answer_job_id(question_id), "answer_question", question_id)

    def withdraw_fuse(self, video_id: str, requests: Sequence[FusionRequest]) -> None:
        """Removes the job if it still waits; whoever else needs it asks again."""
        self._withdraw(FUSE, fuse_job_id(video_id, requests))

    def withdraw_answer(self, question_id: str) -> None:
        """Removes the question's job if it still waits."""
        self._withdraw(ANSWER, answer_job_id(question_id))

    def list_live(self, queue_name: str, job_ids: Sequence[str]) -> set[str]:
        """Which of these jobs wait or run at a live worker; one round trip.

        Only what is true now counts: a job whose trace was lost (by a flush, or between queue and worker) is not.
        """
        queue = self._queues[queue_name]
        with redis_errors(), self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.lpos(queue.key, job_id)
            pipeline.zrangebyscore(StartedJobRegistry(queue=queue).key, time.time(), "+inf")
            *places, started = pipeline.execute()
        running = {as_text(entry).rpartition(":")[0] for entry in started}
        return {job_id for job_id, place in zip(job_ids, places, strict=True) if place is not None or job_id in running}

    def take_dead(self) -> list[str]:
        """The ids of jobs whose worker fell silent; each is named once."""
        dead: list[str] = []
        with redis_errors():
            for queue in self._queues.values():
                key = StartedJobRegistry(queue=queue).key
                for entry in cast(list[bytes], self._redis.zrangebyscore(key, "-inf", time.time())):
                    job_id = as_text(entry).rpartition(":")[0]
                    if self._take_dead(keys=[key, Job.key_for(job_id)], args=[entry]):
                        dead.append(job_id)
        return dead

    def end(self, job: Job, entry: str) -> None:
        """Removes what is kept of a job that returned; if it was given away, what is there under its id is another's.

        Raises RedisError: RQ's thread, which ends it, begins anew then.
        """
        self._take_dead(keys=[job.started_job_registry.key, job.key], args=[entry])

    def put_back(self, job: Job, queue: Queue) -> None:
        """Gives a job back that was taken from the queue but not begun. Raises RedisError, as `end`."""
        with self._redis.pipeline() as pipeline:
            pipeline.lrem(queue.intermediate_queue_key, 0, job.id)
            pipeline.lpush(queue.key, job.id)
            pipeline.execute()

    def repair(self) -> None:
        """Removes queues and registers that are none of RQ's; the agenda brings back what they held."""
        with redis_errors():
            for queue in self._queues.values():
                types = {
                    queue.key: b"list",
                    queue.intermediate_queue_key: b"list",
                    StartedJobRegistry(queue=queue).key: b"zset",
                    WORKERS_BY_QUEUE_KEY % queue.name: b"set",
                    REDIS_WORKER_KEYS: b"set",
                }
                for key, kind in types.items():
                    if self._redis.type(key) not in (kind, b"none"):
                        log.error("%s in Redis is none of ours and is removed", key)
                        self._redis.delete(key)

    def count_waiting(self) -> dict[str, int]:
        """How many jobs wait in each queue."""
        with redis_errors(), self._redis.pipeline(transaction=False) as pipeline:
            for queue in self._queues.values():
                pipeline.llen(queue.key)
            return dict(zip(self._queues, pipeline.execute(), strict=True))

    def _enqueue(self, job_id: str, name: str, *args: Any) -> bool:
        queue = self._queues[JOBS[name]]
        job = queue.create_job(
            name,
            args=args,
            job_id=job_id,
            timeout=LONGEST_JOB_S,
            result_ttl=0,
            failure_ttl=0,
            description=job_id,
            status=JobStatus.QUEUED,
        )
        fields = [word for pair in job.to_dict().items() for word in pair]
        keys = [queue.key, StartedJobRegistry(queue=queue).key, job.key]
        with redis_errors():
            return bool(self._push_once(keys=keys, args=[job_id, time.time(), *fields]))

    def _withdraw(self, queue_name: str, job_id: str) -> None:
        with redis_errors():
            self._remove_waiting(keys=[self._queues[queue_name].key, Job.key_for(job_id)], args=[job_id])


def parse_arguments(data: bytes) -> tuple[str, list[Any]]:
    """(name, arguments) of a job as RQ's JSONSerializer wrote it; raises ValueError for anything else."""
    try:
        content = json.loads(data)
    except RecursionError as error:
        raise ValueError(f"a job of {len(data)} bytes that is nested too deeply") from error
    if not isinstance(content, list) or len(content) != 4:
        raise ValueError(f"a job of {len(data)} bytes that is none of ours")
    name, _, args, _ = content
    if not isinstance(name, str) or not isinstance(args, list):
        raise ValueError("a job without a name or arguments")
    return name, args
