"""Ingest jobs: sampled segments survive every interruption, and every video gets settled."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.settings import Settings
from ingest.files.local import hash_file
from ingest.jobs import ABANDONED_AFTER_S, IngestJobs
from jobs.attempts import Attempts
from jobs.intake import Intake
from jobs.names import FETCH, INGEST, ingest_job_id
from jobs.runner import Handler, Runner
from jobs.worker import Pool
from storage.decoding import decode_picture
from storage.deletion import delete_video
from storage.documents import Video
from storage.errors import ArchiveUnavailable, Conflict, DiskFull, GivenAway
from storage.segments import SegmentFrame
from storage.store import Store
from storage.timeline import SEGMENT_SLOTS
from tests.ingest.hostile_site import LOCAL
from tests.media import number_of, numbered, steady, write_video
from tests.submitting import new_video
from tests.waiting import wait_until
from tests.working import WorkerThreads, working


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Few, quick attempts. After a failure of archive, Redis or disk the job comes again soon."""
    quick = settings.jobs.model_copy(update={"surroundings_retry_after_s": 0.5, "max_fetch_attempts": 3})
    ingest = settings.ingest.model_copy(update={"min_free_disk_bytes": 0})
    return settings.model_copy(update={"jobs": quick, "ingest": ingest})


@pytest.fixture
def jobs(settings: Settings, store: Store) -> IngestJobs:
    store.index.set_ready(store.index.read_generation())
    return IngestJobs(settings, store)


@pytest.fixture
def intake(settings: Settings, store: Store) -> Intake:
    return Intake(store, settings)


@pytest.fixture
def ingesting(settings: Settings, store: Store, jobs: IngestJobs) -> Iterator[WorkerThreads]:
    """A live ingest worker, with one thread for downloads and one for sampling."""
    handlers = {
        "fetch_video": Handler(jobs.fetch_video, jobs.give_up_video, alone_if_suspect=False),
        "ingest_video": Handler(jobs.ingest_video, jobs.give_up_video),
    }
    with working(settings, store, "ingest", [Pool((FETCH,), 1), Pool((INGEST,), 1)], handlers) as worker:
        yield worker


def submit(store: Store, path: Path, **values: object) -> Video:
    video = new_video(kind="path", source=path.name, location=str(path), **values)
    store.add_video(video)
    return video


def upload(store: Store, intake: Intake, file: Path, **values: object) -> Video:
    """Adds an upload as the API does; the file is moved into the archive."""
    video = new_video(kind="upload", location="", in_archive=True, sha256=hash_file(file), **values)
    assert intake.claim_upload(video) is None
    store.archive.put_source(video.id, file)
    intake.add_video(video)
    return video


def read_numbers(store: Store, video: Video, segment: int = 0) -> list[int]:
    """The numbers in the model's pictures of a segment."""
    with store.archive.open_segment(video.id, segment) as pictures:
        return [number_of(decode_picture(pictures.read_picture("model", place))) for place in pictures.times_s]


def read_tree(store: Store, video: Video) -> dict[str, bytes | None]:
    """Every file of the video's segments."""
    files = store.archive.files
    return {path: files.read(f"{video.id}/{path}") for path in files.tree(video.id) if "/" in path}


def wait_settled(store: Store, video: Video) -> Video:
    wait_until(lambda: store.archive.read_video(video.id).settled)
    return store.archive.read_video(video.id)


def test_every_second_of_a_file_is_in_the_archive_in_whole_segments(
    jobs: IngestJobs, store: Store, tmp_path: Path
) -> None:
    video = submit(store, write_video(tmp_path / "video.mp4", steady(130, fps=5)), recorded_at="2026-11-21T14:00:00Z")
    jobs.ingest_video(video.id)
    done = store.archive.read_video(video.id)
    assert (done.status, done.frames_sampled, done.truncated, done.media) == ("ready", 130, None, "video")
    assert list(store.archive.files.tree(video.id)) == [f"00000{k}/frames.zip" for k in range(3)] + ["video.json"]
    covered = store.read_coverage(done, range(3), "")
    assert covered.sampled == {0: (1 << 64) - 1, 1: (1 << 64) - 1, 2: 0b11}
    with store.archive.open_segment(video.id, 2) as last:
        assert last.times_s == {0: 128.5, 1: 129.5}
        assert number_of(decode_picture(last.read_picture("view", 1))) == number_of(numbered(129 * 5 + 2))
    assert read_numbers(store, done, 1)[:2] == [64 * 5 + 2, 65 * 5 + 2]
    assert str(done.grid.clock(128.5)) == "2026-11-21 14:02:08.500000+00:00"


