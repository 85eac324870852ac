"""A flushed state is rebuilt from the archive alone: with one document and one listing per video, and no record."""

import time
from collections import Counter
from typing import Any

import pytest

from configs.settings import Settings
from jobs.reconciler import Reconciler
from storage import agenda as due
from storage.archive import Archive
from storage.documents import Video
from storage.files import Files
from storage.rebuild import rebuild_state
from storage.store import Store
from tests.storage.making import MODEL, OTHER_MODEL, add_encoded, make_due, make_question, make_record, make_video
from tests.waiting import wait_until


def alone() -> bool:
    """A lease that is never lost."""
    return True


def count_requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the requests to the archive's files from now on, by method and last part of the path."""
    counts: Counter[str] = Counter()
    for name in ("read", "open", "exists", "write", "create", "names", "tree"):
        method = getattr(Files, name)

        def counted(self: Files, path: str = "", *args: Any, _name: str = name, _method: Any = method) -> Any:
            counts[f"{_name} {path.rsplit('/', 1)[-1]}" if "." in path else _name] += 1
            return _method(self, path, *args)

        monkeypatch.setattr(Files, name, counted)
    return counts


def test_everything_is_back_after_a_flush(store: Store, settings: Settings) -> None:
    videos = [add_encoded(store, 70, sha256=f"{number}") for number in range(3)]
    store.create_record(videos[0].id, 1, make_record(6, OTHER_MODEL))
    copy = make_video(status="duplicate", duplicate_of=videos[0].id, sha256="0")
    store.add_video(copy)
    unsettled, settled = make_question(videos[1]), make_question(videos[1])
    for question in (unsettled, settled):
        store.add_question(question)
    store.settle_question(settled.model_copy(update={"status": "done"}))
    of_copy = make_question(copy)
    store.add_question(of_copy)
    before = store.read_progress(videos)
    store.state.flushall()
    store.cache.redis.flushall()
    assert not store.index.is_ready()

    store.workers.announce_model(MODEL)
    reconciler = Reconciler(store, settings.jobs)
    reconciler.run_once()
    assert store.index.is_ready()
    assert store.index.list_videos(None, 10) == sorted((video.id for video in [*videos, copy]), reverse=True)
    after = store.read_progress(videos)
    assert [one and one.model_copy(update={"eta_s": None}) for one in after] == [
        one and one.model_copy(update={"eta_s": None}) for one in before
    ]
    assert store.read_coverage(videos[0], range(2), OTHER_MODEL).recorded == {1}
    assert store.index.list_questions(videos[1].id, None, 10) == sorted([unsettled.id, settled.id], reverse=True)
    assert store.index.list_duplicates(videos[0].id) == [copy.id]
    assert store.claim_content(make_video(sha256="0")) == videos[0].id
    reconciler.run_once()  # looks at the questions that the first pass found
    assert store.read_question(settled.id).status == "done"
    assert store.read_question(unsettled.id).status == store.read_question(of_copy.id).status == "waiting"
    assert store.agenda.count(due.QUESTIONS) == 2


def test_a_rebuild_costs_one_document_and_one_listing_per_video(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        add_encoded(store, 200, encoded=4)
    store.state.flushall()
    store.workers.announce_model(MODEL)
    counts = count_requests(monkeypatch)
    rebuild_state(store, alone)
    assert counts == {"names": 1, "read video.json": 5}
    Reconciler(store, settings.jobs).run_once()
    assert counts.pop("tree") == 5
    assert counts.pop("open frames.zip") == 5  # the last segment of each: it may be shorter
    assert counts == {"names": 1, "read video.json": 5}
    counts.clear()
    videos = store.read_videos(store.index.list_videos(None, 100))
    assert all(progress is not None and progress.complete for progress in store.read_progress(videos))
    assert counts == {}  # a page reads nothing from the archive


def test_a_flush_during_a_rebuild_restarts_it(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = [add_encoded(store, 10) for _ in range(4)]
    store.state.flushall()
    read, seen = Archive.read_video, list[str]()

    def read_and_flush(self: Archive, video_id: str) -> Video:
        seen.append(video_id)
        if len(seen) == 3:
            store.state.flushall()
        return read(self, video_id)

    monkeypatch.setattr(Archive, "read_video", read_and_flush)
    reconciler = Reconciler(store, settings.jobs)
    reconciler.run_once()
    assert not store.index.is_ready()
    reconciler.run_once()
    assert store.index.is_ready()
    assert len(store.index.list_videos(None, 10)) == len(videos)


def test_a_rebuild_renews_its_lease_and_stops_when_the_lease_is_lost(store: Store) -> None:
    for _ in range(4):
        add_encoded(store, 10)
    store.state.flushall()
    renewals = iter([True, True, False])
    rebuild_state(store, lambda: next(renewals))
    assert not store.index.is_ready()
    with store.locks.hold("reconciler", 0.5) as held:
        assert held
        rebuild_state(store, lambda: wait_out(0.2) and held.renew())
        assert held.renew()
    assert store.index.is_ready()


def wait_out(pause_s: float) -> bool:
    """Takes as long as a slow archive."""
    time.sleep(pause_s)
    return True


def test_unreadable_documents_are_named_and_hide_no_others(store: Store) -> None:
    good, bad, newer = make_video(), make_video(), make_video()
    for video in (good, bad, newer):
        store.archive.write_video(video)
    store.archive.files.write(f"{bad.id}/video.json", b"{")
    store.archive.files.write(f"{newer.id}/video.json", b'{"version": 99}')
    rebuild_state(store, alone)
    assert store.index.list_videos(None, 10) == [good.id]
    unreadable = store.index.list_unreadable()
    assert set(unreadable) == {bad.id, newer.id}
    assert "newer Longwatch" in unreadable[newer.id]
    assert store.archive.list_video_ids() == sorted([good.id, bad.id, newer.id])


def test_an_interrupted_deletion_is_finished_after_a_flush(store: Store, settings: Settings) -> None:
    old = make_video(id="20200101-000000000-aaaaaa")
    store.archive.files.write(f"{old.id}/000000/frames.zip", b"x")  # the document is gone
    reconciler = Reconciler(store, settings.jobs, orphan_after_s=1)
    reconciler.run_once()
    assert store.archive.list_video_ids() == [old.id]  # a backup that is being restored may not have the document yet

    def is_gone() -> bool:
        make_due(store)
        reconciler.run_once()
        return store.archive.list_video_ids() == []

    wait_until(is_gone)
