"""The users of the run: threads that submit, ask, read, cancel, delete, and disconnect half-way."""

import random
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.inputs import Asked, Medium
from tests.chaos.ledger import Ledger, SentQuestion, SentVideo
from tests.chaos.service import Log
from tests.chaos.site import HOSTILE, MediaServer
from tests.chaos.worker import POISON

EXPECTED = {200, 202, 204, 307, 404, 409, 429, 503, 507}  # for valid requests; 500 is always a fault
MOST_VIDEOS = 5  # in progress at once, because all of them must finish
MOST_QUESTIONS = 14
POISON_TITLES = ("ingest_video", "encode_segment 1", "fuse_question", "fetch_video")


class User:
    """One client of the API. A seed chooses its actions; their results depend on timing."""

    def __init__(self, base_url: str, ledger: Ledger, media: list[Medium], site: MediaServer, folder: Path) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=15, trust_env=False)
        self._address = httpx.URL(base_url)
        self._ledger = ledger
        self._media = media
        self._site = site
        self._folder = folder

    def behave(self, rng: random.Random, stop: threading.Event, log: Log) -> None:
        """Acts until `stop` is set."""
        acts: list[tuple[int, Callable[[random.Random], None]]] = [
            (5, self.submit_something),
            (9, self.ask_something),
            (1, self.submit_twice),
            (1, self.submit_hostile),
            (3, self.ask_and_leave),
            (1, self.upload_and_leave),
            (1, self.cancel_something),
            (1, self.delete_something),
            (3, self.look_around),
        ]
        while not stop.wait(rng.uniform(0.1, 1.2)):
            (act,) = rng.choices([act for _, act in acts], [weight for weight, _ in acts])
            try:
                act(rng)
            except (httpx.ConnectError, ConnectionRefusedError):
                stop.wait(1.0)  # the API is restarting
            except (httpx.HTTPError, OSError) as error:
                log(f"user: {act.__name__}: {type(error).__name__}")

    # videos

    def submit(
        self, medium: Medium, way: str, title: str | None = None, content: bytes | None = None
    ) -> SentVideo | None:
        """Submits the medium in other bytes, or `content`; returns None if the service refuses."""
        content = medium.vary() if content is None else content
        name = f"{secrets.token_hex(8)}{medium.suffix}"
        fields = {} if title is None else {"title": title}
        if way == "upload":
            response = self._http.post("/v1/videos", files={"file": (name, content)}, data=fields)
        elif way == "path":
            path = self._folder / name
            path.write_bytes(content)
            response = self._http.post("/v1/videos", json={"path": str(path), **fields})
        else:
            self._site.files[name] = content
            response = self._http.post("/v1/videos", json={"url": self._site.url(f"{way}/{name}"), **fields})
        if self._check(response) not in (200, 202):
            return None
        return self._ledger.add_video(SentVideo(response.json()["id"], medium, title))

    def submit_something(self, rng: random.Random) -> None:
        """Submits a new video, unless too many are in progress."""
        if self._count_unsettled() < MOST_VIDEOS:
            way = rng.choice(("upload", "upload", "path", "media", "slow"))
            self.submit(rng.choice(self._media), way)

    def submit_twice(self, rng: random.Random) -> None:
        """Submits the same bytes twice at the same time. One of the two videos will hold the frames."""
        if self._count_unsettled() >= MOST_VIDEOS:
            return
        medium = rng.choice(self._media)
        content = medium.vary()
        ways = [rng.choice(("upload", "media", "path")) for _ in range(2)]
        threads = [threading.Thread(target=self._submit_quietly, args=(medium, way, content)) for way in ways]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def submit_hostile(self, rng: random.Random) -> None:
        """Submits the URL of a server that misbehaves. The video must fail with a reason."""
        response = self._http.post("/v1/videos", json={"url": self._site.url(rng.choice(HOSTILE))})
        if self._check(response) == 202:
            self._ledger.add_video(SentVideo(response.json()["id"], None, None))

    def submit_poison(self, kind: str) -> SentVideo | None:
        """Submits a video that kills its worker in jobs of this kind."""
        medium = next(medium for medium in self._media if medium.name == "middle")
        return self.submit(medium, "media" if kind == "fetch_video" else "upload", f"{POISON} {kind}")

    def upload_and_leave(self, rng: random.Random) -> None:
        """Sends half of an upload, and disconnects."""
        with socket.create_connection((self._address.host, self._address.port or 80), timeout=5) as connection:
            head = "POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            part = '--b\r\nContent-Disposition: form-data; name="file"; filename="x.mp4"\r\n\r\n'
            content = rng.choice(self._media).vary()
            connection.sendall(f"{head}Content-Length: {len(content) + 1000}\r\n\r\n{part}".encode())
            connection.sendall(content[: len(content) // 2])

    def delete_something(self, rng: random.Random) -> None:
        """Deletes a recent video. The first ones stay for the final checks."""
        videos = self._ledger.list_live_videos()[len(self._media) :]
        if len(videos) < 3:
            return
        video = rng.choice(videos)
        video.maybe_deleted = True
        response = self._http.delete(f"/v1/videos/{video.id}")
        status = self._check(response)
        if status in (204, 404):
            video.deleted = True
        elif status == 409:  # duplicates depend on it
            video.maybe_deleted = False

    # questions

    def ask(self, video: SentVideo, asked: Asked, **more: Any) -> str | None:
        """Asks a question; returns its id, or None if the service refuses."""
        body = _body(asked) | more
        response = self._http.post(f"/v1/videos/{video.id}/questions", json=body)
        if self._check(response) not in (200, 202):
            return None
        sent = SentQuestion(response.json()["id"], video, asked, partial=bool(more.get("partial")))
        self._ledger.add_question(sent)
        return sent.id

    def ask_something(self, rng: random.Random) -> None:
        """Asks about any video, whether its frames are there or not; may ask a follow-up too."""
        video = self._choose(rng)
        if video is None or video.medium is None:
            return
        asked = rng.choice([asked for asked in video.medium.questions if asked.follows is None])
        if rng.random() < 0.15:
            self.ask(video, asked, partial=True)
            return
        question_id = self.ask(video, asked)
        number = video.medium.questions.index(asked)
        follow = next((other for other in video.medium.questions if other.follows == number), None)
        if question_id and follow and self._http.get(f"/v1/questions/{question_id}").json().get("status") == "done":
            self.ask(video, follow, previous_question_id=question_id)

    def ask_poison(self, video: SentVideo) -> bool:
        """Asks a question that kills its reasoner; returns whether it was accepted."""
        path = f"/v1/videos/{video.id}/questions"
        response = self._http.post(path, json={"question": f"{POISON} answer_question"})
        if self._check(response) not in (200, 202):
            return False
        self._ledger.add_question(SentQuestion(response.json()["id"], video, None))
        return True

    def ask_and_leave(self, rng: random.Random) -> None:
        """Reads the first events of an answer and disconnects. The question must still be answered."""
        video = self._choose(rng)
        if video is None or video.medium is None:
            return
        asked = rng.choice([asked for asked in video.medium.questions if asked.follows is None])
        path, accept = f"/v1/videos/{video.id}/questions", {"accept": "text/event-stream"}
        with self._http.stream("POST", path, json=_body(asked), headers=accept) as response:
            if self._check(response) != 200:
                return
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    question_id = httpx.Response(200, content=line.removeprefix("data: ")).json()["id"]
                    self._ledger.add_question(SentQuestion(question_id, video, asked))
                    return

    def cancel_something(self, rng: random.Random) -> None:
        """Cancels a question, whether it is answered or not."""
        questions = self._ledger.list_open_questions()[-10:]
        if questions:
            question = rng.choice(questions)
            question.may_be_cancelled = True
            self._check(self._http.delete(f"/v1/questions/{question.id}"))

    def look_around(self, rng: random.Random) -> None:
        """Reads lists, pictures and health. Each must answer, if only with an error that is allowed."""
        self._check(self._http.get("/v1/videos", params={"limit": 5}))
        self._check(self._http.get("/readyz"))
        videos = self._ledger.list_live_videos()
        if videos:
            video = rng.choice(videos)
            for path in ("", "/questions", "/segments", f"/frames/{rng.randrange(60)}.jpg"):
                self._check(self._http.get(f"/v1/videos/{video.id}{path}"))

    def _choose(self, rng: random.Random) -> SentVideo | None:
        videos = self._ledger.list_live_videos()
        if not videos or self._count_open() >= MOST_QUESTIONS:
            return None
        return rng.choice(videos[-6:] if rng.random() < 0.6 else videos)

    def _count_unsettled(self) -> int:
        videos = self._read_page("/v1/videos")
        return sum(not (video["progress"] or {}).get("complete") for video in videos)

    def _count_open(self) -> int:
        videos = self._ledger.list_live_videos()[-4:]
        questions = [question for video in videos for question in self._read_page(f"/v1/videos/{video.id}/questions")]
        return sum(question["status"] in ("waiting", "queued", "running") for question in questions)

    def _read_page(self, path: str) -> list[dict[str, Any]]:
        response = self._http.get(path, params={"limit": 20})
        if self._check(response) != 200:
            return []
        (found,) = (value for value in response.json().values() if isinstance(value, list))
        return list(found)

    def _submit_quietly(self, medium: Medium, way: str, content: bytes) -> None:
        try:
            self.submit(medium, way, content=content)
        except httpx.HTTPError:
            return  # the final checks examine whatever the service kept of it

    def _check(self, response: httpx.Response) -> int:
        """Returns the status. A status that a valid request must not get is recorded as a fault."""
        if response.status_code not in EXPECTED:
            text = response.read().decode(errors="replace")[:300]
            self._ledger.add_fault(
                f"{response.request.method} {response.request.url.path}: {response.status_code} {text}"
            )
        return response.status_code


def _body(asked: Asked) -> dict[str, Any]:
    return {"question": asked.text, "start": asked.start, "end": asked.end, "fusion": asked.fusion}
