"""Fences, answers, locks and the agenda: only the newest attempt at a target counts, even across a flush."""

import threading

import pytest

from storage import agenda as due
from storage.agenda import Limits
from storage.documents import Question, Video
from storage.errors import GivenAway
from storage.ids import new_question_id, new_video_id
from storage.store import Store
from tests.storage.making import make_question, make_video


def kinds(store: Store, question_id: str) -> list[tuple[str, str]]:
    return [(piece.kind, piece.text) for piece in store.answers.read(question_id)]


def test_readers_get_no_pieces_of_an_attempt_that_lost_its_job(store: Store) -> None:
    question_id = new_question_id(new_video_id())
    first = store.fences.take(question_id)
    assert store.answers.begin(first)
    assert store.answers.send(first, "a red")
    second = store.fences.take(question_id)
    assert store.answers.begin(second)
    with pytest.raises(GivenAway):
        store.answers.send(first, " circle")
    store.answers.send(second, "a blue")
    assert kinds(store, question_id) == [("state", ""), ("text", "a red"), ("restart", ""), ("text", "a blue")]


def test_an_attempt_that_lost_its_job_cannot_settle_it(store: Store) -> None:
    video, question = add_question(store)
    first, second = store.fences.take(question.id), store.fences.take(question.id)
    with pytest.raises(GivenAway):
        store.settle_question(question.model_copy(update={"status": "failed"}), first)
    assert store.read_question(question.id).status == "queued"
    store.settle_question(question.model_copy(update={"status": "done"}), second)
    assert store.read_question(question.id).status == "done"
    stale, _ = store.fences.take(video.id), store.fences.take(video.id)
    with pytest.raises(GivenAway):
        store.update_video(video.model_copy(update={"status": "failed"}), stale)
    assert store.read_video(video.id).status == "queued"


def test_an_attempt_that_wakes_after_the_end_changes_nothing(store: Store) -> None:
    _, question = add_question(store)
    late = store.fences.take(question.id)
    store.settle_question(question.model_copy(update={"status": "done"}), store.fences.take(question.id))
    before = kinds(store, question.id)
    with pytest.raises(GivenAway):
        store.answers.send(late, "late")
    with pytest.raises(GivenAway):
        store.settle_question(question.model_copy(update={"status": "failed"}), late)
    store.state.flushall()  # the fence is gone, the settled document is not
    with pytest.raises(GivenAway):
        store.settle_question(question.model_copy(update={"status": "failed"}), late)
    assert store.archive.read_question(question.id).status == "done"
    assert before[-1] == ("done", "")


def test_a_running_attempt_continues_after_a_flush(store: Store) -> None:
    _, question = add_question(store)
    first = store.fences.take(question.id)
    store.answers.send(first, "a")
    store.state.flushall()
    assert store.answers.send(first, "b")
    store.fences.check(first)
    store.settle_question(question.model_copy(update={"status": "done"}), first)
    assert kinds(store, question.id) == [("text", "b"), ("done", "")]


def test_readers_of_the_end_find_the_answer(store: Store) -> None:
    _, question = add_question(store)
    found: list[str] = []

    def read() -> None:
        cursor, ended = "0", False
        while not ended:
            for piece in store.answers.read(question.id, cursor, 1.0):
                cursor, ended = piece.cursor, piece.kind == "done"
        found.append(store.read_question(question.id).status)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    store.settle_question(question.model_copy(update={"status": "done"}), store.fences.take(question.id))
    for reader in readers:
        reader.join(timeout=20)
    assert found == ["done"] * 4


def test_a_cancelled_or_deleted_answer_is_not_wanted(store: Store) -> None:
    video, question = add_question(store)
    fence = store.fences.take(question.id)
    assert store.answers.is_wanted(question.id)
    store.answers.cancel(question.id)
    assert not store.answers.is_wanted(question.id)
    assert store.answers.send(fence, "the current piece") is False
    other = make_question(video)
    store.add_question(other)
    store.index.mark_deleted(video.id)
    assert not store.answers.is_wanted(other.id)


def test_reading_waits_for_the_first_piece_and_no_longer(store: Store) -> None:
    question_id = new_question_id(new_video_id())
    assert list(store.answers.read(question_id, wait_s=0.05)) == []
    fence = store.fences.take(question_id)
    sender = threading.Timer(0.2, lambda: store.answers.send(fence, "x"))
    sender.start()
    (piece,) = store.answers.read(question_id, wait_s=1.4)
    assert piece.text == "x"
    assert list(store.answers.read(question_id, piece.cursor)) == []
    sender.join()


def test_a_malformed_piece_is_skipped(store: Store) -> None:
    question_id = new_question_id(new_video_id())
    for junk in (b"x", b'["run", "this"]', b"[]", b'{"text": 1}', b"\xff"):
        store.state.xadd(f"lw:pieces:{question_id}", {"piece": junk})
    store.state.xadd(f"lw:pieces:{question_id}", {"other": "x"})
    store.answers.send(store.fences.take(question_id), "ours")
    assert kinds(store, question_id) == [("text", "ours")]


