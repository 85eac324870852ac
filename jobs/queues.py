"""Puts jobs into RQ's queues, each at most once at a time, and finds the jobs of dead workers."""

import json
import logging
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

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
    deliver_job_id,
    encode_job_id,
    fetch_job_id,
    fuse_job_id,
    ingest_job_id,
    trial_job_id,
    watch_job_id,
)
from storage.connection import as_text, redis_errors

log = logging.getLogger(__name__)

LONGEST_JOB_S = 7 * 86400  # jobs end by their own limits; RQ must not interrupt them

# Each step is one script, because another process may queue, take or end the same job between two commands. Only Redis'
# clock decides whether a worker is still alive: the clocks of two hosts can differ.
_PUSH = """
if redis.call('LPOS', KEYS[1], ARGV[1]) then return 0 end
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], redis.call('TIME')[1], '+inf')) do
  if string.sub(entry, 1, #ARGV[1] + 1) == ARGV[1] .. ':' then return 0 end
end
redis.call('DEL', KEYS[3])
redis.call('HSET', KEYS[3], unpack(ARGV, 3))
redis.call('EXPIRE', KEYS[3], ARGV[2])
redis.call('RPUSH', KEYS[1], ARGV[1])
return 1
"""
# Moves a job from "on its way to a worker" to "running". It counts as running until its worker is silent too long.
_BEGIN = """
redis.call('LREM', KEYS[1], 0, ARGV[1])
redis.call('ZADD', KEYS[2], redis.call('TIME')[1] + ARGV[3], ARGV[2])
"""
_BEAT = "redis.call('ZADD', KEYS[1], 'XX', redis.call('TIME')[1] + ARGV[2], ARGV[1])"
_FIND_DEAD = """
local found = {}
for at, key in ipairs(KEYS) do found[at] = redis.call('ZRANGEBYSCORE', key, '-inf', '(' .. redis.call('TIME')[1]) end
return found
"""
_TAKE_DEAD = """
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return 0 end
if not redis.call('LPOS', KEYS[3], ARGV[2]) then redis.call('DEL', KEYS[2]) end
return 1
"""
# Removes a lost job's id, and its hash too unless the job waits or runs.
_DROP_LOST = """
redis.call('LREM', KEYS[1], 0, ARGV[1])
if redis.call('LPOS', KEYS[2], ARGV[1]) then return end
for _, entry in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  if string.sub(entry, 1, #ARGV[1] + 1) == ARGV[1] .. ':' then return end
end
redis.call('DEL', KEYS[4])
"""
_WITHDRAW = "if redis.call('LREM', KEYS[1], 0, ARGV[1]) > 0 then redis.call('DEL', KEYS[2]) end"
# Returns the places in ARGV of the jobs that wait in the queue KEYS[1] or run (registry KEYS[2]). A few jobs are looked
# up one at a time; for many, the queue is read once.
_LIVE = """
local running, waiting, found = {}, nil, {}
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], redis.call('TIME')[1], '+inf')) do
  running[string.match(entry, '^(.*):[^:]*$') or entry] = true
end
if #ARGV > 64 then
  waiting = {}
  for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do waiting[id] = true end
end
for at = 1, #ARGV do
  local id = ARGV[at]
  local waits
  if waiting then waits = waiting[id] else waits = redis.call('LPOS', KEYS[1], id) end
  if running[id] or waits then found[#found + 1] = at - 1 end
end
return found
"""


class Call(NamedTuple):
    """A job as it is put into its queue."""

    id: str
    name: str
    args: tuple[Any, ...]


def fetch_call(video_id: str) -> Call:
    """Returns the job that downloads the video."""
    return Call(fetch_job_id(video_id), "fetch_video", (video_id,))


def ingest_call(video_id: str) -> Call:
    """Returns the job that samples the video."""
    return Call(ingest_job_id(video_id), "ingest_video", (video_id,))


def encode_call(video_id: str, segment: int) -> Call:
    """Returns the job that encodes the segment and writes its record."""
    return Call(encode_job_id(video_id, segment), "encode_segment", (video_id, segment))


