"""Takes requests from users: adds, retries and deletes videos, adds and cancels questions."""

from collections.abc import Mapping

from configs.settings import Settings
from jobs.inspector import Inspector
from jobs.queues import trial_call
from storage import agenda as due
from storage.agenda import Full, Limits
from storage.deletion import delete_video
from storage.deliveries import agenda_item
from storage.documents import Capture, Credentials, Question, Video
from storage.errors import Conflict, GivenAway, NotFound, StateRebuilding
from storage.live_documents import Delivery
from storage.store import UNWRITTEN_S, Store
from storage.stretch import Stretch
from storage.watch_trials import WatchTrial

# A capture starts again when one of these changes.
RESTARTS = {"location", "transport", "mode", "record", "static_threshold"}


class Intake:
    """Stores each request and queues its jobs at once. Raises NotFound, ArchiveUnavailable, RedisUnavailable."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._inspector = Inspector(store, settings.jobs)
        self._retry_again_s = settings.jobs.reconcile_interval_s
        api = settings.api
        self._limits = Limits(
            api.max_unsettled_questions, api.max_waiting_questions_per_video, api.max_waiting_questions
        )

    def add_video(self, video: Video) -> None:
        """Adds a new video and queues its first job."""
        self._store.add_video(video)
        self._store.agenda.remove(due.DELETIONS, video.id)
        self._inspector.inspect_video(video.id)

    def add_stream(self, stream: Video, credentials: Credentials) -> None:
        """Adds a new stream. A capture worker finds it within seconds."""
        # If this process dies before the document is written, the reconciler finds the credentials through this entry.
        self._store.agenda.put(due.DELETIONS, stream.id, in_s=UNWRITTEN_S)
        self._store.archive.write_credentials(stream.id, credentials)
        self.add_video(stream)

    def change_stream(self, stream_id: str, changes: Mapping[str, object], credentials: Credentials | None) -> Video:
        """Changes the document's fields and those of its `capture`; raises NotFound.

        What a running capture must know raises the revision, so that it starts again.
        """
        if credentials is not None:
            self._store.read_stream(stream_id)
            self._store.archive.write_credentials(stream_id, credentials)

        def change(video: Video) -> Video:
            assert video.capture is not None, "a stream has one"
            inner = {name: value for name, value in changes.items() if name in Capture.model_fields}
            outer = {name: value for name, value in changes.items() if name not in inner}
            restarts = credentials is not None or any(
                getattr(video.capture if name in inner else video, name) != value
                for name, value in changes.items()
                if name in RESTARTS
            )
            inner["revision"] = video.capture.revision + restarts
            return video.model_copy(update={**outer, "capture": video.capture.model_copy(update=inner)})

        return self._store.change_stream(stream_id, change)

    def try_watch(self, stream_id: str, trial: WatchTrial) -> WatchTrial:
        """Queues a trial of a watch on the past."""
        self._store.watch_trials.write(trial)
        self._inspector.queues.ensure([trial_call(stream_id, trial.id)])
        return trial

    def claim_upload(self, video: Video) -> Video | None:
        """Makes the upload the owner of its content. If another video already owns it, returns that video."""
        assert video.content_key is not None, "an upload's content is known"
        owner_id = self._store.claim_content(video)
        if owner_id is not None:
            return self._store.read_video(owner_id)
        # The bytes go into the archive next. If this process dies then, the reconciler finds them through this entry.
        self._store.agenda.put(due.DELETIONS, video.id, in_s=UNWRITTEN_S)
        return None

    def fill_in(self, known: Video, given: Video) -> Video:
        """Adds a missing title or wall clock to a video that was submitted again; existing values stay.

        An unsettled video is left as it is, because its worker writes the document.
        """
        if not known.settled:
            return known
        merged = {"title": known.title or given.title, "recorded_at": known.recorded_at or given.recorded_at}
        filled = known.model_copy(update=merged)
        if filled != known:
            self._store.update_video(filled)
        return filled

    def admit_question(self, question: Question, stretch: Stretch) -> Full | None:
        """Reserves a place for a question that is added next. If a limit is reached, returns which one."""
        waits = not stretch.is_ready(partial=question.partial)
        return self._store.agenda.admit(question.id, self._limits, waits=waits, in_s=UNWRITTEN_S)

    def add_question(self, question: Question) -> Question:
        """Adds a question; returns it as queued or waiting for frames. `admit_question` checks the limits."""
        self._store.add_question(question)
        self._inspector.inspect_question(question.id, question)
        return self._store.index.with_states([question])[0]

    def cancel_question(self, question_id: str) -> Question:
        """Cancels a question. A running one stops after its current piece; a settled one is left as it is."""
        question = self._store.read_question(question_id)
        if question.settled:
            return question
        self._store.answers.cancel(question_id)
        self._inspector.queues.withdraw_answer(question_id)
        question = self._store.read_question(question_id)
        if question.settled or question.status == "running":
            return question
        fence = self._store.fences.take(question_id)  # invalidates an attempt that begins right now
        cancelled = question.model_copy(update={"status": "cancelled"})
        try:
            self._store.settle_question(cancelled, fence)
        except GivenAway:  # an attempt began nevertheless: it sees the request to cancel
            return self._store.read_question(question_id)
        self._inspector.inspect_question(question_id, cancelled)  # it no longer waits for frames
        return cancelled

    def retry_video(self, video_id: str) -> Video:
        """Ingests a failed video again, and retries segments that could not be encoded; raises Conflict."""
        video = self._store.read_video(video_id)
        model = self._store.workers.read_model()
        (progress,) = self._store.read_progress([video])
        if video.status != "failed" and progress is None:
            raise StateRebuilding(f"the progress of {video_id} is being read from the archive: try again in a moment")
        if video.status != "failed" and not (progress and progress.frames_failed):
            raise Conflict(f"{video_id} has nothing to retry: it is {video.status}")
        holder_id = video.duplicate_of or video_id
        self._store.coverage.clear_failed(holder_id, model)
        if video.status == "failed":
            video = video.model_copy(update={"status": "queued", "problem": None, "frames_sampled": None})
            self._store.update_video(video)
        self._store.agenda.put(due.VIDEOS, holder_id)
        self._inspector.inspect_video(holder_id)
        self._store.agenda.put(
            due.VIDEOS, holder_id, in_s=self._retry_again_s
        )  # the job that failed may still be ending
        return video

    def delete_video(self, video_id: str) -> None:
        """Deletes a video with everything that belongs to it; raises NotFound, Conflict, StateRebuilding."""
        if not self._store.index.is_ready():
            raise StateRebuilding(f"{video_id}'s duplicates are being read from the archive: try again in a moment")
        delete_video(self._store, video_id)

    def redeliver_event(self, event_id: str) -> Delivery:
        """Posts an event to its watch's webhook again, whatever became of it; raises NotFound, Conflict."""
        event = self._store.events.find(event_id)
        known = self._store.deliveries.get(event.stream_id, event_id)
        if event.watch_id is None or known is None:
            raise NotFound(f"event {event_id} does not go to a webhook")
        watch = self._store.archive.read_watch(event.stream_id, event.watch_id)
        if watch.webhook is None:
            raise Conflict(f"watch {watch.id} has no webhook any more: give it one first")
        again = Delivery(event_id=event_id, stream_id=event.stream_id, watch_id=watch.id)
        self._store.archive.write_delivery(again)
        self._store.deliveries.put(again)
        self._inspector.inspect_deliveries(agenda_item(event.stream_id, watch.id))
        return again

    def count_unsettled_videos(self) -> int:
        """Counts the videos that are still being fetched, sampled or encoded."""
        return self._store.agenda.count(due.VIDEOS)
