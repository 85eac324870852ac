"""A real worker whose process dies at marked jobs: `python -m tests.chaos.worker KIND --config FILE`."""

import importlib
import logging
import os
import sys
from types import ModuleType
from typing import Any

from configs.loading import load_settings
from configs.settings import Settings
from jobs.names import JOBS
from jobs.runner import Handler, Handlers
from jobs.worker import run_worker
from storage.errors import LongwatchError
from storage.store import Store

MODULES = {"ingest": "ingest.__main__", "encode": "encoder_worker.__main__", "reason": "reasoner.__main__"}
POISON = "poison"  # "poison encode_segment 1" as a title, or at the beginning of a question: what kills its worker
STATUS = 137  # as of a process that the kernel killed

log = logging.getLogger(__name__)


def is_poison(store: Store, name: str, args: list[Any]) -> bool:
    """Whether this job is marked. What cannot be read now is not: the real handler says so itself."""
    try:
        if name == "answer_question":
            return store.read_question(str(args[0])).text.startswith(f"{POISON} {name}")
        title = store.read_video(str(args[0])).title or ""
    except LongwatchError:
        return False
    return title == f"{POISON} {name}" or (name == "encode_segment" and title == f"{POISON} {name} {args[1]}")


def poisoned(store: Store, name: str, handler: Handler) -> Handler:
    """The handler, but for marked jobs."""

    def run(*args: Any) -> None:
        if is_poison(store, name, list(args)):
            log.error("%s%s kills this process", name, args)
            os._exit(STATUS)
        handler.run(*args)

    return handler._replace(run=run)


def run(module: ModuleType, settings: Settings) -> None:
    """The worker of the module, its handlers wrapped on their way to `run_worker`."""

    def run_poisoned(
        chosen: Settings, store: Store, kind: str, pools: Any, handlers: Handlers, fingerprint: str | None = None
    ) -> None:
        wrapped = {name: poisoned(store, name, handler) for name, handler in handlers.items() if name in JOBS}
        run_worker(chosen, store, kind, pools, wrapped, fingerprint)

    module.__dict__["run_worker"] = run_poisoned
    module.__dict__["run"](settings)


if __name__ == "__main__":
    kind, _, config = sys.argv[1:]
    run(importlib.import_module(MODULES[kind]), load_settings(config))
