"""The measured operations. Each runs through the service's own code."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from benchmarks.scale.meter import Cost
from benchmarks.scale.service import Service, new_video, pictures
from configs.settings import IngestSettings
from ingest.jobs import IngestJobs
from jobs.names import FUSE
from storage import agenda as due
from storage.documents import FusionMode, Question, Video
from storage.ids import new_question_id

MAIN = "MainThread"
PAGE = 50
DAY_SEGMENTS = 1350
LIVE_MINUTES = 2
UNFINISHED_SEGMENTS = 8


@dataclass(frozen=True)
class Measured:
    """An operation and its cost; `per` is how many times it was done."""

    name: str
    cost: Cost
    per: int = 1
    videos: int | None = None  # how many the service held


def measure_videos(service: Service, count: int) -> Iterator[Measured]:
    """A page, progress, a deletion and a reconcile tick while the service holds `count` videos."""
    store = service.store
    doomed = service.add_hour()
    with service.meter.measure() as cost:
        store.index.is_ready()
        ids = store.index.list_videos(None, PAGE + 1)[:PAGE]
        store.read_progress(store.read_videos(ids))
    yield Measured("page of videos (per video)", cost, len(ids), count)
    with service.meter.measure() as cost:
        store.read_progress([store.read_video(doomed.id)])
    yield Measured("progress of one", cost, 1, count)
    with service.meter.measure() as cost:
        service.intake.delete_video(doomed.id)
    yield Measured("delete", cost, 1, count)
    with service.meter.measure() as cost:
        service.reconciler.run_once()
    yield Measured("reconcile tick, nothing due", cost, 1, count)


def measure_ingest(service: Service) -> Iterator[Measured]:
    """The sampling job on real files: the cost of each additional segment."""
    settings = service.settings.model_copy(update={"ingest": IngestSettings(allowed_roots=(service.folder,))})
    jobs = IngestJobs(settings, service.store)
    costs = []
    for segments in (2, 1, 5):  # the first run loads the scripts
        file = service.folder / f"{segments}.mp4"
        _write_video(file, 64 * segments)
        video = new_video(location=str(file))
        service.store.add_video(video)
        with service.meter.measure() as cost:
            jobs.ingest_video(video.id)
        assert service.store.read_video(video.id).frames_sampled == 64 * segments
        costs.append(cost)
    yield Measured("segment written (64 frames)", _subtract_cost(*costs[1:]), 4)


def measure_live(service: Service, videos: int) -> Iterator[Measured]:
    """Live videos: each gets one segment a minute, and the segment is encoded."""
    live = [service.add_segments(new_video(status="sampling", frames_expected=None), range(0)) for _ in range(videos)]
    frames = pictures()
    service.start_encoder()
    minutes = []
    for minute in range(LIVE_MINUTES):
        with service.meter.measure() as cost:
            for video in live:
                service.store.create_segment(video.id, minute, frames)
                service.reconciler.inspector.inspect_video(video.id)
            service.wait_ended(*["encode_segment"] * videos)
        minutes.append(cost)
    yield Measured(f"a minute of {videos} live videos (per video)", minutes[-1], videos)
    yield Measured("  of it: writing", _select_thread(minutes[-1], MAIN), videos)
    yield Measured("  of it: encoding", _select_thread(minutes[-1], "encode"), videos)


def measure_questions(service: Service) -> Iterator[Measured]:
    """Questions over an hour, new and repeated, and one over a day."""
    service.start_reasoner()
    service.start_encoder((FUSE,))
    hour = service.add_hour()
    service.warm_cache(hour, range(57))
    ask(service, hour, "an earlier one", "sampled", end_s=60)  # loads the scripts
    for mode in ("focused", "sampled", "exact"):
        video = service.add_hour()  # so that each mode has its own prefix
        service.warm_cache(video, range(57))
        yield Measured(f"{mode} question over an hour, new", ask(service, video, f"{mode} first", mode))
        yield Measured(f"{mode} question over an hour, another", ask(service, video, f"{mode} other", mode))
        yield Measured(f"{mode} question over an hour, repeated", ask(service, video, f"{mode} first", mode))
    day = service.add_segments(
        new_video(status="ready", frames_sampled=64 * DAY_SEGMENTS, duration_s=86400), range(DAY_SEGMENTS)
    )
    yield from _measure_day(service, day)


def _measure_day(service: Service, day: Video) -> Iterator[Measured]:
    masks = service.store.coverage.read(day.id, range(DAY_SEGMENTS), "").sampled
    service.store.coverage.mark_encoded(day.id, masks, service.store.workers.read_model())
    service.warm_cache(day, range(DAY_SEGMENTS))
    yield Measured("focused question over a day, new", ask(service, day, "a day", "focused"))


def ask(service: Service, video: Video, text: str, mode: FusionMode, end_s: float | None = None) -> Cost:
    """Asks a question and waits until it ends, without a reader. The cost runs until RQ has finished with the job."""
    question = Question(id=new_question_id(video.id), video_id=video.id, text=text, fusion=mode, end_s=end_s)
    with service.meter.measure() as cost:
        service.intake.add_question(question)
        name = ""
        while name != "answer_question":
            name = service.ended.get(timeout=600)
        service.wait_ended()
    answered = service.store.archive.read_question(question.id)
    assert answered.answer is not None, answered
    return cost


def measure_unfinished(service: Service, count: int) -> Iterator[Measured]:
    """A reconciler's check of `count` videos whose missing segments already have queued jobs."""
    videos = [
        service.add_segments(new_video(status="sampling"), range(UNFINISHED_SEGMENTS), encoded=False)
        for _ in range(count)
    ]
    for video in videos:
        service.reconciler.inspector.inspect_video(video.id)
    _make_due(service, videos)
    with service.meter.measure() as cost:
        while service.store.agenda.list_due(due.VIDEOS, 1):
            service.reconciler.run_once()
    yield Measured(f"reconcile, {count} unfinished (per window)", cost, 1)


def _make_due(service: Service, videos: list[Video]) -> None:
    service.store.agenda.put(due.VIDEOS, *[video.id for video in videos])


def _write_video(path: Path, seconds: int) -> None:
    """Writes small pictures, one a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.width, stream.height, stream.pix_fmt = 336, 192, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1)
        for second in range(seconds):
            picture = np.full((192, 336, 3), second % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _subtract_cost(one: Cost, more: Cost) -> Cost:
    """Subtracts `one` from `more`. Each call of `one` removes a call of the same command and kind from `more`."""
    rest = list(more.calls)
    for call in one.calls:
        rest.remove(next(other for other in rest if other.words[0] == call.words[0] and other.kind == call.kind))
    return Cost(
        rest,
        more.state_bytes - one.state_bytes,
        more.cache_bytes - one.cache_bytes,
        more.redis_cpu_s - one.redis_cpu_s,
        more.archive - one.archive,
        more.cpu_s - one.cpu_s,
        more.wall_s - one.wall_s,
    )


def _select_thread(cost: Cost, name: str) -> Cost:
    return Cost([call for call in cost.calls if call.thread == name])
