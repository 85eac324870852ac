"""The reasoner's job that tries a watch on the past: what would it have answered, and what would it have sent?"""

import logging

from configs.settings import Settings
from llava_mini.errors import ModelError
from reasoner.engine import Engine
from reasoner.watch_rules import judge
from reasoner.watch_windows import open_window, pool_means
from storage.documents import Problem, Video
from storage.errors import LongwatchError, NotFound
from storage.live_documents import Watch
from storage.store import Store
from storage.watch_intervals import list_window, slots_of
from storage.watch_trials import TrialEvaluation, WatchTrial
from storage.watches import IntervalMean, WatchStatus

log = logging.getLogger(__name__)


class WatchTrialJobs:
    """`try_watch`. Nothing of the watch itself changes."""

    def __init__(self, settings: Settings, store: Store, engine: Engine) -> None:
        self._settings = settings
        self._store = store
        self._engine = engine

    def try_watch(self, stream_id: str, trial_id: str) -> None:
        """Evaluates the watch at the end of each interval of the trial; readers see each as it comes.

        Whatever fails ends the trial: nobody queues its job again, but its user can.
        """
        try:
            trial = self._store.watch_trials.read(trial_id)
            stream, watch = self._store.read_stream(stream_id), self._store.watches.read(trial.watch_id)
        except NotFound as error:
            log.info("a trial is dropped: %s", error)
            return
        try:
            self._run(trial, stream, watch)
        except (LongwatchError, ModelError) as error:
            log.error("trial %s of watch %s failed: %s", trial_id, watch.id, error)
            self._fail(trial, error.code, str(error))

    def give_up_trial(self, reason: str, stream_id: str, trial_id: str) -> None:
        """Settles the trial as failed."""
        try:
            self._fail(self._store.watch_trials.read(trial_id), "internal", f"{reason}; see logs/reasoner.log")
        except NotFound as error:
            log.info("a trial is dropped: %s", error)

    def _run(self, trial: WatchTrial, stream: Video, watch: Watch) -> None:
        status, found = WatchStatus(), list[TrialEvaluation]()
        prompt, known = self._engine.build_prompt([(watch.question, None)]), dict[int, IntervalMean]()
        for interval in range(trial.first_interval, trial.last_interval + 1):
            intervals = list_window(watch, interval)
            window = open_window(
                self._settings, self._store, self._engine, stream, slots_of(watch, stream.sample_fps, intervals)
            )
            if window is None:
                continue
            self._engine.require_fit(len(window.frames), prompt, self._settings.watches.max_tokens)
            known |= window.fuse_missing(watch, prompt, intervals, known)
            rows = pool_means([known[each] for each in intervals if each in known])
            source = window.make_source(prompt.before)
            (reply,) = self._engine.answer_together(source, [(prompt, rows)], self._settings.watches.max_tokens)
            at = stream.grid.clock(window.frames[-1].t_s)
            assert at is not None, "a stream has a grid in wall-clock time"
            status, event = judge(watch, status, interval, reply.text, reply.probability, at)
            found.append(
                TrialEvaluation.model_validate(
                    {"at": at, "answer": reply.text, "probability": reply.probability, "event": event}
                )
            )
            known = {each: mean for each, mean in known.items() if each > interval - len(intervals)}
            self._store.watch_trials.write(trial.model_copy(update={"status": "running", "evaluations": tuple(found)}))
        self._store.watch_trials.write(trial.model_copy(update={"status": "done", "evaluations": tuple(found)}))

    def _fail(self, trial: WatchTrial, code: str, message: str) -> None:
        problem = Problem(code=code, message=message)
        self._store.watch_trials.write(trial.model_copy(update={"status": "failed", "problem": problem}))
