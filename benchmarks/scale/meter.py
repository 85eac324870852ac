"""Counts what an operation costs: Redis commands and bytes by role, archive requests, CPU seconds."""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from redis import Redis
from redis.connection import UnixDomainSocketConnection

from storage.connection import Role
from storage.files import Files

Kind = Literal["storage", "queueing", "connection"]
QUEUEING = ("rq:", "lw:attempts:", "lw:worker", "lw:lock:reconciler")  # RQ's keys, attempts and heartbeats
CONNECTION = frozenset(("HELLO", "AUTH", "CLIENT", "SELECT", "PING", "INFO", "SCRIPT", "COMMAND"))


@dataclass(frozen=True)
class Call:
    """One command as a client sent it. A script, MULTI, EXEC and each member of a pipeline are one command each."""

    thread: str
    role: Role
    kind: Kind
    words: tuple[str, ...]


@dataclass
class Cost:
    """The cost of everything between two points in time."""

    calls: list[Call] = field(default_factory=list)
    state_bytes: int = 0
    cache_bytes: int = 0
    redis_cpu_s: float = 0.0
    archive: Counter[str] = field(default_factory=Counter)  # request -> how many
    cpu_s: float = 0.0
    wall_s: float = 0.0

    def count(self, kind: Kind, role: Role | None = None, thread: str | None = None) -> int:
        """How many commands of a kind were sent, optionally to one server or by one thread only."""
        return sum(
            call.kind == kind and role in (None, call.role) and thread in (None, call.thread) for call in self.calls
        )

    @property
    def bytes(self) -> int:
        """Bytes to and from both servers."""
        return self.state_bytes + self.cache_bytes


class Meter:
    """Watches the clients and archives of one process, and asks both servers for their statistics."""

    def __init__(self, servers: Mapping[Role, Redis]) -> None:
        self._servers = servers
        self._calls: list[Call] = []
        self._archive: Counter[str] = Counter()
        self._own_bytes = {role: self._bytes_of_asking(redis) for role, redis in servers.items()}

    def watch(self, redis: Redis, role: Role) -> None:
        """Counts what this client sends from now on; it must not have connected yet."""
        meter = self

        class Counting(UnixDomainSocketConnection):
            def send_command(self, *args: Any, **options: Any) -> None:
                meter.note(role, [args])
                super().send_command(*args, **options)  # type: ignore[no-untyped-call]

            def pack_commands(self, commands: Iterable[Any]) -> Any:
                sent = list(commands)
                meter.note(role, sent)
                return super().pack_commands(sent)  # type: ignore[no-untyped-call]

        redis.connection_pool.connection_class = Counting

    def open_files(self, url: str) -> Files:
        """Opens an archive's files; each request is counted."""
        return CountedFiles(url, self._archive)

    def note(self, role: Role, commands: Sequence[Sequence[Any]]) -> None:
        """Records commands that are sent together. MULTI and EXEC get the kind of the commands between them."""
        words = [tuple(_as_text(word) for word in command[:5]) for command in commands]
        kinds = [_classify(each) for each in words]
        keyed = [kind for each, kind in zip(words, kinds, strict=True) if each[0] not in ("MULTI", "EXEC")]
        for each, kind in zip(words, kinds, strict=True):
            shown = keyed[0] if each[0] in ("MULTI", "EXEC") and keyed else kind
            self._calls.append(Call(threading.current_thread().name, role, shown, each))

    @contextmanager
    def measure(self) -> Iterator[Cost]:
        """Measures what any thread of this process does inside the block."""
        cost = Cost()
        before = {role: self._read_stats(redis) for role, redis in self._servers.items()}
        first, archive = len(self._calls), Counter(self._archive)
        wall, cpu = time.perf_counter(), time.process_time()
        yield cost
        cost.cpu_s, cost.wall_s = time.process_time() - cpu, time.perf_counter() - wall
        cost.calls, cost.archive = self._calls[first:], self._archive - archive
        after = {role: self._read_stats(redis) for role, redis in self._servers.items()}
        sent = {role: after[role][0] - before[role][0] - self._own_bytes[role] for role in self._servers}
        cost.state_bytes, cost.cache_bytes = sent["state"], sent["cache"]
        cost.redis_cpu_s = sum(after[role][1] - before[role][1] for role in self._servers)

    def _read_stats(self, redis: Redis) -> tuple[int, float]:
        stats: dict[str, Any] = redis.info("stats", "cpu")
        moved = int(stats["total_net_input_bytes"]) + int(stats["total_net_output_bytes"])
        return moved, float(stats["used_cpu_user"]) + float(stats["used_cpu_sys"])

    def _bytes_of_asking(self, redis: Redis) -> int:
        self._read_stats(redis)
        first, second = self._read_stats(redis)[0], self._read_stats(redis)[0]
        return second - first


class CountedFiles(Files):
    """Archive files that count the requests an object store would see."""

    def __init__(self, url: str, counts: Counter[str]) -> None:
        super().__init__(url)
        self._counts = counts

    def read(self, path: str) -> bytes | None:
        """A GET."""
        self._counts["get"] += 1
        return super().read(path)

    @contextmanager
    def open(self, path: str, block_bytes: int | None = None) -> Iterator[BinaryIO | None]:
        """A GET; reads of parts are not counted separately."""
        self._counts["get"] += 1
        with super().open(path, block_bytes) as file:
            yield file

    def exists(self, path: str) -> bool:
        """A HEAD."""
        self._counts["head"] += 1
        return super().exists(path)

    def size(self, path: str) -> int | None:
        """A HEAD."""
        self._counts["head"] += 1
        return super().size(path)

    def write(self, path: str, content: bytes) -> None:
        """A PUT."""
        self._counts["put"] += 1
        super().write(path, content)

    def create(self, path: str, content: bytes) -> bool:
        """A PUT that replaces nothing."""
        self._counts["put"] += 1
        return super().create(path, content)

    def put(self, path: str, source: Path) -> None:
        """A PUT of a file."""
        self._counts["put"] += 1
        super().put(path, source)

    def names(self, path: str = "") -> list[str]:
        """A LIST."""
        self._counts["list"] += 1
        return super().names(path)

    def tree(self, path: str) -> dict[str, int]:
        """A LIST of everything below."""
        self._counts["list"] += 1
        return super().tree(path)

    def delete(self, path: str) -> None:
        """A deletion of the path and everything below it."""
        self._counts["delete"] += 1
        super().delete(path)


def _classify(words: Sequence[str]) -> Kind:
    name = words[0].split()[0].upper()
    if name in CONNECTION:
        return "connection"
    key = words[3] if name in ("EVALSHA", "EVAL") and len(words) > 3 else " ".join(words[1:])
    queueing = key.startswith(QUEUEING) or any(word.startswith("rq:") for word in words[1:])
    return "queueing" if queueing else "storage"


def _as_text(word: object) -> str:
    return word.decode(errors="replace")[:80] if isinstance(word, bytes) else str(word)[:80]
