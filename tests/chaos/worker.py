"""A real worker whose process dies in marked jobs: `python -m tests.chaos.worker KIND --config FILE`."""

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
POISON = "poison"  # kills the worker: "poison encode_segment 1" as a title, or at the start of a question
STATUS = 137  # as if the kernel had killed the process

log = logging.getLogger(__name__)


def is_poison(store: Store, name: str, args: list[Any]) -> bool:
    """Whether this job is marked. A document that cannot be read counts as unmarked: the real handler reports it."""
    try:
        if name == "answer_question":
            return store.read_question(str(args[0])).text.startswith(f"{POISON} {name}")
        title = store.read_video(str(args[0])).title or ""
    except LongwatchError:
        return False
    return title == f"{POISON} {name}" or (name == "encode_segment" and title == f"{POISON} {name} {args[1]}")


def poison_handler(store: Store, name: str, handler: Handler) -> Handler:
    """Wraps the handler so that a marked job kills the process."""

    def run(*args: Any) -> None:
        if is_poison(store, name, list(args)):
            log.error("%s%s kills this process", name, args)
            os._exit(STATUS)
        handler.run(*args)

    return handler._replace(run=run)


def run(module: ModuleType, settings: Settings) -> None:
    """Runs the module's worker with wrapped handlers."""

    def run_poisoned(
        chosen: Settings, store: Store, kind: str, pools: Any, handlers: Handlers, *model: Any, **more: Any
    ) -> None:
        wrapped = {name: poison_handler(store, name, handler) for name, handler in handlers.items() if name in JOBS}
        run_worker(chosen, store, kind, pools, wrapped, *model, **more)

    module.__dict__["run_worker"] = run_poisoned
    module.__dict__["run"](settings)


if __name__ == "__main__":
    kind, _, config = sys.argv[1:]
    run(importlib.import_module(MODULES[kind]), load_settings(config))