def test_an_attempt_after_a_failed_one_continues_at_the_first_missing_segment(
    jobs: IngestJobs, store: Store, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "video.mp4", steady(150, fps=5))
    undisturbed = submit(store, path)
    jobs.ingest_video(undisturbed.id)
    wanted = read_tree(store, undisturbed)
    delete_video(store, undisturbed.id)

    video = submit(store, path)
    in_the_way = Path(store.archive.files.full(f"{video.id}/000001"))
    in_the_way.write_bytes(b"a disk that fails after the first segment")
    with pytest.raises(ArchiveUnavailable):
        jobs.ingest_video(video.id)
    assert store.coverage.count_sampled(video.id) == SEGMENT_SLOTS
    in_the_way.unlink()
    first = Path(store.archive.files.full(f"{video.id}/000000/frames.zip"))
    written = first.stat().st_mtime_ns
    store.state.flushall()  # Redis loses what it knew as well
    jobs.ingest_video(video.id)
    done = store.archive.read_video(video.id)
    assert (done.status, done.frames_sampled) == ("ready", 150)
    assert read_tree(store, video) == wanted
    assert first.stat().st_mtime_ns == written  # the existing segment was not written again


def test_only_attempts_that_get_no_further_count_against_a_video(
    jobs: IngestJobs, settings: Settings, store: Store, tmp_path: Path
) -> None:
    video = submit(store, write_video(tmp_path / "video.mp4", steady(150, fps=5)))
    Path(store.archive.files.full(f"{video.id}/000001")).write_bytes(b"a disk that fails after the first segment")
    runner = Runner(store, settings.jobs, {"ingest_video": Handler(jobs.ingest_video, jobs.give_up_video)})
    attempts, job_id = Attempts(store.state), ingest_job_id(video.id)
    counts = []
    for _ in range(2):
        attempts.begin(job_id)  # one whose worker died
        runner.run(job_id, json.dumps(["ingest_video", None, [video.id], {}]).encode())
        counts.append(attempts.count(job_id))
    assert counts == [0, 1]


