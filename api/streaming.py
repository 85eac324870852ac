"""Server-sent events: the pieces of an answer, and a video's progress."""

from collections.abc import AsyncIterator

from anyio import sleep
from anyio.to_thread import run_sync
from sse_starlette import ServerSentEvent

from api.schemas import QuestionView, VideoView
from storage.answers import LAST, Piece
from storage.models import Question
from storage.store import Store

WAIT_S = 1.0  # per look at the stream of pieces; a client that went away is noticed between two looks


async def answer_events(store: Store, question: Question) -> AsyncIterator[ServerSentEvent]:
    """`question` first, `text` pieces, `restart` where another worker begins anew, at last `answer` or `error`."""
    yield _event("question", QuestionView.of(question).model_dump_json())
    cursor, ended = "0", question.settled
    while not ended:
        for piece in await run_sync(_pieces, store, question.id, cursor):
            cursor = piece.cursor
            if piece.kind in LAST:
                ended = True
            else:
                yield _event(piece.kind, piece.text)
        ended = ended or (await run_sync(store.archive.question, question.id)).settled
    final = QuestionView.of(await run_sync(store.archive.question, question.id))
    yield _event("error" if final.status == "failed" else "answer", final.model_dump_json())


async def progress_events(store: Store, video_id: str, interval_s: float) -> AsyncIterator[ServerSentEvent]:
    """`progress` with the whole video at every change, until it is complete."""
    shown = ""
    while True:
        video = await run_sync(store.archive.video, video_id)
        progress = await run_sync(store.progress, video)
        text = VideoView.of(video, progress).model_dump_json()
        if text != shown:
            yield _event("progress", text)
            shown = text
        if progress.complete:
            return
        await sleep(interval_s)


async def wait_settled(store: Store, question: Question, wait_s: float) -> Question:
    """The question once it is settled, or as it is after `wait_s`."""
    waited_s, step_s = 0.0, 0.05
    while not question.settled and waited_s < wait_s:
        await sleep(step_s)
        waited_s += step_s
        step_s = min(step_s * 1.5, 0.5)
        question = await run_sync(store.archive.question, question.id)
    return question


def _pieces(store: Store, question_id: str, cursor: str) -> list[Piece]:
    return list(store.answers.read(question_id, cursor, WAIT_S))


def _event(name: str, data: str) -> ServerSentEvent:
    return ServerSentEvent(data, event=name)
