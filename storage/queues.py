"""The queues of jobs: their names, what may be asked for, and whether a job is still on its way."""

import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any

from redis import Redis
from rq import Queue, Retry
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.registry import FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from configs.settings import QueueSettings
from storage.hot import as_text, redis_errors

INGEST, ENCODE, FUSE, ANSWER = "ingest", "encode", "fuse", "answer"
QUEUES = (INGEST, ENCODE, FUSE, ANSWER)

# Job name -> its queue. A job is a name in this list, never an import path; a worker binds names to functions.
JOBS = {
    "ingest_video": INGEST,
    "encode_segment": ENCODE,
    "fuse_segment": FUSE,
    "answer_question": ANSWER,
}

FusionRequest = tuple[list[int], int]  # (token ids of the text, mask of the segment's frames)


class Queues:
    """Enqueues jobs, each at most once at a time. Raises RedisUnavailable."""

    def __init__(self, redis: Redis, settings: QueueSettings) -> None:
        self._settings = settings
        self._queues = {name: Queue(name, connection=redis, serializer=JSONSerializer) for name in QUEUES}

    def ingest(self, video_id: str) -> None:
        """Have the video fetched and sampled."""
        self._enqueue(f"ingest-{video_id}", "ingest_video", video_id)

    def encode(self, video_id: str, segment: int) -> None:
        """Have the segment's record cover every frame that is in the archive."""
        self._enqueue(encode_job_id(video_id, segment), "encode_segment", video_id, segment)

    def fuse(self, video_id: str, segment: int, requests: Sequence[FusionRequest]) -> None:
        """Have the segment's record hold these texts' fusions over these frames."""
        self._enqueue(_fuse_job_id(video_id, segment, requests), "fuse_segment", video_id, segment, list(requests))

    def withdraw(self, video_id: str, segment: int, requests: Sequence[FusionRequest]) -> None:
        """Removes the `fuse` job if it still waits; whoever else needs it asks again."""
        with redis_errors():
            self._delete(self._queues[FUSE], _fuse_job_id(video_id, segment, requests))

    def answer(self, question_id: str) -> None:
        """Have the question answered."""
        self._enqueue(f"answer-{question_id}", "answer_question", question_id)

    def is_live(self, queue_name: str, job_id: str) -> bool:
        """Whether the job waits, runs at a live worker, or failed for good a short while ago.

        Only what is true now counts: a job whose trace was lost (by a flush, or between queue and worker) is not.
        """
        queue = self._queues[queue_name]
        with redis_errors():
            if queue.get_job_position(job_id) is not None:
                return True
            if job_id in ScheduledJobRegistry(queue=queue) or job_id in FailedJobRegistry(queue=queue):
                return True
            return job_id in self._started(queue)

    def drop(self, video_id: str) -> None:
        """Removes the video's waiting jobs; a running one notices by itself that the video is gone."""
        with redis_errors():
            for queue in self._queues.values():
                for job_id in queue.job_ids:
                    if video_id in job_id:
                        self._delete(queue, job_id)

    def drop_answer(self, question_id: str) -> None:
        """Removes the question's job if it still waits."""
        with redis_errors():
            self._delete(self._queues[ANSWER], f"answer-{question_id}")

    def depths(self) -> dict[str, int]:
        """How many jobs wait in each queue."""
        with redis_errors():
            return {name: queue.count for name, queue in self._queues.items()}

    def revive(self) -> None:
        """Hands the jobs of dead workers out again, and those whose wait before a retry is over."""
        with redis_errors():
            for queue in self._queues.values():
                StartedJobRegistry(queue=queue).cleanup()
                waiting = ScheduledJobRegistry(queue=queue)
                for job_id in waiting.get_jobs_to_schedule(int(time.time())):
                    waiting.remove(job_id)
                    job = self._fetch(queue, job_id)
                    if job is not None:
                        queue.enqueue_job(job)

    def _enqueue(self, job_id: str, name: str, *args: Any) -> None:
        queue = self._queues[JOBS[name]]
        if self.is_live(queue.name, job_id):
            return
        with redis_errors():
            queue.enqueue_call(
                name,
                args=args,
                job_id=job_id,
                timeout=self._settings.job_timeout_s,
                result_ttl=0,  # results are never data: what a job makes is in the archive
                failure_ttl=self._settings.failed_retry_after_s,
                retry=Retry(max=self._settings.retries, interval=list(self._settings.retry_backoff_s)),
                description=job_id,
            )

    def _started(self, queue: Queue) -> set[str]:
        registry = StartedJobRegistry(queue=queue)
        alive = queue.connection.zrangebyscore(registry.key, time.time(), "+inf")
        return {registry.parse_job_id(as_text(entry)) for entry in alive}

    def _fetch(self, queue: Queue, job_id: str) -> Job | None:
        try:
            return Job.fetch(job_id, connection=queue.connection, serializer=JSONSerializer)
        except NoSuchJobError:
            return None

    def _delete(self, queue: Queue, job_id: str) -> None:
        job = self._fetch(queue, job_id)
        if job is not None and queue.get_job_position(job_id) is not None:
            job.delete()


def _fuse_job_id(video_id: str, segment: int, requests: Sequence[FusionRequest]) -> str:
    digest = hashlib.sha256(json.dumps(requests).encode()).hexdigest()[:16]
    return f"fuse-{video_id}-{segment}-{digest}"


def encode_job_id(video_id: str, segment: int) -> str:
    """The id of the one job that encodes this segment."""
    return f"encode-{video_id}-{segment}"
