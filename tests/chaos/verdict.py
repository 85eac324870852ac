"""Checks the recovered service: everything it accepted is there, and nothing is left over."""

import re
import time
from collections import Counter
from pathlib import Path
from typing import cast

from jobs.names import ANSWER, ENCODE, FETCH, INGEST, QUEUES
from storage import agenda as due
from storage.documents import Question, Video
from storage.errors import LongwatchError, NotFound
from storage.store import Store
from tests.chaos.garble import SPRUNG
from tests.chaos.ledger import Ledger, SentQuestion, SentVideo
from tests.chaos.reference import Reference, compare_answers, compare_segments, read_segments
from tests.chaos.service import EACH, WORKERS, Service

AGENDAS = (due.VIDEOS, due.QUESTIONS, due.DELETIONS, due.FOUND, due.WAITING)
DIED = re.compile(r"died \d+ times")  # the target's worker was killed too often
IDS = re.compile(r"\d{8}-\d{9}-[0-9a-f]{6}(?:_\d{8}-\d{9}-[0-9a-f]{6})?")


class Verdict:
    """Checks the archive and both servers through a separate store."""

    def __init__(self, service: Service, ledger: Ledger, references: dict[str, Reference]) -> None:
        self._service = service
        self._store: Store = service.open_store()
        self._ledger = ledger
        self._references = references
        self.excused: Counter[str] = Counter()

    # is everything settled?

    def list_unsettled(self) -> list[str]:
        """Lists what is still in progress."""
        found = []
        for agenda in AGENDAS:
            found += [
                f"{agenda}: {item!r} due in {score - time.time():.1f} s" for item, score in self._read_agenda(agenda)
            ]
        for name in QUEUES:
            found += [f"queue {name}: {job!r}" for job in self._store.state.lrange(f"rq:queue:{name}", 0, -1)]
            found += [f"started {name}: {job!r}" for job in self._store.state.zrange(f"rq:wip:{name}", 0, -1)]
        if not self._store.index.is_ready():
            found.append("the state is not rebuilt")
        return found

    def _read_agenda(self, agenda: str) -> list[tuple[bytes, float]]:
        return cast(list[tuple[bytes, float]], self._store.state.zrange(agenda, 0, -1, withscores=True))

    # what the service accepted

    def list_given_up(self) -> list[SentVideo]:
        """Lists harmless videos that failed or lost segments because their workers were killed too often."""
        found = []
        for sent in self._ledger.list_live_videos():
            try:
                video = self._store.read_video(sent.id)
            except NotFound:
                continue  # `judge` reports it
            (progress,) = self._store.read_progress([video])
            died = video.problem is not None and DIED.search(video.problem.message)
            if (video.status == "failed" and died) or (progress is not None and progress.frames_failed):
                found.append(sent)
        return found

    def judge(self) -> list[str]:
        """Lists all faults."""
        faults = list(self._ledger.faults)
        for sent in list(self._ledger.videos.values()):
            faults += self._judge_item(sent.id, self._judge_video, sent)
        for asked in list(self._ledger.questions.values()):
            faults += self._judge_item(asked.id, self._judge_question, asked)
        return faults + self._judge_strangers() + self._judge_leftovers() + self._judge_processes()

    def _judge_item(self, item_id: str, judge: object, sent: object) -> list[str]:
        try:
            problem: str = judge(sent)  # type: ignore[operator]
        except LongwatchError as error:
            problem = f"{type(error).__name__}: {error}"
        return [f"{item_id}: {problem}"] if problem else []

    def _judge_video(self, sent: SentVideo) -> str:
        try:
            video = self._store.archive.read_video(sent.id)
        except NotFound:
            return "" if sent.maybe_deleted else "it is gone"
        if sent.deleted:
            return "it was deleted but is still there"
        if not video.settled:
            return f"it is {video.status}"
        if sent.poison:
            return self._judge_poison(sent, video)
        if sent.medium is None:
            told = video.problem and (video.problem.code.startswith("source-") or DIED.search(video.problem.message))
            return "" if told else f"a hostile server's video has no proper reason: {video}"
        if video.status == "failed":
            return f"it failed: {video.problem}"
        holder = self._store.read_holder(sent.id)
        model = self._store.workers.read_model()
        return compare_segments(
            self._references[sent.medium.name].segments, read_segments(self._store, holder.id, model)
        )

    def _judge_poison(self, sent: SentVideo, video: Video) -> str:
        told = video.problem.message if video.problem else ""
        if sent.title in ("poison ingest_video", "poison fetch_video"):
            return "" if DIED.search(told) and "longwatch retry" in told else f"poison, but: {video.status} {told}"
        if sent.title == "poison encode_segment 1":
            covered = self._store.read_coverage(video, range(2), self._store.workers.read_model())
            reason = covered.failed.get(1, "")
            return "" if DIED.search(reason) and 0 in covered.encoded else f"poison, but: {covered}"
        return "" if video.status == "ready" else f"it kills only fusion jobs, but: {video.status} {told}"

    def _judge_question(self, sent: SentQuestion) -> str:
        try:
            question = self._store.archive.read_question(sent.id)
        except NotFound:
            return "" if sent.video.maybe_deleted else "it is gone"
        if sent.video.deleted:
            return "it is still there, but its video was deleted"
        if not question.settled:
            return f"it is {self._store.read_question(sent.id).status}"
        if question.status == "cancelled":
            return "" if sent.may_be_cancelled or sent.video.maybe_deleted else "no user cancelled it"
        if sent.video.poison or sent.asked is None:
            told = question.problem.message if question.problem else ""
            return "" if question.status == "failed" and DIED.search(told) else f"poison, but: {question}"
        return self._judge_answer(sent, question)

    def _judge_answer(self, sent: SentQuestion, question: Question) -> str:
        assert sent.asked is not None
        assert sent.video.medium is not None
        told = question.problem.message if question.problem else ""
        if question.status == "failed" and (DIED.search(told) or self._lost_a_worker(sent.video.id)):
            self.excused["questions that failed because workers were killed"] += 1
            return ""
        if sent.partial and question.status == "done":
            return ""
        if question.answer is not None and question.answer.frames_missing and self._lost_a_worker(sent.video.id):
            self.excused["answers without segments whose workers were killed"] += 1
            return ""
        number = sent.video.medium.questions.index(sent.asked)
        self.excused["(answers that were compared)"] += 1
        return compare_answers(self._references[sent.video.medium.name].answers[number], question)

    def _lost_a_worker(self, video_id: str) -> bool:
        """Whether a job on the video's frames was given up."""
        holder_id = self._store.read_holder(video_id).id
        given_up = re.compile(rf"job (?:encode|ingest|fetch|fuse)-{re.escape(holder_id)}\S* is given up")
        return any(given_up.search(log.read_text(errors="replace")) for log in self._list_logs())

    def _list_logs(self) -> list[Path]:
        return sorted((self._service.folder / "logs").glob("*-*.log"))

    # leftovers

    def _judge_strangers(self) -> list[str]:
        """Videos whose acceptance never reached the user must be settled too; each folder must have a document."""
        faults = []
        for video_id in set(self._store.archive.list_video_ids()) - set(self._ledger.videos):
            try:
                video = self._store.archive.read_video(video_id)
            except NotFound:
                faults.append(f"{video_id}: a folder without video.json")
                continue
            if not video.settled:
                faults.append(f"{video_id}: no user knows it, and it is {video.status}")
        return faults

    def _judge_leftovers(self) -> list[str]:
        faults = [f"still in progress: {text}" for text in self.list_unsettled()]
        if SPRUNG.exists():
            faults.append("a name from Redis was called")
        there = set(self._store.archive.list_video_ids())
        for raw in self._store.state.scan_iter(count=1000):
            key = raw.decode(errors="replace")
            problem = self._judge_key(key, there)
            if problem:
                faults.append(f"{key}: {problem}")
        return faults

    def _judge_key(self, key: str, there: set[str]) -> str:
        if key.startswith("lw:lock:") and key != "lw:lock:reconciler":
            return "a lock is left"
        if key.startswith("rq:job:") or ":intermediate" in key:
            return "" if self._store.state.ttl(key) > 0 else "a job is left"
        found = IDS.search(key)
        if found is None:
            return ""
        video_id = found[0].partition("_")[0]
        if video_id in there:
            if key.startswith("lw:attempts:") and self._store.state.ttl(key) > 0:
                self.excused["attempts of jobs that were killed when all but ended"] += 1
                return ""
            left = key.startswith(("lw:waiting:", "lw:question-state:", "lw:attempts:"))
            return "it is left although its target is settled" if left else ""
        return "" if self._store.state.ttl(key) > 0 else "the video is gone, but this key never expires"

    def _judge_processes(self) -> list[str]:
        alive = Counter(worker.kind for worker in self._store.workers.list_alive())
        return [f"{alive[kind]} {kind} workers are alive" for kind in WORKERS if alive[kind] != EACH]

    # for the log

    def describe(self, item_id: str) -> str:
        """Describes everything known about a video or question with a fault."""
        state = self._store.state
        job_ids = [f"answer-{item_id}"] if "_" in item_id else [f"fetch-{item_id}", f"ingest-{item_id}"]
        places = {
            f"{job_id} in {name}": state.lpos(f"rq:queue:{name}", job_id)
            for name in (FETCH, INGEST, ENCODE, ANSWER)
            for job_id in job_ids
        }
        try:
            document: object = (
                self._store.archive.read_question(item_id)
                if "_" in item_id
                else self._store.archive.read_video(item_id)
            )
        except LongwatchError as error:
            document = error
        lines = [
            f"document: {document}",
            f"agenda: { {agenda: state.zscore(agenda, item_id) for agenda in AGENDAS} }",
            f"attempts: { {key.decode(): state.get(key) for key in state.scan_iter(f'lw:attempts:*{item_id}*')} }",
            f"fence: {state.get(f'lw:fence:{item_id}')!r}",
            f"queues: { {place: at for place, at in places.items() if at is not None} }",
        ]
        return "\n    ".join(lines)
