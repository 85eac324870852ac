"""`longwatch doctor`: checks every part that this installation needs, and says what to do."""

import importlib.util
import logging
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cli.redis_server import find_server, find_socket, find_url
from configs.places import HUB
from configs.privacy import keep_files_private
from configs.settings import Settings
from configs.shadowing import find_shadowed
from storage.archive import Archive
from storage.connection import Role, redis_errors, same_server
from storage.errors import DamagedFile, LongwatchError, NewerDocument, NotFound
from storage.store import Store
from storage.urls import redact
from storage.workers import list_fingerprints

log = logging.getLogger(__name__)

TORCH_SEES_CUDA = "import torch; print(torch.cuda.is_available())"  # in a separate process: this one never loads torch
CHECKPOINT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
WORKER_KINDS = ("ingest", "encode", "reason")
MOST_CLOCKS_APART_S = 5.0
MAX_NAMED = 10  # damaged documents, at most


class ClocksApart(LongwatchError):
    """This host's clock differs from Redis'. Hosts date videos and retries by their own clocks."""

    code = "clocks-apart"


@dataclass(frozen=True)
class Finding:
    """One part: whether it works, and what to know or do."""

    part: str
    fine: bool
    words: str
    needed: bool = True  # whether the service cannot work without it


def examine(settings: Settings) -> Iterator[Finding]:
    """Findings, the essential ones first. Raises SettingsError if the data folder cannot be created."""
    keep_files_private(settings.data_dir)  # before the check of the archive, which writes to it
    store = Store.open(settings)
    yield _run_check("state", lambda: _check_state(settings, store))
    yield _run_check("cache", lambda: _check_cache(settings, store))
    yield from _check_roles(settings, store)
    yield _run_check("archive", lambda: _check_archive(settings, store))
    yield from _check_documents(store.archive)
    yield _check_checkpoint(settings)
    yield from _check_workers(settings, store)
    yield from _check_packages()
    yield _check_privacy(settings)
    yield _check_gpu(settings)
    yield _check_attention(settings)


