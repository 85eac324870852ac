"""`longwatch doctor`: looks at every part that this installation needs, and says what to do."""

import importlib.util
import logging
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cli.redis_server import ROLES, Role, find_server, find_socket, find_url
from configs.settings import Settings
from configs.shadowing import find_shadowed
from storage.errors import LongwatchError
from storage.files import Files
from storage.hot import Hot, connect
from storage.urls import redact

log = logging.getLogger(__name__)

TORCH_SEES_CUDA = "import torch; print(torch.cuda.is_available())"  # apart: this process never loads torch
CHECKPOINT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
WORKERS = {"ingest": "ingest", "encode": "encode", "answer": "reason"}  # queue -> `longwatch worker ...`


@dataclass(frozen=True)
class Finding:
    """One part: whether it works, and what to know or do."""

    part: str
    fine: bool
    words: str
    needed: bool = True  # whether the service cannot do without


def examine(settings: Settings) -> Iterator[Finding]:
    """Findings, the essential ones first."""
    for role in ROLES:
        yield _attempt(role, lambda role=role: _redis(settings, role))  # type: ignore[misc]
    yield _attempt("archive", lambda: _archive(settings))
    yield _checkpoint(settings)
    yield from _workers(settings)
    yield _packages()
    yield _privacy(settings)
    yield _gpu(settings)
    yield _attention(settings)


def _attempt(part: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(part, True, check())
    except LongwatchError as error:
        return Finding(part, False, str(error))


def _redis(settings: Settings, role: Role) -> str:
    if not find_url(settings, role) and not find_socket(settings, role).exists():
        return f"`longwatch up` will run {find_server()}"
    url = settings.state_url if role == "state" else settings.cache_url
    Hot(connect(url, settings.redis), settings.redis).check()
    return f"answers at {redact(url)}"


def _archive(settings: Settings) -> str:
    Files(settings.archive_url).check()
    return f"can be written: {settings.archive_url}"


def _checkpoint(settings: Settings) -> Finding:
    name = settings.model.checkpoint
    folder = Path(name)
    if not folder.is_dir():
        if name.count("/") == 1 and not folder.is_absolute() and not folder.parent.is_dir():
            return Finding("checkpoint", True, f"{name} will be taken from the hub when a worker starts")
        return Finding("checkpoint", False, f"there is no folder {name}; correct model.checkpoint")
    missing = [file for file in CHECKPOINT_FILES if not (folder / file).is_file()]
    if not list(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        return Finding("checkpoint", False, f"{name} lacks {', '.join(missing)}")
    return Finding("checkpoint", True, f"{name} is whole")


def _workers(settings: Settings) -> Iterator[Finding]:
    """Each kind is needed: without it something would wait for ever."""
    try:
        alive = Hot(connect(settings.state_url, settings.redis), settings.redis).workers()
    except LongwatchError:
        yield Finding("workers", False, "not known while the state does not answer")
        return
    for queue, kind in WORKERS.items():
        count = alive.get(queue, 0)
        words = f"{count} alive" if count else f"none alive: start `longwatch worker {kind}`, or `longwatch up`"
        yield Finding(f"{kind} worker", bool(count), words)


def _packages() -> Finding:
    shadowed = find_shadowed()
    if not shadowed:
        return Finding("packages", True, "no other package has a name of ours", needed=False)
    words = (
        f"another package is found instead of ours: {', '.join(shadowed)}; install Longwatch into its own environment"
    )
    return Finding("packages", False, words)


def _privacy(settings: Settings) -> Finding:
    """Whether other users of this machine can look into the data folder: it holds addresses with passwords."""
    folder = settings.data_dir.absolute()
    try:
        mode = stat.S_IMODE(folder.stat().st_mode)
    except FileNotFoundError:
        return Finding("data_dir", True, f"`longwatch up` will make {folder}, for you alone", needed=False)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding("data_dir", False, f"other users can look into {folder}: chmod 700 {folder}", needed=False)
    return Finding("data_dir", True, f"{folder} is yours alone", needed=False)


def _gpu(settings: Settings) -> Finding:
    wanted = settings.model.device.startswith("cuda")
    cards = "; ".join(_said("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader").splitlines())
    if not wanted:
        return Finding("gpu", True, cards or "none: the model runs on the CPU", needed=False)
    if not cards:
        words = f"model.device is {settings.model.device}, but nvidia-smi finds no card; install it, or set auto"
        return Finding("gpu", False, words)
    if _said(sys.executable, "-c", TORCH_SEES_CUDA) != "True":
        return Finding("gpu", False, f"{cards}, but this PyTorch cannot use it: install its CUDA build (`gpu` extra)")
    return Finding("gpu", True, cards)


def _said(*line: str) -> str:
    """What another program prints; nothing if it is not there or fails."""
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