def test_only_one_process_holds_a_lock_and_an_abandoned_lock_expires(store: Store) -> None:
    with store.locks.hold("x", hold_s=30) as one:
        assert one
        with store.locks.hold("x", hold_s=30) as other:
            assert not other
        assert not store.locks.hold("x", hold_s=30).__enter__()
    with store.locks.hold("x", hold_s=0.2), store.locks.hold("x", hold_s=30, wait_s=5) as after:
        assert after


def test_renewing_a_lock_extends_it_unless_another_process_took_it(store: Store) -> None:
    with store.locks.hold("x", hold_s=30) as held:
        assert held
        store.state.pexpire("lw:lock:x", 5000)
        assert held.renew()
        assert store.state.pttl("lw:lock:x") > 20_000
        store.state.delete("lw:lock:x")
        assert held.renew()  # it ran out, but nobody took it
        store.state.set("lw:lock:x", "another process")
        assert not held.renew()


def test_a_foreign_lock_without_an_expiry_is_removed(store: Store) -> None:
    store.state.set("lw:lock:x", "junk")
    with store.locks.hold("x", hold_s=30) as got:
        assert not got
    with store.locks.hold("x", hold_s=30) as got:
        assert got


def test_the_longest_overdue_item_comes_first(store: Store) -> None:
    store.agenda.put("lw:due:videos", "later", in_s=60)
    store.agenda.put("lw:due:videos", "b", "c")
    store.agenda.put("lw:due:videos", "a", in_s=-5)
    assert store.agenda.list_due("lw:due:videos", 2)[0] == "a"
    assert set(store.agenda.list_due("lw:due:videos", 10)) == {"a", "b", "c"}
    store.agenda.put("lw:due:videos", "a", in_s=60)  # `put` never makes an item due later
    assert "a" in store.agenda.list_due("lw:due:videos", 10)
    store.agenda.postpone("lw:due:videos", "a", in_s=60)
    store.agenda.remove("lw:due:videos", "b")
    store.agenda.postpone("lw:due:videos", "b", in_s=0)  # settled meanwhile: it does not come back
    assert store.agenda.list_due("lw:due:videos", 10) == ["c"]
    assert store.agenda.count("lw:due:videos") == 3


def test_questions_wait_for_their_last_segment_only(store: Store) -> None:
    for question_id, last in (("early", 0), ("late", 9), ("all", None), ("beyond", 10**300)):
        store.agenda.put(due.QUESTIONS, question_id)
        store.agenda.wait("video", question_id, last)
    assert store.agenda.list_waiting("video", 0) == ["early"]
    assert store.agenda.list_waiting("video", 9) == ["early", "late"]
    assert set(store.agenda.list_waiting("video", None)) == {"early", "late", "all", "beyond"}
    store.agenda.stop_waiting("video", ["early"])
    assert store.agenda.list_waiting("video", 0) == []


def test_a_settled_question_leaves_no_entry_whichever_process_is_late(store: Store) -> None:
    for waits_first in (True, False):
        video, question = add_question(store)
        if waits_first:
            store.agenda.wait(video.id, question.id, 3)
        store.settle_question(question.model_copy(update={"status": "failed"}))
        if not waits_first:
            store.agenda.wait(video.id, question.id, 3)
        assert store.agenda.list_waiting(video.id, None) == []
        assert store.agenda.count(due.WAITING) == 0


def test_concurrent_questions_never_exceed_the_limits(store: Store) -> None:
    limits = Limits(in_work=3, waiting_per_video=3, waiting=5)
    one, two = new_video_id(), new_video_id()
    asked = [(video_id, waits) for video_id, waits in ((one, True), (two, True), (one, False)) for _ in range(8)]
    met: list[tuple[str, bool, str | None]] = []

    def admit(video_id: str, waits: bool) -> None:
        question_id = new_question_id(video_id)
        met.append((video_id, waits, store.agenda.admit(question_id, limits, waits=waits, in_s=60)))

    threads = [threading.Thread(target=admit, args=each) for each in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    admitted = [(video_id, waits) for video_id, waits, full in met if full is None]
    assert len([waits for _, waits in admitted if waits]) == 5
    assert max(admitted.count((video_id, True)) for video_id in (one, two)) == 3
    assert admitted.count((one, False)) == 3
    assert {full for _, waits, full in met if not waits} == {None, "work"}
    assert (store.agenda.count(due.QUESTIONS), store.agenda.count(due.WAITING)) == (8, 5)


def test_a_question_that_was_settled_meanwhile_is_not_counted_as_waiting(store: Store) -> None:
    video, question = add_question(store)
    store.agenda.wait(video.id, question.id, None)
    assert store.agenda.count(due.WAITING) == 1
    store.settle_question(question.model_copy(update={"status": "cancelled"}))
    store.agenda.wait(video.id, question.id, None)  # an inspection that began earlier
    assert store.agenda.count(due.WAITING) == 0


def add_question(store: Store) -> tuple[Video, Question]:
    video = make_video()
    store.add_video(video)
    question = make_question(video)
    store.add_question(question)
    return video, question
