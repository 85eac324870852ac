"""One question put and answered in this process."""

from typing import Any

from configs.settings import Settings
from reasoner.engine import Engine
from reasoner.jobs import ReasonerJobs
from reasoner.records import Gatherer
from storage.ids import new_question_id
from storage.models import Question, Video
from storage.store import Store

FRAMES = 100
TEXT = "is there a red circle ?"


def ask(jobs: ReasonerJobs, store: Store, video: Video, **values: Any) -> Question:
    base = {"id": new_question_id(video.id), "video_id": video.id, "text": TEXT, "fusion": "focused"}
    question = Question.model_validate(base | values)
    store.archive.put_question(question)
    jobs.answer_question(question.id)
    return store.archive.question(question.id)


def gatherer(settings: Settings, store: Store, engine: Engine, video: Video) -> Gatherer:
    return Gatherer(settings, store, engine.fingerprint, video, lambda: None)
