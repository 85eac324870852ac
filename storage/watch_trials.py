"""Results of trying a watch on the past: kept in the cache for an hour, readable while the trial runs."""

import logging
import secrets
from datetime import datetime
from typing import Literal

from pydantic import Field, ValidationError
from redis import Redis

from storage.connection import redis_errors
from storage.documents import Document, Problem
from storage.errors import NotFound

log = logging.getLogger(__name__)

KNOWN_S = 3600


class TrialEvaluation(Document):
    """What a watch would have answered at the end of one interval, and the type of the event it would have sent."""

    at: datetime
    answer: str
    probability: float
    event: Literal["match", "answer"] | None = Field(None, description="Empty: it would have sent nothing.")


class WatchTrial(Document):
    """A watch tried over a past stretch."""

    id: str
    watch_id: str
    status: Literal["queued", "running", "done", "failed"] = "queued"
    first_interval: int
    last_interval: int
    evaluations: tuple[TrialEvaluation, ...] = Field((), description="In order; intervals without frames are left out.")
    problem: Problem | None = None

    @property
    def settled(self) -> bool:
        """Whether it has ended."""
        return self.status in ("done", "failed")


class WatchTrials:
    """Writes and reads trials. Raises RedisUnavailable."""

    def __init__(self, cache: Redis) -> None:
        self._cache = cache

    def write(self, trial: WatchTrial) -> None:
        """Stores the trial's present state."""
        with redis_errors("cache"):
            self._cache.set(_trial_key(trial.id), trial.model_dump_json(), ex=KNOWN_S)

    def read(self, trial_id: str) -> WatchTrial:
        """The trial as it is now; raises NotFound."""
        with redis_errors("cache"):
            blob = self._cache.get(_trial_key(trial_id))
        try:
            if isinstance(blob, bytes):
                return WatchTrial.model_validate_json(blob)
        except ValidationError as error:
            log.error("a damaged trial of a watch is forgotten: %s", error)
        raise NotFound(f"no test {trial_id}: results are kept for an hour")


def new_trial_id() -> str:
    """A fresh id."""
    return secrets.token_hex(12)


def _trial_key(trial_id: str) -> str:
    return f"lw:watch-trial:{trial_id}"
