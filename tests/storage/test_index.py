"""The index: pages, prefixes, owners of content, and deleted videos that stay deleted."""

import threading

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from storage.ids import new_video_id
from storage.store import Store
from tests.storage.making import list_keys, make_question, make_video


def test_pages_hold_every_video_once_newest_first(store: Store) -> None:
    ids = [f"20261121-0000{number:05d}-aaaaaa" for number in range(23)]
    for video_id in ids:
        store.index.put_video(make_video(id=video_id))
    found: list[str] = []
    while page := store.index.list_videos(found[-1] if found else None, 5):
        assert len(page) <= 5
        found += page
    assert found == ids[::-1]


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.sets(st.text("01", min_size=3, max_size=3), max_size=8), st.text("01", max_size=3), st.text("01", max_size=3))
def test_a_prefix_names_its_videos_and_no_others(store: Store, ends: set[str], prefix: str, before: str) -> None:
    store.state.flushall()
    video = make_video()
    store.index.add_questions(video.id, ends)
    expected = sorted((end for end in ends if end.startswith(prefix)), reverse=True)
    assert store.index.list_questions(video.id, None, 100, prefix) == expected
    older = [end for end in expected if end < before]
    assert store.index.list_questions(video.id, before, 100, prefix) == older


def test_a_cursor_beyond_the_prefix_adds_no_other_videos(store: Store) -> None:
    for video_id in ("20261121-000000000-aaaaaa", "20271121-000000000-aaaaaa"):
        store.index.put_video(make_video(id=video_id))
    assert store.index.list_videos("2028", 10, "2026") == ["20261121-000000000-aaaaaa"]


def test_one_of_many_claims_at_once_wins_the_content(store: Store) -> None:
    ids = [new_video_id() for _ in range(8)]
    start = threading.Barrier(len(ids))
    owners: list[str] = []

    def claim(video_id: str) -> None:
        start.wait()
        owners.append(store.index.claim_content("content", video_id))

    threads = [threading.Thread(target=claim, args=(video_id,)) for video_id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(owners) == len(ids)
    assert len(set(owners)) == 1
    assert owners[0] in ids


def test_only_the_owner_can_release_a_content(store: Store) -> None:
    first, second = new_video_id(), new_video_id()
    assert store.index.claim_content("content", first) == first
    store.index.release_content("content", second)
    assert store.index.claim_content("content", second) == first
    store.index.release_content("content", first)
    assert store.index.claim_content("content", second) == second


@pytest.mark.parametrize("junk", [b"junk", b"\xff\xfe", b""])
def test_an_owner_that_is_not_a_video_is_replaced(store: Store, junk: bytes) -> None:
    store.state.set("lw:content:content", junk)
    assert store.index.claim_content("content", video_id := new_video_id()) == video_id
    store.state.delete("lw:content:content")
    store.state.rpush("lw:content:content", "a list")
    assert store.index.claim_content("content", video_id) == video_id


def test_a_video_cannot_be_marked_as_deleted_while_duplicates_use_it(store: Store) -> None:
    holder = make_video()
    copies = [make_video(status="duplicate", duplicate_of=holder.id) for _ in range(2)]
    for copy in copies:
        store.index.put_video(copy)
    assert store.index.list_duplicates(holder.id) == sorted(copy.id for copy in copies)
    assert store.index.mark_deleted(holder.id) is False
    assert not store.index.is_deleted(holder.id)
    store.index.forget_video(copies[0])
    store.index.remove_duplicate(copies[1].id, holder_id=holder.id)
    assert store.index.mark_deleted(holder.id) is True


def test_late_writes_do_not_bring_a_deleted_video_back(store: Store) -> None:
    video = make_video()
    assert store.index.mark_deleted(video.id)
    store.index.put_video(video)
    store.index.add_questions(video.id, [make_question(video).id])
    store.coverage.mark_sampled(video.id, {0: 1})
    store.coverage.mark_encoded(video.id, {0: 1}, "model")
    store.coverage.unmark_encoded(video.id, 5, 1, "model")
    store.coverage.set_counted(video.id)
    assert store.index.list_videos(None, 10) == []
    assert list_keys(store.state, f"*{video.id}*") == [f"lw:deleted:{video.id}"]


def test_readers_learn_of_each_change_of_state_once(store: Store) -> None:
    question = make_question(make_video())
    for state in ("waiting", "waiting", "queued"):
        store.set_question_state(question.id, state)
    assert [piece.kind for piece in store.answers.read(question.id)] == ["state", "state"]
    assert store.index.with_states([question])[0].status == "queued"
    settled = make_question(make_video(), status="done")
    store.set_question_state(settled.id, "running")
    assert [one.status for one in store.index.with_states([settled, question])] == ["done", "queued"]
    store.answers.settle(question.id, question.video_id)
    assert store.index.with_states([question]) == [question]