def deliver_call(stream_id: str, watch_id: str) -> Call:
    """Returns the job that posts the watch's events that are due to its webhook."""
    return Call(deliver_job_id(stream_id, watch_id), "deliver_events", (stream_id, watch_id))


def watch_call(stream_id: str) -> Call:
    """Returns the job that evaluates the stream's watches."""
    return Call(watch_job_id(stream_id), "evaluate_watches", (stream_id,))


def trial_call(stream_id: str, trial_id: str) -> Call:
    """Returns the job that tries a watch on the past."""
    return Call(trial_job_id(trial_id), "try_watch", (stream_id, trial_id))


class Queues:
    """The queues of all jobs. Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._push_once = redis.register_script(_PUSH)
        self._begin = redis.register_script(_BEGIN)
        self._beat = redis.register_script(_BEAT)
        self._find_dead = redis.register_script(_FIND_DEAD)
        self._take_dead = redis.register_script(_TAKE_DEAD)
        self._remove_waiting = redis.register_script(_WITHDRAW)
        self._live = redis.register_script(_LIVE)
        self._drop_lost = redis.register_script(_DROP_LOST)
        self._between: set[tuple[str, bytes]] = set()  # (queue, job id) seen between queue and worker at the last look
        self._queues = {name: Queue(name, connection=redis, serializer=JSONSerializer) for name in QUEUES}

    def ensure(self, calls: Sequence[Call]) -> list[Call]:
        """Puts the jobs that neither wait nor run into their queues; returns the jobs it put there.

        It sends about two commands per queue, however many jobs there are.
        """
        put: list[Call] = []
        for queue_name in dict.fromkeys(JOBS[call.name] for call in calls):
            wanted = [call for call in calls if JOBS[call.name] == queue_name]
            live = self.list_live(queue_name, [call.id for call in wanted])
            put += self._push([call for call in wanted if call.id not in live])
        return put

    def enqueue_answer(self, question_id: str) -> bool:
        """Queues the answer job; returns False if it already waits or runs."""
        return bool(self.ensure([Call(answer_job_id(question_id), "answer_question", (question_id,))]))

    def enqueue_fusions(self, video_id: str, requests: Sequence[FusionRequest]) -> None:
        """Queues one job that fuses these texts with these frames, however many segments they span.

        The caller has checked that the job neither waits nor runs.
        """
        self._push([Call(fuse_job_id(video_id, requests), "fuse_question", (video_id, list(requests)))])

    def withdraw_fuse(self, video_id: str, requests: Sequence[FusionRequest]) -> None:
        """Removes the job if it still waits. Another process that needs it requests it again."""
        self._withdraw(FUSE, fuse_job_id(video_id, requests))

    def withdraw_answer(self, question_id: str) -> None:
        """Removes the question's answer job if it still waits."""
        self._withdraw(ANSWER, answer_job_id(question_id))

    def count_waiting(self, queue_name: str) -> int:
        """How many jobs wait in the queue."""
        with redis_errors():
            return int(self._queues[queue_name].count)

    def list_live(self, queue_name: str, job_ids: Sequence[str]) -> set[str]:
        """Returns those of these jobs that wait or run on a live worker; one command.

        A job that was lost, by a flush or between queue and worker, is not live.
        """
        if not job_ids:
            return set()
        queue = self._queues[queue_name]
        with redis_errors():
            places = self._live(keys=[queue.key, StartedJobRegistry(queue=queue).key], args=list(job_ids))
        return {job_ids[place] for place in places}

    def take_dead(self) -> list[str]:
        """Returns and forgets the ids of jobs whose worker fell silent, so each id is returned once."""
        dead: list[str] = []
        keys = [(StartedJobRegistry(queue=queue).key, queue.key) for queue in self._queues.values()]
        with redis_errors():
            found = self._find_dead(keys=[key for key, _ in keys])
            for (key, queue_key), silent in zip(keys, found, strict=True):
                for entry in cast(list[bytes], silent):
                    job_id = as_text(entry).rpartition(":")[0]
                    if self._take_dead(keys=[key, Job.key_for(job_id), queue_key], args=[entry, job_id]):
                        dead.append(job_id)
        return dead

    def drop_lost(self) -> list[str]:
        """Removes what RQ stores about jobs whose worker died between taking and beginning them; returns their ids.

        An id is on its way for milliseconds, so an id seen at two looks is lost.
        """
        with redis_errors(), self._redis.pipeline(transaction=False) as pipeline:
            for queue in self._queues.values():
                pipeline.lrange(queue.intermediate_queue_key, 0, -1)
            seen = {
                (name, job_id) for name, ids in zip(self._queues, pipeline.execute(), strict=True) for job_id in ids
            }
            lost = seen & self._between
            for name, job_id in lost:
                queue = self._queues[name]
                registry = StartedJobRegistry(queue=queue).key
                keys = [queue.intermediate_queue_key, queue.key, registry, Job.key_for(as_text(job_id))]
                self._drop_lost(keys=keys, args=[job_id])
        self._between = seen
        return [as_text(job_id) for _, job_id in lost]

    def begin(self, job: Job, queue: Queue, alive_s: int) -> str:
        """Records that a job taken from its queue runs. The record expires after `alive_s` seconds without `beat`.

        Returns the job's entry, for `beat` and `end`. All three raise RedisError, after which RQ's thread restarts.
        """
        entry = f"{job.id}:{secrets.token_hex(8)}"
        keys = [queue.intermediate_queue_key, job.started_job_registry.key]
        self._begin(keys=keys, args=[job.id, entry, alive_s])
        return entry

    def beat(self, job: Job, entry: str, alive_s: int) -> None:
        """Records that the job's worker is alive; does nothing if another worker has the job."""
        self._beat(keys=[job.started_job_registry.key], args=[entry, alive_s])

    def end(self, job: Job, entry: str) -> None:
        """Removes what Redis holds about a job that returned, unless another worker has the job by now."""
        keys = [job.started_job_registry.key, job.key, f"{Queue.redis_queue_namespace_prefix}{job.origin}"]
        self._take_dead(keys=keys, args=[entry, job.id])

    def put_back(self, job: Job, queue: Queue) -> None:
        """Returns a job that was taken but not begun to the front of its queue. Raises RedisError, like `end`."""
        with self._redis.pipeline() as pipeline:
            pipeline.lrem(queue.intermediate_queue_key, 0, job.id)
            pipeline.lpush(queue.key, job.id)
            pipeline.execute()

    def repair(self) -> None:
        """Removes queues and registries of the wrong type; the agenda brings back the jobs they held."""
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
                        log.error("%s in Redis has the wrong type and is removed", key)
                        self._redis.delete(key)

    def _push(self, calls: Sequence[Call]) -> list[Call]:
        """Puts the jobs into their queues; returns those that no other process had queued meanwhile."""
        if not calls:
            return []
        with redis_errors(), self._redis.pipeline(transaction=False) as pipeline:
            for call in calls:
                queue = self._queues[JOBS[call.name]]
                job = queue.create_job(
                    call.name,
                    args=call.args,
                    job_id=call.id,
                    timeout=LONGEST_JOB_S,
                    result_ttl=0,
                    failure_ttl=0,
                    description=call.id,
                    status=JobStatus.QUEUED,
                )
                fields = [word for pair in job.to_dict().items() for word in pair]
                keys = [queue.key, StartedJobRegistry(queue=queue).key, job.key]
                self._push_once(keys=keys, args=[call.id, LONGEST_JOB_S, *fields], client=pipeline)
            return [call for call, put in zip(calls, pipeline.execute(), strict=True) if put]

    def _withdraw(self, queue_name: str, job_id: str) -> None:
        with redis_errors():
            self._remove_waiting(keys=[self._queues[queue_name].key, Job.key_for(job_id)], args=[job_id])


def parse_arguments(data: bytes) -> tuple[str, list[Any]]:
    """Parses (name, arguments) of a job that RQ's JSONSerializer wrote; raises ValueError for anything else."""
    try:
        content = json.loads(data)
    except RecursionError as error:
        raise ValueError(f"its {len(data)} bytes are nested too deeply") from error
    if not isinstance(content, list) or len(content) != 4:
        raise ValueError(f"its {len(data)} bytes were not written by Longwatch")
    name, _, args, _ = content
    if not isinstance(name, str) or not isinstance(args, list):
        raise ValueError("it has no name or no arguments")
    return name, args
