"""Writes malformed values into Redis: wrong types, broken text, and jobs that name foreign code."""

import random
from pathlib import Path
from typing import Any

from redis import Redis

from jobs.names import QUEUES
from storage.connection import as_text

JUNK = b"\x80\x04\x95junk \xff{"
TRAP = "tests.chaos.garble.spring"
SPRUNG = Path("/tmp/longwatch-chaos-sprung")  # exists if a name from Redis was called
# Our values that have a format to parse. The others are bitmaps and names, for which any bytes are valid.
PARSED = (
    "lw:video:",
    "lw:question:",
    "lw:question-state:",
    "lw:worker:",
    "lw:tokens:",
    "lw:system:",
    "lw:fusion:",
    "lw:rows:",
)
ANY_TYPE = (
    *PARSED,
    "lw:sampled:", "lw:encoded:", "lw:totals:", "lw:partial:", "lw:failed:", "lw:waiting", "lw:fence:", "lw:content:",
    "lw:duplicates:", "lw:questions:", "lw:due:", "lw:videos", "lw:models", "lw:workers", "lw:model", "lw:pieces:",
    "lw:attempts:", "lw:ended:", "lw:state:ready", "lw:unreadable", "rq:queue:", "rq:wip:",
)  # fmt: skip


def spring(*_: object) -> None:
    """Must never be called."""
    SPRUNG.touch()


def garble(redis: Redis, rng: random.Random) -> str:
    """Spoils one value, and says which."""
    spoil = rng.choice((_spoil_text, _spoil_type, _spoil_type, _spoil_field, _spoil_job, _push_job))
    return spoil(redis, rng) or _spoil_type(redis, rng) or "nothing: the server is empty"


def _choose_key(redis: Redis, rng: random.Random, prefixes: tuple[str, ...]) -> str | None:
    keys: dict[str, list[str]] = {}
    for raw in redis.scan_iter(count=1000):
        key = raw.decode(errors="replace")
        prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        if prefix is not None:
            keys.setdefault(prefix, []).append(key)
    return rng.choice(keys[rng.choice(sorted(keys))]) if keys else None


def _spoil_text(redis: Redis, rng: random.Random) -> str:
    key = _choose_key(redis, rng, PARSED)
    if key is None:
        return ""
    redis.set(key, JUNK, keepttl=True)
    return f"{key} is junk"


def _spoil_type(redis: Redis, rng: random.Random) -> str:
    key = _choose_key(redis, rng, ANY_TYPE)
    if key is None:
        return ""
    was = as_text(redis.type(key))
    redis.delete(key)
    redis.hset(key, "junk", JUNK) if was != "hash" else redis.rpush(key, JUNK)
    return f"{key} is not a {was} any more"


def _spoil_field(redis: Redis, rng: random.Random) -> str:
    key = _choose_key(redis, rng, ("lw:totals:", "lw:failed:"))
    if key is None:
        return ""
    field = rng.choice(sorted(redis.hkeys(key)))
    redis.hset(key, field, JUNK)
    return f"{key} has junk in {field!r}"


def _spoil_job(redis: Redis, rng: random.Random) -> str:
    key = _choose_key(redis, rng, ("rq:job:",))
    if key is None:
        return ""
    changes: dict[str, str | bytes] = {
        "data": JUNK,
        "success_callback_name": TRAP,
        "failure_callback_name": TRAP,
        "stopped_callback_name": TRAP,
        "timeout": "junk",
        "created_at": "junk",
        "origin": "junk",
        "status": "junk",
        "meta": JUNK,
        "func_name": TRAP,
    }
    field = rng.choice(sorted(changes))
    redis.hset(key, field, changes[field])
    return f"{key} has {changes[field]!r} in {field}"


def _push_job(redis: Redis, rng: random.Random) -> str:
    """Queues a foreign job: one without a hash, or one with a name that is not ours."""
    job_id, queue = rng.choice(("junk", "encode-junk", "a" * 300)), rng.choice(QUEUES)
    if rng.random() < 0.6:
        fields: dict[Any, Any] = {
            "data": f'["{TRAP}", null, [], {{}}]',
            "created_at": "2026-11-21T00:00:00.000000Z",
            "origin": queue,
        }
        fields |= {"success_callback_name": TRAP, "status": "queued"}
        redis.hset(f"rq:job:{job_id}", mapping=fields)
    redis.rpush(f"rq:queue:{queue}", job_id)
    return f"foreign job {job_id[:12]} in {queue}"
