"""What the service was asked to do, and what it said it would."""

import threading
from dataclasses import dataclass, field

from tests.chaos.inputs import Asked, Medium


@dataclass
class SentVideo:
    """A video that was accepted."""

    id: str
    medium: Medium | None  # None: nothing comes of it (a hostile server)
    title: str | None
    deleted: bool = False  # the service said so
    maybe_deleted: bool = False  # it was asked to, and the answer was lost or an error

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
    faults: list[str] = field(default_factory=list)  # what no disturbance excuses
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add_video(self, video: SentVideo) -> SentVideo:
        """The video, or what is known of it already."""
        with self.lock:
            return self.videos.setdefault(video.id, video)

    def add_question(self, question: SentQuestion) -> None:
        """The question is to end."""
        with self.lock:
            self.questions[question.id] = question

    def live_videos(self) -> list[SentVideo]:
        """Those that may be asked about."""
        with self.lock:
            return [v for v in self.videos.values() if v.medium and not v.poison and not v.maybe_deleted]

    def open_questions(self) -> list[SentQuestion]:
        """Those of videos that were not deleted."""
        with self.lock:
            return [q for q in self.questions.values() if not q.video.maybe_deleted]

    def fault(self, text: str) -> None:
        """Something that must not happen, whatever is disturbed."""
        with self.lock:
            self.faults.append(text)