class SlowStore(Store):
    """A store that pauses before the second segment, like a process that seems dead."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.reached, self.released = threading.Event(), threading.Event()

    def create_segment(self, video_id: str, segment: int, frames: Sequence[SegmentFrame]) -> None:
        if segment == 1:
            self.reached.set()
            assert self.released.wait(60)
        super().create_segment(video_id, segment, frames)


def test_a_late_attempt_changes_nothing(jobs: IngestJobs, settings: Settings, store: Store, tmp_path: Path) -> None:
    """In the first build it cut a finished segment from 64 frames to 12, and the video stayed `ready`."""
    video = submit(store, write_video(tmp_path / "video.mp4", steady(150, fps=5)))
    slow, ended = SlowStore(settings), list[Exception]()

    def ingest_late() -> None:
        try:
            IngestJobs(settings, slow).ingest_video(video.id)
        except GivenAway as error:
            ended.append(error)

    late = threading.Thread(target=ingest_late)
    late.start()
    assert slow.reached.wait(30)
    jobs.ingest_video(video.id)
    done, tree = store.archive.read_video(video.id), read_tree(store, video)
    slow.released.set()
    late.join(30)
    assert len(ended) == 1
    store.create_segment(video.id, 0, [SegmentFrame(place, place + 0.5, b"late", None) for place in range(12)])
    assert store.archive.read_video(video.id) == done
    assert read_tree(store, video) == tree
    assert store.coverage.count_sampled(video.id) == 150


class OvertakenStore(Store):
    """Another attempt ends while this one begins: between two of its commands."""

    def __init__(self, settings: Settings, end_other: Callable[[], None]) -> None:
        super().__init__(settings)
        self._end_other = end_other

    def read_video(self, video_id: str) -> Video:
        video = super().read_video(video_id)
        self._end_other()
        return video


def test_an_attempt_that_is_overtaken_while_it_begins_does_not_fail_the_finished_video(
    intake: Intake, settings: Settings, store: Store, tmp_path: Path
) -> None:
    """It once read the video, then the other attempt settled it and removed the source."""
    video = upload(store, intake, write_video(tmp_path / "video.mp4", steady(150, fps=5)))
    slow = SlowStore(settings)

    def ingest_first() -> None:
        with suppress(GivenAway):
            IngestJobs(settings, slow).ingest_video(video.id)

    first = threading.Thread(target=ingest_first)
    first.start()
    assert slow.reached.wait(30)

    def end_first() -> None:
        slow.released.set()
        first.join(30)

    IngestJobs(settings, OvertakenStore(settings, end_first)).ingest_video(video.id)
    done = store.archive.read_video(video.id)
    assert (done.status, done.problem, store.coverage.count_sampled(video.id)) == ("ready", None, 150)


# duplicates


def test_the_same_bytes_are_sampled_once(jobs: IngestJobs, intake: Intake, store: Store, tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", steady(3))
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(path.read_bytes())
    first, second, otherwise = submit(store, path), submit(store, copy), submit(store, copy, mode="keyframes")
    for video in (first, second, otherwise):
        jobs.ingest_video(video.id)
    again = store.archive.read_video(second.id)
    assert (again.status, again.duplicate_of) == ("duplicate", first.id)
    assert read_tree(store, second) == {}
    (progress,) = store.read_progress([again])
    assert progress is not None
    assert progress.frames_sampled == 3
    assert store.archive.read_video(otherwise.id).status == "ready"  # sampled in another way, so its frames differ
    with pytest.raises(Conflict, match=second.id):
        intake.delete_video(first.id)


def test_only_one_of_two_copies_at_once_is_sampled(
    jobs: IngestJobs, settings: Settings, store: Store, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "video.mp4", steady(100, fps=5))
    first, second = submit(store, path), submit(store, path)
    slow = SlowStore(settings)
    sampling = threading.Thread(target=IngestJobs(settings, slow).ingest_video, args=(first.id,))
    sampling.start()
    assert slow.reached.wait(30)
    jobs.ingest_video(second.id)  # while the first is being sampled
    assert store.archive.read_video(second.id).duplicate_of == first.id
    assert store.read_holder(second.id).id == first.id
    slow.released.set()
    sampling.join(30)
    assert store.archive.read_video(first.id).status == "ready"
    assert read_tree(store, second) == {}


def test_a_duplicate_fails_with_its_owner_and_says_why(
    ingesting: WorkerThreads, intake: Intake, store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video at all")
    owner = new_video(kind="path", source=path.name, location=str(path), status="sampling", sha256=hash_file(path))
    store.add_video(owner)
    assert store.claim_content(owner) is None
    leaning = new_video(status="duplicate", duplicate_of=owner.id, sha256=owner.sha256)
    intake.add_video(leaning)
    failed = [wait_settled(store, owner), wait_settled(store, leaning)]
    wait_until(lambda: store.archive.read_video(leaning.id).status == "failed")
    failed[1] = store.archive.read_video(leaning.id)
    assert [video.status for video in failed] == ["failed", "failed"]
    assert failed[0].problem == failed[1].problem is not None
    again = submit(store, path)
    intake.add_video(again)
    assert wait_settled(store, again).duplicate_of is None  # a failed video owns no content


def test_a_duplicate_whose_owner_is_gone_is_sampled_itself(
    ingesting: WorkerThreads, intake: Intake, store: Store, tmp_path: Path
) -> None:
    """The owner was deleted at the moment when the other video became its duplicate."""
    path = write_video(tmp_path / "video.mp4", steady(3))
    first = submit(store, path)
    wait_settled(store, first)
    second = new_video(kind="path", location=str(path), status="duplicate", duplicate_of=first.id)
    store.add_video(second)
    store.index.remove_duplicate(second.id, first.id)  # it was not registered yet
    intake.delete_video(first.id)
    wait_until(lambda: store.archive.read_video(second.id).status == "ready")
    assert read_numbers(store, second) == [12, 37, 62]


def test_a_video_that_is_being_deleted_owns_no_content(jobs: IngestJobs, store: Store, tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", steady(3))
    first, second = submit(store, path), submit(store, path)
    jobs.ingest_video(first.id)
    store.index.mark_deleted(first.id)  # its files are deleted next
    jobs.ingest_video(second.id)
    assert store.archive.read_video(second.id).status == "ready"


# uploads


@pytest.mark.parametrize("archive", ["shared folder", "elsewhere"])
@pytest.mark.parametrize("good", [True, False])
def test_an_upload_is_ingested_on_any_host(
    good: bool, archive: str, settings: Settings, redis_urls: tuple[str, str], tmp_path: Path
) -> None:
    """Received on one host, sampled on another, which has a disk of its own; afterwards neither has a copy."""
    url = str(tmp_path / "archive") if archive == "shared folder" else f"memory://{tmp_path.name}"
    place = {"url": url}
    hosts = [
        settings.model_copy(update={"data_dir": tmp_path / name, "archive": settings.archive.model_copy(update=place)})
        for name in ("one", "other")
    ]
    here, there = (Store.open(host) for host in hosts)
    work_file = hosts[0].work_dir / "received"
    work_file.parent.mkdir(parents=True)
    if good:
        write_video(work_file.with_suffix(".mp4"), steady(3)).replace(work_file)
    else:
        work_file.write_bytes(b"no video at all")
    video = upload(here, Intake(here, hosts[0]), work_file)
    work_file.unlink(missing_ok=True)  # as the API does in the end
    assert there.archive.files.exists(f"{video.id}/source")
    IngestJobs(hosts[1], there).ingest_video(video.id)
    done = there.archive.read_video(video.id)
    assert done.status == ("ready" if good else "failed")
    if good:
        assert read_numbers(here, done) == [12, 37, 62]
        assert not there.archive.files.exists(f"{video.id}/source")
    assert [file for host in hosts for file in host.work_dir.glob("*")] == []


def test_a_second_upload_of_the_same_bytes_returns_the_first_video(
    jobs: IngestJobs, intake: Intake, store: Store, tmp_path: Path
) -> None:
    file = write_video(tmp_path / "one.mp4", steady(3))
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(file.read_bytes())
    first = upload(store, intake, file)
    again = new_video(kind="upload", location="", in_archive=True, sha256=hash_file(copy))
    assert intake.claim_upload(again) == store.read_video(first.id)  # before the first is sampled


@pytest.mark.parametrize("kind", ["upload", "url"])
def test_a_video_whose_source_is_lost_fails(
    kind: str, jobs: IngestJobs, intake: Intake, store: Store, tmp_path: Path
) -> None:
    video = new_video(kind=kind, in_archive=True, sha256="0" * 64)
    store.add_video(video)
    jobs.ingest_video(video.id)
    done = store.archive.read_video(video.id)
    assert done.status == "failed"
    assert done.problem is not None
    assert done.problem.code == "source-unavailable"
    assert "add the video again" in done.problem.message
    assert not done.in_archive  # another attempt downloads it again


# downloads


class Server(ThreadingHTTPServer):
    """Serves one file; refuses the first `busy` requests with 503."""

    daemon_threads = True

    def __init__(self, content: bytes, busy: int = 0, slow: bool = False) -> None:
        super().__init__((LOCAL, 0), Handling)
        self.content, self.busy, self.slow = content, busy, slow
        self.requests: list[str] = []
        self.url = f"http://{LOCAL}:{self.server_address[1]}/video"


class Handling(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        """Logs nothing."""

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if len(self.server.requests) <= self.server.busy:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("content-length", str(len(self.server.content)))
        self.end_headers()
        if not self.server.slow:
            self.wfile.write(self.server.content)
            return
        try:
            for k in range(len(self.server.content)):
                self.wfile.write(self.server.content[k : k + 1])
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            return  # the client left


@contextmanager
def serving(content: bytes, **how: Any) -> Iterator[Server]:
    with Server(content, **how) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_a_download_is_stored_sampled_and_removed(
    ingesting: WorkerThreads, intake: Intake, settings: Settings, store: Store, tmp_path: Path
) -> None:
    content = write_video(tmp_path / "video.mp4", steady(3)).read_bytes()
    with serving(content, busy=1) as server:  # the busy server is asked again
        video = new_video(location=server.url)
        intake.add_video(video)
        done = wait_settled(store, video)
    assert (done.status, done.frames_sampled, len(server.requests)) == ("ready", 3, 2)
    assert read_numbers(store, video) == [12, 37, 62]
    wait_until(lambda: not store.archive.files.exists(f"{video.id}/source"))
    assert list(settings.work_dir.iterdir()) == []


def test_a_server_that_stays_busy_fails_the_video_with_its_answer(
    ingesting: WorkerThreads, intake: Intake, store: Store
) -> None:
    with serving(b"", busy=99) as server:
        video = new_video(location=server.url)
        intake.add_video(video)
        done = wait_settled(store, video)
    assert len(server.requests) == 3
    assert done.status == "failed"
    assert done.problem is not None
    assert done.problem.code == "source-unavailable"
    assert done.problem.message.startswith(f"{server.url} answers 503 Service Unavailable; ")
    assert f"longwatch retry {video.id}" in done.problem.message


def test_a_failed_video_is_tried_again_on_request(
    ingesting: WorkerThreads, intake: Intake, store: Store, tmp_path: Path
) -> None:
    with serving(write_video(tmp_path / "video.mp4", steady(3)).read_bytes(), busy=3) as server:
        video = new_video(location=server.url)
        intake.add_video(video)
        assert wait_settled(store, video).status == "failed"
        intake.retry_video(video.id)
        wait_until(lambda: store.archive.read_video(video.id).status == "ready")
    assert store.archive.read_video(video.id).problem is None


def test_a_slow_server_does_not_hold_up_sampling_and_a_deletion_ends_its_download(
    ingesting: WorkerThreads, intake: Intake, settings: Settings, store: Store, tmp_path: Path
) -> None:
    """While the only download thread is busy, another video is sampled. After the deletion the next download begins."""
    content = write_video(tmp_path / "video.mp4", steady(3)).read_bytes()
    with serving(content, slow=True) as slow, serving(content) as quick:
        stuck, waiting = new_video(location=slow.url), new_video(location=quick.url, mode="keyframes")
        intake.add_video(stuck)
        wait_until(lambda: store.read_video(stuck.id).status == "fetching")
        intake.add_video(waiting)
        sampled = submit(store, tmp_path / "video.mp4")
        intake.add_video(sampled)
        assert wait_settled(store, sampled).status == "ready"
        assert [store.read_video(video.id).status for video in (stuck, waiting)] == ["fetching", "queued"]
        intake.delete_video(stuck.id)
        assert wait_settled(store, waiting).status == "ready"
    assert store.archive.list_video_ids() == sorted([waiting.id, sampled.id])
    wait_until(lambda: list(settings.work_dir.iterdir()) == [])


# surroundings


def test_jobs_wait_while_the_archive_cannot_be_written(
    ingesting: WorkerThreads, intake: Intake, store: Store, tmp_path: Path
) -> None:
    """The video does not fail, however often it is tried. The worker says what it waits for and continues by itself."""
    video = submit(store, write_video(tmp_path / "video.mp4", steady(130, fps=5)))
    scratch = Path(store.archive.files.full(".scratch"))
    wait_until(lambda: not list(scratch.iterdir()))
    scratch.rename(tmp_path / "aside")
    scratch.write_bytes(b"every write begins in this folder: now none is possible")
    intake._inspector.inspect_video(video.id)
    wait_until(lambda: ingesting.runner.trouble)
    wait_until(lambda: any(worker.trouble for worker in store.workers.list_alive()))
    time.sleep(2)  # more attempts than a failing video gets
    assert not store.archive.read_video(video.id).settled
    scratch.unlink()
    done = wait_settled(store, video)
    assert (done.status, done.frames_sampled, done.problem) == ("ready", 130, None)
    wait_until(lambda: ingesting.runner.trouble is None)


def test_a_full_disk_does_not_fail_the_video(settings: Settings, store: Store, tmp_path: Path) -> None:
    full = settings.ingest.model_copy(update={"min_free_disk_bytes": 2**60})
    with serving(b"x" * 100) as server:
        video = new_video(location=server.url)
        store.add_video(video)
        with pytest.raises(DiskFull, match="make room"):
            IngestJobs(settings.model_copy(update={"ingest": full}), store).fetch_video(video.id)
    assert not store.archive.read_video(video.id).settled
    assert list(settings.work_dir.iterdir()) == []


# images


def photo(form: str) -> bytes:
    file = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(numbered(1234, 320, 240)).transpose(Image.Transpose.ROTATE_90).save(file, form, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kind", ["path", "url", "upload"])
def test_an_image_is_a_video_of_one_frame_whose_original_is_kept(
    kind: str, form: str, ingesting: WorkerThreads, intake: Intake, settings: Settings, store: Store, tmp_path: Path
) -> None:
    content = photo(form)
    file = tmp_path / "photo"
    file.write_bytes(content)
    with serving(content) as server:
        if kind == "upload":
            video = upload(store, intake, file)
        else:
            video = new_video(kind=kind, location=str(file) if kind == "path" else server.url)
            intake.add_video(video)
        done = wait_settled(store, video)
    assert (done.status, done.media, done.frames_sampled, done.frames_expected) == ("ready", "image", 1, 1)
    assert (done.width_px, done.height_px, done.codec) == (320, 240, form.lower())
    assert store.archive.read_source(video.id) == content
    with store.archive.open_segment(video.id, 0) as pictures:
        assert pictures.mask == 1
        assert not pictures.has("model", 0)  # the model sees the original
        assert number_of(decode_picture(pictures.read_picture("view", 0))) == 1234
    assert file.exists() == (kind != "upload")  # a file that was submitted by path stays where it is
    wait_until(lambda: not settings.work_dir.exists() or not list(settings.work_dir.iterdir()))


# odd ends


def test_frames_before_a_cut_are_kept_and_the_video_says_so(jobs: IngestJobs, store: Store, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", steady(20), size=(320, 240))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    video = submit(store, cut)
    jobs.ingest_video(video.id)
    done = store.archive.read_video(video.id)
    assert done.status == "ready"
    assert done.truncated is not None
    with store.archive.open_segment(video.id, 0) as pictures:
        assert done.frames_sampled == pictures.mask.bit_count() > 3


def test_a_file_that_is_not_a_video_fails_with_a_reason(jobs: IngestJobs, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("no video at all")
    video = submit(store, path)
    jobs.ingest_video(video.id)
    done = store.archive.read_video(video.id)
    assert (done.status, done.frames_sampled) == ("failed", 0)
    assert done.problem is not None
    assert done.problem.code == "source-unsupported"
    again = submit(store, path)
    jobs.ingest_video(again.id)
    assert store.archive.read_video(again.id).status == "failed"  # not a duplicate of the failed video


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"kind": "path"}, "internal"),
        ({"kind": "upload", "in_archive": True}, "internal"),
        ({"kind": "url"}, "source-unavailable"),
    ],
)
def test_a_video_that_is_given_up_says_why_and_what_to_do(
    values: dict[str, Any], code: str, jobs: IngestJobs, settings: Settings, store: Store
) -> None:
    video = new_video(**values, sha256="0" * 64)
    store.add_video(video)
    assert store.claim_content(video) is None
    settings.work_dir.mkdir(parents=True)
    settings.work_file(video.id).write_bytes(b"a copy of the source")
    jobs.give_up_video("its worker died 3 times while working on it", video.id)
    done = store.archive.read_video(video.id)
    assert done.problem is not None
    assert done.problem.code == code
    assert done.problem.message.startswith("its worker died 3 times")
    assert "longwatch retry" in done.problem.message
    assert list(settings.work_dir.iterdir()) == []
    assert store.claim_content(new_video(sha256="0" * 64)) is None  # it no longer owns the content


def test_a_video_deleted_while_it_is_sampled_stays_deleted(
    jobs: IngestJobs, settings: Settings, store: Store, tmp_path: Path
) -> None:
    video = submit(store, write_video(tmp_path / "video.mp4", steady(130, fps=5)))
    slow = SlowStore(settings)
    sampling = threading.Thread(target=IngestJobs(settings, slow).ingest_video, args=(video.id,))
    sampling.start()
    assert slow.reached.wait(30)
    delete_video(store, video.id)
    slow.released.set()
    sampling.join()
    assert store.archive.list_video_ids() == []
    assert store.index.list_videos(None, 10) == []


def test_only_files_that_no_video_needs_are_swept(
    jobs: IngestJobs, settings: Settings, store: Store, tmp_path: Path
) -> None:
    waiting = submit(store, tmp_path / "coming.mp4")
    settled = submit(store, tmp_path / "there.mp4", status="ready")
    newer = new_video()
    store.archive.files.write(f"{newer.id}/video.json", b'{"version": 99}')
    folder = settings.work_dir
    folder.mkdir(parents=True)
    unneeded = [f"{settled.id}.video", f"{new_video().id}.video.part", "not-ours"]  # the second was deleted
    needed = [f"{waiting.id}.video", f"{newer.id}.video"]
    young = f"{new_video().id}.video"  # its upload has not ended yet
    for name in (*unneeded, *needed, young):
        (folder / name).write_bytes(b"x")
        if name != young:
            os.utime(folder / name, times=(0, time.time() - ABANDONED_AFTER_S - 1))
    away = settings.redis.model_copy(update={"state_url": f"unix://{tmp_path}/nobody.sock", "retries": 0})
    lonely = settings.model_copy(update={"redis": away})
    IngestJobs(lonely, Store.open(lonely)).sweep()  # a worker that starts before Redis does
    assert {*needed, young} <= {file.name for file in folder.iterdir()}
    jobs.sweep()
    assert {file.name for file in folder.iterdir()} == {*needed, young}


def test_a_second_run_of_a_job_does_not_undo_the_first(jobs: IngestJobs, store: Store, tmp_path: Path) -> None:
    video = submit(store, tmp_path / "gone.mp4", status="ready", frames_sampled=3)
    runs: list[Callable[[str], None]] = [jobs.ingest_video, jobs.fetch_video]
    for run in runs:
        run(video.id)
    jobs.give_up_video("why", video.id)
    assert store.archive.read_video(video.id) == video
    assert np.array_equal(list(read_tree(store, video)), [])


def test_sources_are_kept_if_the_settings_say_so(
    settings: Settings, store: Store, intake: Intake, tmp_path: Path
) -> None:
    """An upload stays in the archive, a file of the user's is copied there, and stays where it was."""
    kept = settings.model_copy(update={"ingest": settings.ingest.model_copy(update={"keep_source": True})})
    store.index.set_ready(store.index.read_generation())
    jobs = IngestJobs(kept, store)
    local = write_video(tmp_path / "local.mp4", steady(3, fps=5))
    content = local.read_bytes()
    by_path = submit(store, local)
    uploaded = upload(store, intake, write_video(tmp_path / "upload.mkv", steady(4, fps=5)))
    for video in (by_path, uploaded):
        jobs.ingest_video(video.id)
    done = [store.archive.read_video(video.id) for video in (by_path, uploaded)]
    assert [(each.status, each.in_archive) for each in done] == [("ready", True)] * 2
    assert [each.source_type for each in done] == ["video/mp4", "video/x-matroska"]
    assert local.read_bytes() == content == store.archive.read_source(by_path.id)
    assert store.archive.read_source(uploaded.id)[:4] == b"\x1aE\xdf\xa3"
    jobs.sweep()
    assert list(settings.work_dir.glob("*")) == []
