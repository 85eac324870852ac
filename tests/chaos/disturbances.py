"""Disturbs the service. A seed chooses the disturbances, and each one writes a line to the log."""

import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from redis import Redis
from redis.exceptions import RedisError

from tests.chaos.garble import garble
from tests.chaos.service import Log, Service
from tests.chaos.volume import Volume

PAUSE_S = (0.5, 7.0)  # between two disturbances
STOP_S = (5.0, 8.0)  # longer than worker_dead_after_s


class Disturber:
    """Disturbs until told to stop. Lasting disturbances run in their own threads."""

    def __init__(self, service: Service, volume: Volume, log: Log) -> None:
        self._service = service
        self._volume = volume
        self._log = log
        self._lasting: list[threading.Thread] = []
        self._disk = threading.Lock()
        self._stopping = threading.Event()

    def disturb(self, rng: random.Random, stop: threading.Event) -> None:
        """Disturbs until `stop` is set, then undoes all lasting disturbances."""
        kinds: list[tuple[int, Callable[[random.Random], None]]] = [
            (5, self.kill_worker),
            (4, self.stop_worker),
            (2, self.end_worker),
            (2, self.kill_api),
            (1, self.stop_api),
            (2, self.flush_redis),
            (2, self.kill_redis),
            (2, self.stop_redis),
            (2, self.make_archive_read_only),
            (2, self.fill_archive),
            (4, self.garble),
        ]
        while not stop.wait(rng.uniform(*PAUSE_S)):
            (kind,) = rng.choices([kind for _, kind in kinds], [weight for weight, _ in kinds])
            kind(rng)
        self._stopping.set()
        for thread in self._lasting:
            thread.join()
        for name in self._service.processes:
            self._service.signal(name, signal.SIGCONT)

    def kill_worker(self, rng: random.Random) -> None:
        self._kill(rng.choice(self._service.workers))

    def end_worker(self, rng: random.Random) -> None:
        name = rng.choice(self._service.workers)
        self._log(f"SIGTERM {name}")
        self._service.signal(name, signal.SIGTERM)

    def stop_worker(self, rng: random.Random) -> None:
        self._stop(rng.choice(self._service.workers), rng.uniform(*STOP_S))

    def kill_api(self, rng: random.Random) -> None:
        self._kill("api")

    def stop_api(self, rng: random.Random) -> None:
        self._stop("api", rng.uniform(1, 5))

    def kill_redis(self, rng: random.Random) -> None:
        self._kill(rng.choice(("state", "cache")), rng.uniform(0.2, 4))

    def stop_redis(self, rng: random.Random) -> None:
        self._stop(rng.choice(("state", "cache")), rng.uniform(1, 5))

    def flush_redis(self, rng: random.Random) -> None:
        role = rng.choice(("state", "cache"))
        self._log(f"FLUSHALL {role}")
        self._act_on(role, lambda redis: redis.flushall())

    def garble(self, rng: random.Random) -> None:
        role = rng.choice(("state", "state", "cache"))
        self._act_on(role, lambda redis: self._log(f"garbled in {role}: {garble(redis, rng)}"))

    def make_archive_read_only(self, rng: random.Random) -> None:
        self._fail_disk("archive read-only", self._volume.read_only, rng.uniform(1, 6))

    def fill_archive(self, rng: random.Random) -> None:
        self._fail_disk("archive full", self._volume.full, rng.uniform(1, 6))

    def _kill(self, name: str, down_s: float = 0.5) -> None:
        self._log(f"SIGKILL {name}, down for {down_s:.1f} s")
        self._service.kill(name, down_s)

    def _stop(self, name: str, stop_s: float) -> None:
        self._log(f"SIGSTOP {name} for {stop_s:.1f} s")

        def resume() -> None:
            self._stopping.wait(stop_s)
            self._service.signal(name, signal.SIGCONT)

        if self._service.signal(name, signal.SIGSTOP):
            self._run_in_thread(resume)

    def _fail_disk(self, what: str, fault: Callable[[], AbstractContextManager[None]], last_s: float) -> None:
        """Makes the disk fail for `last_s`, unless it already has a fault."""

        def hold() -> None:
            with self._disk, fault():
                self._log(f"{what} for {last_s:.1f} s")
                self._stopping.wait(last_s)
                self._log(f"{what}: over")

        if not self._disk.locked():
            self._run_in_thread(hold)

    def _run_in_thread(self, body: Callable[[], None]) -> None:
        thread = threading.Thread(target=body, name=f"lasting-{time.monotonic():.0f}", daemon=True)
        thread.start()
        self._lasting.append(thread)

    def _act_on(self, role: str, act: Callable[[Redis], object]) -> None:
        try:
            with self._service.connect_redis(role) as redis:
                act(redis)
        except RedisError as error:
            self._log(f"{role} does not answer: {error}")