def _run_check(part: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(part, True, check())
    except LongwatchError as error:
        return Finding(part, False, str(error))


def _is_down(settings: Settings, role: Role) -> bool:
    """Whether the role's private server does not run: `up` starts it."""
    return not find_url(settings, role) and not find_socket(settings, role).exists()


def _check_state(settings: Settings, store: Store) -> str:
    if _is_down(settings, "state"):
        return f"`longwatch up` will run {find_server()}"
    store.index.check()
    apart_s = abs(store.index.read_clock_s() - time.time())
    if apart_s > MOST_CLOCKS_APART_S:
        raise ClocksApart(
            f"this host's clock and that of the state's Redis differ by {apart_s:.0f} s: times of videos and answers "
            "will be wrong, and retries will come too early or too late; synchronise both with NTP"
        )
    ready = "" if store.index.is_ready() else "; empty: a worker will fill it from the archive"
    return f"answers at {redact(settings.state_url)}{ready}"


def _check_cache(settings: Settings, store: Store) -> str:
    if _is_down(settings, "cache"):
        return f"`longwatch up` will run {find_server()}"
    store.cache.check()
    return f"answers at {redact(settings.cache_url)}"


def _check_roles(settings: Settings, store: Store) -> Iterator[Finding]:
    """Warns if one server plays both roles, or if the state's server evicts."""
    if same_server(settings.state_url, settings.cache_url):
        words = (
            "one Redis is both state and cache: a full cache then stops all jobs, or evicts queues, locks and answers "
            "in progress; set redis.cache_url to a separate server"
        )
        yield Finding("roles", False, words, needed=False)
    try:
        with redis_errors():
            policy = store.state.info("memory").get("maxmemory_policy")
    except LongwatchError:
        return  # reported above
    if policy != "noeviction":
        words = (
            f"the state's Redis evicts ({policy}) when it is full: queues, locks and answers in progress would be "
            "lost; set its maxmemory-policy to noeviction"
        )
        yield Finding("roles", False, words, needed=False)


def _check_archive(settings: Settings, store: Store) -> str:
    if _is_down(settings, "state"):
        store.archive.files.check()  # nothing knows yet what it should hold
    else:
        store.check_archive()
    return f"can be written: {redact(settings.archive_url) if '://' in settings.archive_url else settings.archive_url}"


def _check_documents(archive: Archive) -> Iterator[Finding]:
    """Reads the documents of all videos; names those that are damaged or too new."""
    count, unreadable = 0, list[str]()
    try:
        for video_id in archive.list_video_ids():
            count += 1
            try:
                archive.read_video(video_id)
            except NotFound:
                continue  # an upload or a deletion is under way
            except (DamagedFile, NewerDocument) as error:
                unreadable.append(str(error).partition("\n")[0])
    except LongwatchError:
        return  # reported above
    if not unreadable:
        yield Finding(
            "documents", True, "1 video can be read" if count == 1 else f"{count} videos can be read", needed=False
        )
    for words in unreadable[:MAX_NAMED]:
        yield Finding("documents", False, words)
    if len(unreadable) > MAX_NAMED:
        yield Finding("documents", False, f"{len(unreadable) - MAX_NAMED} more cannot be read")


def _check_checkpoint(settings: Settings) -> Finding:
    name = settings.model.checkpoint
    if name.startswith(HUB):
        return Finding("checkpoint", True, f"{name} will be downloaded from the hub when a worker starts")
    folder = Path(name)
    if not folder.is_dir():
        return Finding("checkpoint", False, f"there is no folder {name}; correct model.checkpoint")
    missing = [file for file in CHECKPOINT_FILES if not (folder / file).is_file()]
    if not list(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        return Finding("checkpoint", False, f"{name} lacks {', '.join(missing)}")
    return Finding("checkpoint", True, f"{name} is complete")


def _check_workers(settings: Settings, store: Store) -> Iterator[Finding]:
    """Looks for live workers of each kind: without any of them, some jobs wait forever."""
    try:
        alive = store.workers.list_alive()
    except LongwatchError:
        folder = settings.data_dir.absolute()
        words = f"none can be alive without the state: run `longwatch up`, or run this where `up` uses {folder}"
        yield Finding("workers", False, words)
        return
    for kind in WORKER_KINDS:
        here = [worker for worker in alive if worker.kind == kind]
        trouble = sorted({worker.trouble for worker in here if worker.trouble})
        words = f"no {kind} worker is alive: start `longwatch worker {kind}`, or all of them with `longwatch up`"
        yield Finding("workers", bool(here), f"{kind}: {len(here)} alive" if here else words)
        for reason in trouble:
            yield Finding("workers", False, f"{kind} worker waits: {reason}", needed=False)
    models = list_fingerprints(alive)
    if len(models) > 1:
        words = (
            f"workers run different models ({', '.join(models)}): each question uses only one; stop the others' workers"
        )
        yield Finding("models", False, words, needed=False)


def _check_packages() -> Iterator[Finding]:
    shadowed = find_shadowed()
    for words in shadowed:
        yield Finding("packages", False, words)
    if not shadowed:
        yield Finding("packages", True, "no other package shadows one of Longwatch's", needed=False)


def _check_privacy(settings: Settings) -> Finding:
    """Checks that other users cannot read the data folder: it holds addresses with passwords."""
    folder = settings.data_dir.absolute()
    if folder.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding("data_dir", False, f"other users can read {folder}: run `chmod 700 {folder}`", needed=False)
    return Finding("data_dir", True, f"only you can read {folder}", needed=False)


def _check_gpu(settings: Settings) -> Finding:
    device = settings.model.device
    wanted = device.startswith("cuda")
    cards = "; ".join(_read_output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader").splitlines())
    if not cards and wanted:
        words = f"model.device is {device}, but nvidia-smi finds no GPU; install its driver, or set auto"
        return Finding("gpu", False, words)
    if not cards or device == "cpu":
        return Finding("gpu", True, f"{cards or 'none'}: the model runs on the CPU", needed=False)
    if _read_output(sys.executable, "-P", "-c", TORCH_SEES_CUDA) != "True":
        words = f"{cards}, but this PyTorch cannot use it; install a CUDA build (docs/gpu.md), or set model.device: cpu"
        return Finding("gpu", False, words, needed=wanted)
    return Finding("gpu", True, cards)


def _read_output(*line: str) -> str:
    """The output of another program; empty if it is missing or fails."""
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603 - no shell
    except (OSError, subprocess.SubprocessError) as error:
        log.info("%s: %s", line[0], error)
        return ""
    return done.stdout.strip()


def _check_attention(settings: Settings) -> Finding:
    installed = importlib.util.find_spec("flash_attn") is not None
    wanted = settings.model.attention == "flash_attention_2"
    words = "flash-attn is installed" if installed else "PyTorch's own (the `gpu` extra installs flash-attn)"
    return Finding("attention", installed or not wanted, words, needed=wanted)
