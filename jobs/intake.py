"""What users may ask for: videos and questions taken in, cancelled, tried again, deleted."""

from configs.settings import Settings
from jobs.inspector import Inspector
from storage import agenda as due
from storage.agenda import Full, Limits
from storage.deletion import delete_video
from storage.documents import Question, Video
from storage.errors import Conflict, GivenAway, StateRebuilding
from storage.store import UNWRITTEN_S, Store
from storage.stretch import Stretch


class Intake:
    """Keeps what is asked for, and has it begun at once. Raises NotFound, ArchiveUnavailable, RedisUnavailable."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._inspector = Inspector(store, settings.jobs)
        api = settings.api
        self._limits = Limits(
            api.max_unsettled_questions, api.max_waiting_questions_per_video, api.max_waiting_questions
        )

    def add_video(self, video: Video) -> None:
        """Takes a new video in."""
        self._store.add_video(video)
        self._store.agenda.remove(due.DELETIONS, video.id)
        self._inspector.inspect_video(video.id)

    def claim_upload(self, video: Video) -> Video | None:
        """Makes the upload the owner of its content; another video that has this content already, if there is one."""
        assert video.content_key is not None, "an upload's content is known"
        owner_id = self._store.claim_content(video)
        if owner_id is not None:
            return self._store.read_video(owner_id)
        # Its bytes go into the archive now: they are found again if this process dies before it is a video.
        self._store.agenda.put(due.DELETIONS, video.id, in_s=UNWRITTEN_S)
        return None

    def fill_in(self, known: Video, given: Video) -> Video:
        """Has a video that was submitted again take the title and the wall clock that it lacks; what it has stays.

        The document of one that is not settled is its worker's to write: that one stays as it is.
        """
        if not known.settled:
            return known
        lacking = {"title": known.title or given.title, "recorded_at": known.recorded_at or given.recorded_at}
        filled = known.model_copy(update=lacking)
        if filled != known:
            self._store.update_video(filled)
        return filled

    def admit_question(self, question: Question, stretch: Stretch) -> Full | None:
        """Keeps a place for a question that is added next; or says which of the limits is met."""
        waits = not stretch.is_ready(partial=question.partial)
        return self._store.agenda.admit(question.id, self._limits, waits=waits, in_s=UNWRITTEN_S)

    def add_question(self, question: Question) -> Question:
        """Takes a question in; as it is then: queued, or waiting for frames. Limits are `admit_question`'s."""
        self._store.add_question(question)
        self._inspector.inspect_question(question.id, question)
        return self._store.index.with_states([question])[0]

    def cancel_question(self, question_id: str) -> Question:
        """Stops a question after the piece at hand; one that is not running ends at once. A settled one stays."""
        question = self._store.read_question(question_id)
        if question.settled:
            return question
        self._store.answers.cancel(question_id)
        self._inspector.queues.withdraw_answer(question_id)
        question = self._store.read_question(question_id)
        if question.settled or question.status == "running":
            return question
        fence = self._store.fences.take(question_id)  # an attempt that begins at this moment no longer counts
        cancelled = question.model_copy(update={"status": "cancelled"})
        try:
            self._store.settle_question(cancelled, fence)
        except GivenAway:  # an attempt began all the same: it sees the wish to stop
            return self._store.read_question(question_id)
        self._inspector.inspect_question(question_id, cancelled)  # it waits for no frames any more
        return cancelled

    def retry_video(self, video_id: str) -> Video:
        """Has a failed video ingested anew, and segments that could not be encoded tried again; raises Conflict."""
        video = self._store.read_video(video_id)
        model = self._store.workers.read_model()
        (progress,) = self._store.read_progress([video])
        if video.status != "failed" and progress is None:
            raise StateRebuilding(f"how far {video_id} is, is being read from the archive: try again in a moment")
        if video.status != "failed" and not (progress and progress.frames_failed):
            raise Conflict(f"{video_id} has nothing to try again: it is {video.status}")
        holder_id = video.duplicate_of or video_id
        self._store.coverage.clear_failed(holder_id, model)
        if video.status == "failed":
            video = video.model_copy(update={"status": "queued", "problem": None, "frames_sampled": None})
            self._store.update_video(video)
        self._store.agenda.put(due.VIDEOS, holder_id)
        self._inspector.inspect_video(holder_id)
        return video

    def delete_video(self, video_id: str) -> None:
        """Removes a video with all that belongs to it; raises NotFound, Conflict, StateRebuilding."""
        if not self._store.index.is_ready():
            raise StateRebuilding("which videos lean on this one is being read from the archive: try again in a moment")
        delete_video(self._store, video_id)

    def count_unsettled_videos(self) -> int:
        """Videos that are still being fetched, sampled or encoded."""
        return self._store.agenda.count(due.VIDEOS)
