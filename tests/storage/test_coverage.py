"""Coverage: the bits that Redis counts equal a plain dictionary."""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from storage.ids import new_video_id
from storage.progress import describe_progress
from storage.store import Store
from storage.timeline import FULL_MASK
from tests.storage.making import MODEL, OTHER_MODEL, list_keys, make_video

SEGMENTS = st.integers(0, 40)
MASKS = st.one_of(st.just(FULL_MASK), st.integers(1, FULL_MASK))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("sample"), SEGMENTS, MASKS),
        st.tuples(st.just("encode"), SEGMENTS, st.sampled_from([MODEL, OTHER_MODEL])),
        st.tuples(st.just("lose"), SEGMENTS, st.sampled_from([MODEL, OTHER_MODEL])),
        st.tuples(st.just("fail"), SEGMENTS, st.sampled_from([MODEL, OTHER_MODEL])),
        st.tuples(st.just("retry"), SEGMENTS, st.sampled_from([MODEL, OTHER_MODEL])),
    ),
    max_size=30,
)


@dataclass
class Oracle:
    """What should be known about a video."""

    sampled: dict[int, int] = field(default_factory=dict)
    encoded: dict[str, set[int]] = field(default_factory=lambda: {MODEL: set(), OTHER_MODEL: set()})
    failed: dict[str, set[int]] = field(default_factory=lambda: {MODEL: set(), OTHER_MODEL: set()})

    def count(self, segments: set[int]) -> int:
        return sum(self.sampled[segment].bit_count() for segment in segments)

    def encoded_from_the_start(self, model: str) -> int:
        count = 0
        while count in self.encoded[model]:
            count += 1
        return count


def play(store: Store, video_id: str, steps: list[tuple[str, int, int | str]]) -> Oracle:
    """Takes the same steps in Redis and in the oracle. A segment's mask never changes: it is written once."""
    oracle = Oracle()
    for step, segment, value in steps:
        if step == "sample" and isinstance(value, int):
            mask = oracle.sampled.setdefault(segment, value)
            store.coverage.mark_sampled(video_id, {segment: mask})
        elif isinstance(value, str) and segment in oracle.sampled:
            mask = oracle.sampled[segment]
            if step == "encode":
                store.coverage.mark_encoded(video_id, {segment: mask}, value)
                oracle.encoded[value].add(segment)
                oracle.failed[value].discard(segment)
            elif step == "lose":
                store.coverage.unmark_encoded(video_id, segment, mask, value)
                oracle.encoded[value].discard(segment)
            elif step == "fail" and segment not in oracle.encoded[value]:
                store.coverage.mark_failed(video_id, segment, mask, value, f"reason: {segment}")
                oracle.failed[value].add(segment)
            elif step == "retry":
                store.coverage.clear_failed(video_id, value)
                oracle.failed[value].clear()
    return oracle


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(STEPS, SEGMENTS, st.integers(0, 41))
def test_coverage_of_two_models_equals_a_plain_dictionary(
    store: Store, steps: list[tuple[str, int, int | str]], first: int, length: int
) -> None:
    video_id, stretch = new_video_id(), range(first, first + length)
    oracle = play(store, video_id, steps)
    store.coverage.set_counted(video_id)
    assert store.coverage.count_sampled(video_id) == oracle.count(set(oracle.sampled))
    end = max(oracle.sampled, default=-1) + 1
    assert end <= store.coverage.count_segments(video_id) <= end + 7
    for model in (MODEL, OTHER_MODEL):
        covered = store.coverage.read(video_id, stretch, model)
        assert covered.sampled == {k: mask for k, mask in oracle.sampled.items() if k in stretch}
        assert covered.recorded == {k for k in oracle.encoded[model] if k in stretch}
        assert covered.failed == {k: f"reason: {k}" for k in oracle.failed[model] if k in stretch}
        (totals,) = store.coverage.read_totals([video_id], model)
        assert totals is not None
        assert totals.sampled == oracle.count(set(oracle.sampled))
        assert totals.encoded == oracle.count(oracle.encoded[model])
        assert totals.failed == oracle.count(oracle.failed[model])
        assert totals.encoded_segments == oracle.encoded_from_the_start(model)
    store.coverage.forget(video_id)
    assert list_keys(store.state, f"*{video_id}*") == []


def test_marks_made_twice_count_once(store: Store) -> None:
    video_id = new_video_id()
    for _ in range(3):
        store.coverage.mark_sampled(video_id, {0: FULL_MASK, 1: 0b111})
        store.coverage.mark_encoded(video_id, {1: 0b111}, MODEL)
        store.coverage.unmark_encoded(video_id, 0, FULL_MASK, MODEL)
    store.coverage.set_counted(video_id)
    (totals,) = store.coverage.read_totals([video_id], MODEL)
    assert totals is not None
    assert (totals.sampled, totals.encoded) == (67, 3)


def test_totals_are_unknown_until_they_are_complete(store: Store) -> None:
    known, unknown = new_video_id(), new_video_id()
    for video_id in (known, unknown):
        store.coverage.mark_sampled(video_id, {0: FULL_MASK})
    store.coverage.set_counted(known)
    assert not store.coverage.is_counted(unknown)
    totals = store.coverage.read_totals([unknown, known, unknown], MODEL)
    assert [total and total.sampled for total in totals] == [None, 64, None]


def test_an_estimate_rests_on_the_work_since_it_last_stood_still(store: Store) -> None:
    video = make_video(status="ready", frames_sampled=640, frames_expected=640)
    store.coverage.mark_sampled(video.id, dict.fromkeys(range(10), FULL_MASK))
    store.coverage.set_counted(video.id)

    def encode(segment: int) -> None:
        store.coverage.mark_encoded(video.id, {segment: FULL_MASK}, MODEL)

    def pass_time(seconds: int) -> None:
        for name in ("since", "last"):
            store.state.hincrby(f"lw:totals:{video.id}", f"encoded:{MODEL}:{name}", -seconds)

    def estimate() -> float | None:
        (totals,) = store.coverage.read_totals([video.id], MODEL)
        assert totals is not None
        return describe_progress(video, totals).eta_s

    assert estimate() is None
    encode(0)
    assert estimate() is None  # one segment tells no pace
    pass_time(50)
    encode(1)
    assert 8 * 50 <= (estimate() or 0) < 8 * 60
    pass_time(10 * 3600)
    assert estimate() is None  # it stands still
    encode(2)
    pass_time(100)
    encode(3)
    assert 6 * 100 <= (estimate() or 0) < 6 * 110  # the night does not count
