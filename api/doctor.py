"""`longwatch doctor`: looks at every part that this installation needs, and says what to do."""

import importlib.util
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from api.redis_server import find_server
from configs.places import HUB
from configs.settings import Settings
from storage.errors import LongwatchError
from storage.files import Files
from storage.hot import Hot, connect
from storage.urls import redact

log = logging.getLogger(__name__)

TORCH_SEES_CUDA = "import torch; print(torch.cuda.is_available())"  # apart: the API's process never loads torch
CHECKPOINT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Finding:
    """One part: whether it works, and what to know or do."""

    part: str
    fine: bool
    words: str
    needed: bool = True  # whether the service cannot do without


def examine(settings: Settings) -> Iterator[Finding]:
    """Findings, the essential ones first."""
    yield _redis(settings)
    yield _attempt("archive", lambda: _archive(settings))
    yield _checkpoint(settings)
    yield _gpu(settings)
    yield _attention(settings)
    yield _workers(settings)


def _attempt(part: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(part, True, check())
    except LongwatchError as error:
        return Finding(part, False, str(error))


def _redis(settings: Settings) -> Finding:
    if settings.redis.url or settings.redis_socket.exists():
        return _attempt("redis", lambda: _ping(settings))
    return _attempt("redis", lambda: f"`longwatch up` will run {find_server()}")


def _ping(settings: Settings) -> str:
    Hot(connect(settings.redis_url, settings.redis), settings.redis).check()
    return f"answers at {redact(settings.redis_url)}"


def _archive(settings: Settings) -> str:
    Files(settings.archive_url).check()
    return f"can be written: {settings.archive_url}"


def _checkpoint(settings: Settings) -> Finding:
    name = settings.model.checkpoint
    if name.startswith(HUB):
        return Finding("checkpoint", True, f"{name} will be taken from the hub when a worker starts")
    folder = Path(name)
    if not folder.is_dir():
        return Finding("checkpoint", False, f"there is no folder {name}; correct model.checkpoint")
    missing = [file for file in CHECKPOINT_FILES if not (folder / file).is_file()]
    if not list(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        return Finding("checkpoint", False, f"{name} lacks {', '.join(missing)}")
    return Finding("checkpoint", True, f"{name} is whole")


def _gpu(settings: Settings) -> Finding:
    wanted = settings.model.device.startswith("cuda")
    cards = "; ".join(_said("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader").splitlines())
    if not wanted:
        return Finding("gpu", True, cards or "none: the model runs on the CPU", needed=False)
    if not cards:
        words = f"model.device is {settings.model.device}, but nvidia-smi finds no card; install it, or set auto"
        return Finding("gpu", False, words)
    if _said(sys.executable, "-P", "-c", TORCH_SEES_CUDA) != "True":
        return Finding("gpu", False, f"{cards}, but this PyTorch cannot use it: install its CUDA build (`gpu` extra)")
    return Finding("gpu", True, cards)


def _said(*line: str) -> str:
    """What another program prints; nothing where it is not there or fails."""
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603 - no shell
    except (OSError, subprocess.SubprocessError) as error:
        log.info("%s: %s", line[0], error)
        return ""
    return done.stdout.strip()


def _attention(settings: Settings) -> Finding:
    installed = importlib.util.find_spec("flash_attn") is not None
    wanted = settings.model.attention == "flash_attention_2"
    words = "flash-attn is installed" if installed else "PyTorch's own (the `gpu` extra brings flash-attn)"
    return Finding("attention", installed or not wanted, words, needed=wanted)


def _workers(settings: Settings) -> Finding:
    try:
        workers = Hot(connect(settings.redis_url, settings.redis), settings.redis).workers()
    except LongwatchError:
        return Finding("workers", False, "not known without Redis", needed=False)
    words = ", ".join(f"{queue}: {count}" for queue, count in sorted(workers.items()))
    return Finding("workers", bool(workers), words or "none alive: `longwatch up` starts them", needed=False)
