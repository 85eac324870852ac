"""Asks and answers questions in the test process."""

from typing import Any

from configs.settings import Settings
from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from reasoner.engine import Engine, Limits
from reasoner.gathering import Gatherer
from reasoner.jobs import ReasonerJobs
from storage.documents import Question, Video
from storage.store import Store
from tests.submitting import new_question

FRAMES = 100
TEXT = "is there a red circle ?"


def make_engine(model: LlavaMini, prompts: PromptBuilder, settings: Settings) -> Engine:
    """Makes an engine with an empty prefix cache."""
    chosen = settings.reasoner
    return Engine(
        model,
        prompts,
        Limits(chosen.sample_frames, chosen.focus_frames, chosen.focus_baseline, chosen.max_tokens, 2**30),
    )


def ask(jobs: ReasonerJobs, store: Store, video: Video, **values: Any) -> Question:
    """Adds a question, runs its job and returns the question afterwards."""
    question = new_question(video, **values)
    store.add_question(question)
    jobs.answer_question(question.id)
    return store.read_question(question.id)


def make_gatherer(settings: Settings, store: Store, fingerprint: str, video: Video, masks: dict[int, int]) -> Gatherer:
    """Makes the gatherer of a question about these frames; its answer is always wanted."""
    return Gatherer(settings, store, fingerprint, video, masks, lambda: None)
