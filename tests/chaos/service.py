"""The running service: two Redis servers, the API and two workers of each kind, as processes that restart."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from redis import Redis

from cli.redis_server import ROLES, build_command, find_socket
from configs.loading import load_settings
from configs.settings import Settings
from storage.store import Store

ROOT = Path(__file__).parent.parent.parent
WORKERS = ("ingest", "encode", "reason")
EACH = 2  # workers of a kind
RESTART_S = 0.5  # from a death to the next start
Log = Callable[[str], None]


def write_config(folder: Path, port: int) -> Path:
    """Writes the settings of the run: failures are noticed quickly, and memory use is low."""
    values = {
        "data_dir": str(folder / "data"),
        "archive": {"orphan_after_s": 15},
        "redis": {
            "connect_timeout_s": 1.0,
            "command_timeout_s": 2.0,
            "retries": 1,
            "state_max_memory_mb": 256,
            "cache_max_memory_mb": 128,
        },
        "jobs": {
            "heartbeat_interval_s": 0.5,
            "worker_dead_after_s": 4,
            "reconcile_interval_s": 0.5,
            "recheck_after_s": 3.0,
            "retry_after_s": [0.3, 1.0],
            "surroundings_retry_after_s": 1.5,
            "exclusive_wait_s": 10.0,
            "max_fetch_attempts": 4,
        },
        "ingest": {
            "allowed_roots": [str(folder / "media")],
            "allowed_private_hosts": ["127.0.0.1"],
            "view_long_side_px": 240,
            "min_free_disk_bytes": 0,
            "connect_timeout_s": 3.0,
            "header_timeout_s": 3.0,
            "read_timeout_s": 3.0,
            "download_timeout_s": 30.0,
            "max_download_bytes": 64 * 1024**2,
            "concurrent_downloads": 3,
        },
        "model": yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text())["model"],
        "encoder": {"threads": 1, "concurrent_jobs": 2},
        "reasoner": {
            "threads": 1,
            "concurrent_questions": 2,
            "encoder_missing_after_s": 2.0,
            "fusion_timeout_s": 120.0,
            "max_tokens": 16,
            "prefix_cache_mb": 32,
        },
        "api": {"port": port, "min_free_disk_bytes": 0, "body_timeout_s": 5.0, "max_unsettled_questions": 40},
    }
    config = folder / "chaos.yaml"
    config.write_text(yaml.safe_dump(values))
    return config


@dataclass
class Process:
    """A part of the service."""

    command: list[str]
    popen: subprocess.Popen[bytes] | None = None
    starts_at: float = 0.0  # monotonic
    deaths: int = 0


@dataclass
class Service:
    """Processes by name: `state`, `cache`, `api`, and `ingest-1` and so on."""

    folder: Path
    config: Path
    settings: Settings
    log: Log
    processes: dict[str, Process] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _stop: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def prepare(cls, folder: Path, port: int, log: Log) -> "Service":
        """Prepares the service; starts nothing."""
        config = write_config(folder, port)
        service = cls(folder, config, load_settings(config), log)
        (folder / "logs").mkdir()
        for role in ROLES:
            find_socket(service.settings, role).parent.mkdir(parents=True, exist_ok=True)
            service.processes[role] = Process(build_command(service.settings, role))
        arguments = ["--config", str(config)]
        service.processes["api"] = Process([sys.executable, "-m", "api", *arguments])
        for kind in WORKERS:
            for number in range(1, EACH + 1):
                command = [sys.executable, "-m", "tests.chaos.worker", kind, *arguments]
                service.processes[f"{kind}-{number}"] = Process(command)
        return service

    @property
    def workers(self) -> list[str]:
        """The names of the worker processes."""
        return [name for name in self.processes if name.partition("-")[0] in WORKERS]

    def open_store(self) -> Store:
        """Opens a separate store."""
        return Store.open(self.settings)

    def connect_redis(self, role: str) -> Redis:
        """Opens a connection with a timeout to a server."""
        url = self.settings.state_url if role == "state" else self.settings.cache_url
        return Redis.from_url(url, socket_timeout=3.0, socket_connect_timeout=3.0)

    def start(self) -> None:
        """Starts every process, and a thread that restarts dead ones, as `longwatch up` does."""
        threading.Thread(target=self._supervise, name="supervisor", daemon=True).start()

    def signal(self, name: str, number: signal.Signals) -> bool:
        """Sends a signal; returns whether the process was alive."""
        with self._lock:
            popen = self.processes[name].popen
            if popen is None or popen.poll() is not None:
                return False
            popen.send_signal(number)
            return True

    def kill(self, name: str, down_s: float = RESTART_S) -> None:
        """Kills a process as the kernel would. It starts again after `down_s`."""
        with self._lock:
            popen = self.processes[name].popen
            if popen is not None and self.signal(name, signal.SIGKILL):
                popen.wait()
            self.processes[name].starts_at = time.monotonic() + down_s

    def restart(self, names: list[str]) -> None:
        """Stops processes cleanly. They start again on their own."""
        with self._lock:
            stopping = [process for name in names if (process := self.processes[name].popen) is not None]
            for process in stopping:
                process.send_signal(signal.SIGTERM)
        for process in stopping:
            process.wait(15)

    def stop(self) -> None:
        """Kills every process."""
        self._stop.set()
        with self._lock:
            for name in self.processes:
                self.signal(name, signal.SIGKILL)
            for process in self.processes.values():
                if process.popen is not None:
                    process.popen.wait()

    def _supervise(self) -> None:
        while not self._stop.wait(0.1):
            with self._lock:
                for name, process in self.processes.items():
                    if not self._stop.is_set():
                        self._revive(name, process)

    def _revive(self, name: str, process: Process) -> None:
        now = time.monotonic()
        if process.popen is not None and process.popen.poll() is not None:
            self.log(f"{name} ended with {process.popen.returncode}")
            process.popen = None
            process.deaths += 1
            process.starts_at = max(process.starts_at, now + RESTART_S)
        if process.popen is None and now >= process.starts_at:
            process.popen = self._spawn(name, process.command)

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen[Any]:
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with (self.folder / "logs" / f"{name}.log").open("ab") as file:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
