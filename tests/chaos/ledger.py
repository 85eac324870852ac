"""Records what the service was asked to do and what it accepted."""

import threading
from dataclasses import dataclass, field

from tests.chaos.inputs import Asked, Medium


@dataclass
class SentVideo:
    """A video that was accepted."""

    id: str
    medium: Medium | None  # None: it must fail (a hostile server)
    title: str | None
    deleted: bool = False  # the service confirmed it
    maybe_deleted: bool = False  # a deletion was requested; the response may be lost or an error

    @property
    def poison(self) -> bool:
        """Whether it kills workers."""
        return bool(self.title)


@dataclass
class SentQuestion:
    """A question that was accepted."""

    id: str
    video: SentVideo
    asked: Asked | None  # None: poison
    partial: bool = False
    may_be_cancelled: bool = False


@dataclass
class Ledger:
    """Shared by all users."""

    videos: dict[str, SentVideo] = field(default_factory=dict)
    questions: dict[str, SentQuestion] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)  # no disturbance excuses these
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add_video(self, video: SentVideo) -> SentVideo:
        """Adds the video; returns the known one if the id is already there."""
        with self.lock:
            return self.videos.setdefault(video.id, video)

    def add_question(self, question: SentQuestion) -> None:
        """Adds a question, which must be settled in the end."""
        with self.lock:
            self.questions[question.id] = question

    def list_live_videos(self) -> list[SentVideo]:
        """The videos that users may ask about."""
        with self.lock:
            return [v for v in self.videos.values() if v.medium and not v.poison and not v.maybe_deleted]

    def list_open_questions(self) -> list[SentQuestion]:
        """The questions about videos that were not deleted."""
        with self.lock:
            return [q for q in self.questions.values() if not q.video.maybe_deleted]

    def add_fault(self, text: str) -> None:
        """Records something that must not happen under any disturbance."""
        with self.lock:
            self.faults.append(text)
