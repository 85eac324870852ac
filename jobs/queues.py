"""Puts jobs into RQ's queues, each at most once at a time, and finds those that died with their worker."""

import json
import logging
import time
from collections.abc import Sequence
from typing import Any

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

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


class Queues:
    """Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
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
                self._push(encode_job_id(video_id, segment), "encode_segment", video_id, segment)

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
                for entry in map(as_text, self._redis.zrangebyscore(key, "-inf", time.time())):
                    if self._redis.zrem(key, entry):
                        job_id = entry.rpartition(":")[0]
                        self._redis.delete(Job.key_for(job_id))
                        dead.append(job_id)
        return dead

    def _enqueue(self, job_id: str, name: str, *args: Any) -> bool:
        if self.list_live(JOBS[name], [job_id]):
            return False
        self._push(job_id, name, *args)
        return True

    def _push(self, job_id: str, name: str, *args: Any) -> None:
        queue = self._queues[JOBS[name]]
        with redis_errors():
            queue.enqueue_call(
                name, args=args, job_id=job_id, timeout=LONGEST_JOB_S, result_ttl=0, failure_ttl=0, description=job_id
            )

    def _withdraw(self, queue_name: str, job_id: str) -> None:
        with redis_errors():
            if self._redis.lrem(self._queues[queue_name].key, 1, job_id):
                self._redis.delete(Job.key_for(job_id))


def parse_arguments(data: bytes) -> tuple[str, list[Any]]:
    """(name, arguments) of a job as RQ's JSONSerializer wrote it; raises ValueError for anything else."""
    content = json.loads(data)
    if not isinstance(content, list) or len(content) != 4:
        raise ValueError(f"a job of {len(data)} bytes that is none of ours")
    name, _, args, _ = content
    if not isinstance(name, str) or not isinstance(args, list):
        raise ValueError("a job without a name or arguments")
    return name, args
