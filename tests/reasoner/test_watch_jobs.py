"""Standing questions are answered from means that the live encoder made, as one batch, and become events once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest

from configs.settings import Settings
from encoder_worker.encoder import Encoder
from encoder_worker.live_encoding import LiveEncoder
from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from reasoner.engine import Engine
from reasoner.focus import Frame
from reasoner.watch_jobs import WatchJobs
from reasoner.watch_trial_jobs import WatchTrialJobs
from storage.errors import ArchiveUnavailable, LongwatchError, RedisUnavailable
from storage.ids import new_question_id
from storage.live_documents import Event, Watch
from storage.segments import SegmentFrame
from storage.store import Store
from storage.timeline import locate, masks_of
from storage.watch_trials import WatchTrial
from tests.reasoner.asking import make_engine, make_gatherer
from tests.reasoner.conftest import Encoding
from tests.storage.making import make_stream
from tests.submitting import draw_pictures
from tests.tiny import TINY
from tests.tolerance import HALF
from tests.watched import WatchedLanguage, WatchedModel, with_language

TEXT = "is there a red circle ?"
AddWatch = Callable[..., Watch]


class Live:
    """A stream whose slot 194 is now, and the live encoder."""

    def __init__(self, settings: Settings, store: Store, encoder: Encoder) -> None:
        start = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=194)
        self.store = store
        self.stream = make_stream(recorded_at=start)
        store.add_video(self.stream)
        self.encoder = LiveEncoder(settings, store, encoder, "one")

    def feed(self, slots: range) -> None:
        """Captures frames in these slots, and encodes them."""
        pictures = draw_pictures(100)
        for segment, mask in masks_of(slots).items():
            places = [place for place in range(64) if mask >> place & 1]
            frames = [
                SegmentFrame(place, segment * 64 + place + 0.5, pictures[(segment * 64 + place) % 100], None)
                for place in places
            ]
            self.store.add_frames(self.stream.id, segment, frames)
        for _ in range(len(slots) // 4 + 2):
            self.encoder.run_once()


@pytest.fixture
def live(settings: Settings, store: Store, encoder: Encoder) -> Live:
    store.workers.announce_model(encoder.fingerprint)
    store.index.set_ready(store.index.read_generation())
    return Live(settings, store, encoder)


@pytest.fixture
def watching(settings: Settings, store: Store, engine: Engine) -> WatchJobs:
    return WatchJobs(settings, store, engine)


@pytest.fixture
def add_watch(store: Store, live: Live) -> AddWatch:
    def add(question: str = TEXT, **values: Any) -> Watch:
        base = {"id": new_question_id(live.stream.id), "stream_id": live.stream.id, "question": question}
        watch = Watch.model_validate(base | {"every_s": 10, "window_s": 10, "notify": "always"} | values)
        store.watches.write(watch)
        live.encoder._shared_at = float("-inf")  # looks for new watches at once
        return watch

    return add


def list_events(store: Store) -> list[Event]:
    return store.events.read("", 1000)


def test_an_answer_is_that_of_the_papers_mean_over_the_window(
    live: Live,
    add_watch: AddWatch,
    watching: WatchJobs,
    store: Store,
    engine: Engine,
    encoding: Encoding,
    settings: Settings,
) -> None:
    watch = add_watch(window_s=30)
    live.feed(range(150, 192))
    watching.evaluate_watches(live.stream.id)
    (event,) = list_events(store)
    assert (event.type, event.watch_id, event.question) == ("answer", watch.id, TEXT)
    assert live.stream.recorded_at is not None
    assert event.end_at == live.stream.recorded_at + timedelta(seconds=189.5)
    assert event.start_at == live.stream.recorded_at + timedelta(seconds=160.5)

    masks = masks_of(range(160, 190))
    gather = make_gatherer(settings, store, engine.fingerprint, live.stream, masks)
    prompt = engine.build_prompt([(TEXT, None)])
    frames = [Frame(slot, live.stream.grid.time_s(slot)) for slot in range(160, 190)]
    rows = gather.fuse(prompt.text, len(prompt.before), frames)
    (means,) = store.watches.read_means([watch.id], engine.fingerprint, range(16, 19))
    pooled = sum(mean.rows.astype(np.float32) * mean.frames for mean in means.values()) / 30
    np.testing.assert_allclose(pooled, rows, **HALF)
    assert event.answer in ("yes", "no")
    assert event.probability is not None
    assert 0.5 <= event.probability <= 1
    assert [each.slot in range(160, 190) for each in event.evidence] == [True] * 4
    assert event.picture == f"/v1/streams/{live.stream.id}/frames/{event.evidence[0].slot}.jpg"


def test_a_new_watch_looks_at_its_window_in_the_past_once_and_no_further(
    settings: Settings, store: Store, watching: WatchJobs, encoding: Encoding, add_watch: AddWatch, live: Live
) -> None:
    live.feed(range(100, 180))
    watch = add_watch(window_s=40)
    live.feed(range(180, 191))
    watching.evaluate_watches(live.stream.id)
    (event,) = list_events(store)
    assert live.stream.recorded_at is not None
    assert event.start_at == live.stream.recorded_at + timedelta(seconds=150.5)
    (means,) = store.watches.read_means([watch.id], encoding.jobs._encoder.fingerprint, range(30))
    assert sorted(means) == [15, 16, 17, 18, 19][: len(means)]
    assert {means[interval].frames for interval in (15, 16, 17, 18)} == {10}


def test_many_watches_are_one_batch_and_each_gets_its_own_answer(
    live: Live, add_watch: AddWatch, store: Store, model: LlavaMini, prompts: PromptBuilder, settings: Settings
) -> None:
    colours = ("red", "green", "blue", "yellow", "purple", "white")
    questions = [f"is there a {c} {s} ?" for c in colours for s in ("circle", "square", "star")]
    watches = {add_watch(question).id: question for question in questions}
    live.feed(range(170, 191))
    language = WatchedLanguage(model)
    engine = make_engine(with_language(model, language), prompts, settings)
    WatchJobs(settings, store, engine).evaluate_watches(live.stream.id)
    events = list_events(store)
    assert {event.watch_id: event.question for event in events} == watches
    assert language.count("prefill") == 1
    assert len(language.calls) < len(questions) + 10, "not one pass for each question"

    alone = {}
    for watch_id, question in watches.items():
        before = len(events)
        other = store.archive.read_watch(live.stream.id, watch_id)
        (means,) = store.watches.read_means([other.id], engine.fingerprint, range(18, 19))
        assert means[18].frames == 10
        alone[watch_id] = question
        assert before == len(events)
    assert len(alone) == len(events)


def test_a_job_that_runs_again_publishes_nothing_twice(
    live: Live, add_watch: AddWatch, watching: WatchJobs, store: Store
) -> None:
    add_watch()
    live.feed(range(170, 191))
    watching.evaluate_watches(live.stream.id)
    watching.evaluate_watches(live.stream.id)
    assert len(list_events(store)) == 1
    store.state.delete(*store.state.keys("lw:watch-status:*"))  # as if it had died before it noted the evaluation
    watching.evaluate_watches(live.stream.id)
    assert len(list_events(store)) == 1


def test_an_interval_without_frames_is_not_evaluated(
    live: Live, add_watch: AddWatch, watching: WatchJobs, store: Store
) -> None:
    add_watch(window_s=30)
    live.feed(range(150, 165))
    watching.evaluate_watches(live.stream.id)
    assert list_events(store) == []


def test_a_deleted_watch_leaves_nothing_behind(
    live: Live, add_watch: AddWatch, watching: WatchJobs, store: Store
) -> None:
    watch = add_watch()
    live.feed(range(170, 191))
    watching.evaluate_watches(live.stream.id)
    assert store.watches.read_history(watch.id, 10)
    store.watches.delete(watch, store.coverage.list_models())
    live.encoder._shared_at = float("-inf")
    live.feed(range(191, 193))
    assert [key for key in store.state.scan_iter() if watch.id.encode() in key] == []
    assert store.watches.list_watches(live.stream.id) == []


def test_watches_come_back_from_the_archive(live: Live, add_watch: AddWatch, store: Store) -> None:
    watches = [add_watch(question) for question in ("what is there now ?", TEXT)]
    store.state.flushall()
    assert store.watches.list_watches(live.stream.id) == watches


def test_the_encoder_fuses_watches_in_the_pass_in_which_it_encodes(
    settings: Settings, store: Store, model: LlavaMini, prompts: PromptBuilder, live: Live, add_watch: AddWatch
) -> None:
    vision = WatchedModel(LlavaMini.from_pretrained(TINY, parts=("vision",)))
    live.encoder = LiveEncoder(settings, store, Encoder(cast(LlavaMini, vision), prompts, 16), "one")
    add_watch()
    add_watch("what is there now ?")
    live.feed(range(170, 191))
    assert sum(frames for frames, _ in vision.calls) == 21
    assert {texts for _, texts in vision.calls} == {3}
    assert locate(190)[0] == 2


def test_a_trial_on_the_past_answers_and_would_send_as_the_watch_does(
    settings: Settings, store: Store, engine: Engine, encoding: Encoding, live: Live, add_watch: AddWatch
) -> None:
    watch = add_watch("what is there now ?", window_s=20, notify="change")
    live.feed(range(100, 120))
    live.feed(range(140, 192))
    trial = WatchTrial(id="t", watch_id=watch.id, first_interval=9, last_interval=18)
    store.watch_trials.write(trial)
    WatchTrialJobs(settings, store, engine).try_watch(live.stream.id, "t")
    done = store.watch_trials.read("t")
    assert (done.status, done.problem) == ("done", None)
    assert live.stream.recorded_at is not None
    ends = [(each.at - live.stream.recorded_at).total_seconds() for each in done.evaluations]
    assert ends == [109.5, 119.5, 119.5, 149.5, 159.5, 169.5, 179.5, 189.5], "nothing where the window has no frames"
    values = [each.answer for each in done.evaluations]
    changes = [one != other for one, other in pairwise(values)]
    assert [each.event for each in done.evaluations] == [None, *("answer" if changed else None for changed in changes)]
    assert list_events(store) == []
    assert store.watches.read_status([watch.id])[0].interval == -1


@pytest.mark.parametrize("error", [RedisUnavailable("the state is away"), ArchiveUnavailable("no disk")])
def test_a_trial_that_meets_an_outage_ends_with_the_reason(
    settings: Settings,
    store: Store,
    engine: Engine,
    live: Live,
    add_watch: AddWatch,
    monkeypatch: pytest.MonkeyPatch,
    error: LongwatchError,
) -> None:
    def fail(*_: object) -> None:
        raise error

    watch = add_watch()
    store.watch_trials.write(WatchTrial(id="t", watch_id=watch.id, first_interval=9, last_interval=9))
    monkeypatch.setattr(store, "read_coverage", fail)
    WatchTrialJobs(settings, store, engine).try_watch(live.stream.id, "t")
    ended = store.watch_trials.read("t")
    assert ended.status == "failed"
    assert ended.problem is not None
    assert (ended.problem.code, ended.problem.message) == (error.code, str(error))


def test_an_interval_is_evaluated_as_soon_as_its_last_frame_is_fused(
    live: Live, add_watch: AddWatch, watching: WatchJobs, store: Store
) -> None:
    """The last slot's frame comes before the clock says that the interval is over: nobody waits for the next one."""
    add_watch(every_s=65, window_s=65)  # slots 130 to 194; it is about 194 s now
    live.feed(range(185, 194))
    watching.evaluate_watches(live.stream.id)
    assert list_events(store) == [], "its last frame is still to come"
    live.feed(range(194, 195))
    watching.evaluate_watches(live.stream.id)
    assert [event.evidence[-1].slot in range(185, 195) for event in list_events(store)] == [True]
