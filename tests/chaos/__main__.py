"""Runs the whole service, disturbs it for some minutes, and checks that it ends in the same state as without that.

python -m tests.chaos --minutes 10 --seed 1
"""

import argparse
import logging
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx

from tests.chaos.disturbances import Disturber
from tests.chaos.garble import SPRUNG
from tests.chaos.inputs import make_media
from tests.chaos.ledger import Ledger, SentVideo
from tests.chaos.reference import Reference, learn_reference
from tests.chaos.service import EACH, WORKERS, Service
from tests.chaos.site import MediaServer, serve_media
from tests.chaos.users import POISON_TITLES, User
from tests.chaos.verdict import IDS, Verdict
from tests.chaos.volume import enter_namespace, prepare_volume

USERS = 3
START_S, SETTLE_S = 120.0, 420.0  # upper bounds; every wait ends as soon as its condition holds
AGED_S = 2 * 3600.0  # workers regard younger files as in use


class Run:
    """One run in its own folder. The folder is kept if the run finds faults."""

    def __init__(self, minutes: float, seed: int, folder: Path, site: MediaServer) -> None:
        self._minutes = minutes
        self._seed = seed
        self._folder = folder
        self._began = time.monotonic()
        (folder / "media").mkdir()
        self._events = (folder / "events.log").open("a", buffering=1)
        port = _free_port()
        self._url = f"http://127.0.0.1:{port}"
        self._service = Service.prepare(folder, port, self.log)
        self._media = make_media(folder / "media", seed, with_long=minutes >= 5)
        self._site = site
        self._ledger = Ledger()
        self._http = httpx.Client(base_url=self._url, timeout=15, trust_env=False)
        self._user = self._new_user()

    def log(self, text: str) -> None:
        """Writes a line with the time to the terminal and to the log in the folder."""
        line = f"{time.monotonic() - self._began:7.1f} {text}"
        self._events.write(f"{line}\n")
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def run(self) -> list[str]:
        """Runs everything, and returns the faults."""
        volume = prepare_volume(self._folder / "data" / "archive", self._list_pids)
        faults: list[str] | None = None
        try:
            self._service.start()
            self._wait("ready", self._is_ready, START_S)
            references = self._learn()
            self.log(f"calm phase over; {self._minutes:g} minutes with seed {self._seed}")
            self._disturb(Disturber(self._service, volume, self.log))
            faults = self._judge(references)
        finally:
            self._service.stop()
            volume.give_back(keep_in=None if faults == [] else self._folder / "archive")
        return faults

    def _new_user(self) -> User:
        return User(self._url, self._ledger, self._media, self._site, self._folder / "media")

    def _list_pids(self) -> list[int]:
        processes = [self._service.processes[name].popen for name in (*self._service.workers, "api")]
        return [process.pid for process in processes if process is not None]

    def _learn(self) -> dict[str, Reference]:
        store = self._service.open_store()
        references = {medium.name: learn_reference(self._http, store, self._user, medium)[1] for medium in self._media}
        for video in self._ledger.videos.values():
            self.log(f"{video.id} is {video.medium.name if video.medium else None}")
        return references

    def _disturb(self, disturber: Disturber) -> None:
        stop = threading.Event()
        threads = [threading.Thread(target=disturber.disturb, args=(random.Random(f"{self._seed}"), stop))]
        for number in range(USERS):
            rng = random.Random(f"{self._seed}-{number}")
            threads.append(threading.Thread(target=self._new_user().behave, args=(rng, stop, self.log)))
        threads.append(threading.Thread(target=self._poison, args=(stop,)))
        for thread in threads:
            thread.start()
        time.sleep(self._minutes * 60)
        stop.set()
        for thread in threads:
            thread.join()
        self.log("no more disturbances")

    def _poison(self, stop: threading.Event) -> None:
        """Submits each kind of poison once, some time apart; tries again until it is accepted."""
        todo: list[Callable[[], object]] = [partial(self._user.submit_poison, title) for title in POISON_TITLES]
        todo.insert(1, lambda: self._user.ask_poison(next(iter(self._ledger.videos.values()))))
        while todo and not stop.wait(self._minutes * 60 / (3 * len(POISON_TITLES))):
            try:
                if todo[0]():
                    self.log(f"poison {len(todo)} accepted")
                    todo.pop(0)
            except httpx.HTTPError as error:
                self.log(f"poison: {type(error).__name__}")

    def _judge(self, references: dict[str, Reference]) -> list[str]:
        verdict = Verdict(self._service, self._ledger, references)
        self._wait("listed", self._list_all, SETTLE_S)
        settled = self._wait("settled", lambda: not verdict.list_unsettled(), SETTLE_S)
        for sent in verdict.list_given_up():
            self.log(f"{sent.id} lost its workers too often: retry")
            self._http.post(f"/v1/videos/{sent.id}/retry").raise_for_status()
            verdict.excused["videos retried"] += 1
        fresh = [self._user.submit(medium, "upload") for medium in self._media if medium.name in ("short", "picture")]
        self._ask_about(fresh)
        self._age_leftovers()
        self._service.restart(self._service.workers)
        self._wait("ready after a restart", self._is_ready, START_S)
        settled = self._wait("settled", lambda: not verdict.list_unsettled(), SETTLE_S) and settled
        self._wait("swept", lambda: not self._list_leftovers(), 30)
        faults = verdict.judge() + [f"left over: {path}" for path in self._list_leftovers()]
        self._report(verdict, faults)
        return faults

    def _list_all(self) -> bool:
        """Lists every video, as a user does: a damaged value in Redis is found, and repaired, when it is read."""
        cursor: str | None = ""
        while cursor is not None:
            page = self._http.get("/v1/videos", params={"cursor": cursor} if cursor else {}).raise_for_status().json()
            cursor = page["next_cursor"]
        return True

    def _ask_about(self, fresh: list[SentVideo | None]) -> None:
        """Asks about new videos and the first ones: the recovered service must accept all of it, as before."""
        firsts = list(self._ledger.videos.values())[: len(self._media)]
        for video in [*fresh, *firsts]:
            assert video is not None, "the recovered service refuses a video"
            assert video.medium is not None
            assert self._user.ask(video, video.medium.questions[0]), "the recovered service refuses a question"

    def _age_leftovers(self) -> None:
        """Makes leftovers of broken writes, uploads and downloads look old: the service removes only old ones."""
        long_ago = time.time() - AGED_S
        for path in self._list_leftovers():
            os.utime(path, (long_ago, long_ago))
        self.log(f"{len(self._list_leftovers())} leftovers to sweep")

    def _list_leftovers(self) -> list[Path]:
        data = self._folder / "data"
        return [*data.glob("archive/.scratch/*"), *data.glob("archive/.check-*"), *data.glob("incoming/*")]

    def _is_ready(self) -> bool:
        try:
            health = self._http.get("/readyz")
        except httpx.HTTPError:
            return False
        return health.status_code == 200 and all(health.json()["workers"][kind] == EACH for kind in WORKERS)

    def _wait(self, what: str, condition: Callable[[], bool], within_s: float) -> bool:
        began = time.monotonic()
        while time.monotonic() - began < within_s:
            try:
                if condition():
                    self.log(f"{what} after {time.monotonic() - began:.1f} s")
                    return True
            except Exception as error:  # noqa: BLE001 - the service is recovering; a check that fails now may work soon
                self.log(f"not yet {what}: {error}")
            time.sleep(0.5)
        self.log(f"NOT {what} within {within_s:g} s")
        return False

    def _report(self, verdict: Verdict, faults: list[str]) -> None:
        deaths = sum(process.deaths for process in self._service.processes.values())
        videos, questions = len(self._ledger.videos), len(self._ledger.questions)
        self.log(f"{videos} videos, {questions} questions, {deaths} deaths; {dict(verdict.excused)}")
        for fault in faults:
            self.log(f"FAULT {fault}")
        for item_id in dict.fromkeys(found[0] for fault in faults if (found := re.search(IDS, fault))):
            self.log(f"{item_id}:\n    {verdict.describe(item_id)}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to disturb")
    parser.add_argument(
        "--seed", type=int, default=1, help="chooses the actions; their timing also depends on the machine"
    )
    arguments = parser.parse_args()
    enter_namespace()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends all processes of the run too
    logging.disable(logging.ERROR)  # silences this process's own reads of the archive; the service logs to files
    SPRUNG.unlink(missing_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="lwchaos-"))
    with serve_media() as site:
        run = Run(arguments.minutes, arguments.seed, folder, site)
        faults = run.run()
    if faults:
        run.log(f"{len(faults)} faults; see {folder}/events.log and {folder}/logs")
        return 1
    run.log("no faults")
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # does not wait for connections that hang
