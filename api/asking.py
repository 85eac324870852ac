"""Turns a request into a stored question, or says why it cannot be answered."""

from api.context import Service
from api.moments import find_past_s
from api.problems import TooMany
from api.schemas import QuestionRequest
from configs.settings import ApiSettings
from storage.agenda import Full
from storage.documents import Options, Question, Video
from storage.errors import BadRequest, Conflict, NotFound
from storage.ids import new_question_id
from storage.store import Store
from storage.stretch import Stretch, find_stretch


def keep_question(video_id: str, wanted: QuestionRequest, service: Service) -> Question:
    """Stores the question, queued or waiting for frames. Raises NotFound, BadRequest, Conflict, TooMany."""
    settings, store = service.settings, service.store
    if len(wanted.question) > settings.api.max_question_chars:
        most = settings.api.max_question_chars
        raise BadRequest(f"the question is longer than {most} characters (api.max_question_chars)")
    video = store.read_video(video_id)
    default_s = settings.cameras.default_stretch_s
    start_s, end_s = find_past_s(video, wanted.start, wanted.end, wanted.last_s, default_s)
    holder = store.read_holder(video_id)
    _require_frames(store, holder, start_s, end_s)
    if wanted.previous_question_id is not None:
        _require_answered(wanted.previous_question_id, video_id, store)
    question = Question(
        id=new_question_id(video_id),
        video_id=video_id,
        text=wanted.question.strip(),
        start_s=start_s,
        end_s=end_s,
        fusion=wanted.fusion or settings.reasoner.fusion,
        partial=wanted.partial,
        options=Options(
            temperature=wanted.temperature, top_p=wanted.top_p, max_tokens=wanted.max_tokens, seed=wanted.seed
        ),
        previous_question_id=wanted.previous_question_id,
    )
    stretch = find_stretch(store, question, holder, store.workers.read_model())
    if holder.is_live and stretch.ends_in_s <= 0 and not stretch.covered.sampled:
        raise Conflict(f"{video_id} has no frames in this stretch: the camera was not captured then (`gaps` says when)")
    if not question.partial:
        _require_fit(store, stretch)
    met = service.intake.admit_question(question, stretch)
    if met is not None:
        raise TooMany(_describe_limit(met, settings.api))
    return service.intake.add_question(question)


def _require_fit(store: Store, stretch: Stretch) -> None:
    """Raises BadRequest if the stretch exceeds the model's context: better now than once all of it is encoded."""
    expected, most = stretch.frames_expected, store.workers.read_max_frames()
    if expected is not None and most is not None and expected > most:
        raise BadRequest(
            f"this stretch has {expected} frames; the model takes {most} at most: ask about "
            f"{most / stretch.holder.sample_fps:g} s or less (start, end)"
        )


def _describe_limit(met: Full, limits: ApiSettings) -> str:
    if met == "work":
        most = limits.max_unsettled_questions
        return f"{most} questions are queued or being answered (api.max_unsettled_questions): try again later"
    if met == "video":
        most = limits.max_waiting_questions_per_video
        waiting = f"{most} questions are waiting for frames of this video (api.max_waiting_questions_per_video)"
    else:
        most = limits.max_waiting_questions
        waiting = f"{most} questions are waiting for frames (api.max_waiting_questions)"
    return f"{waiting}: ask about what is already encoded (`partial`), or try again once more of it is"


def _require_frames(store: Store, holder: Video, start_s: float, end_s: float | None) -> None:
    """Raises Conflict or BadRequest if the stretch will never have a frame."""
    if end_s is not None and not holder.grid.slots_between(start_s, end_s):
        raise BadRequest(f"no frame lies between {start_s:g} and {end_s:g} s: ask about a longer stretch")
    if not holder.settled or holder.is_live:
        return
    store.count_video(holder)
    frames = store.coverage.count_sampled(holder.id)
    if not frames:
        reason = f"{holder.problem.message} ({holder.problem.code})" if holder.problem else "the video has no frames"
        raise Conflict(f"there is nothing to ask about: {reason}")
    if not holder.grid.slots_between(start_s, frames / holder.sample_fps):
        seconds = frames / holder.sample_fps
        raise BadRequest(f"start ({start_s:g} s) lies beyond the end: the video has {seconds:g} s of frames")


def _require_answered(previous_id: str, video_id: str, store: Store) -> None:
    try:
        previous = store.read_question(previous_id)
    except NotFound as error:
        raise BadRequest(f"previous_question_id: {error}") from error
    if previous.video_id != video_id or previous.status != "done":
        raise BadRequest("previous_question_id must be the id of an answered question about the same video")
