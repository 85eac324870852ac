"""The whole service, undisturbed and disturbed, gives the same tokens and answers or a clear error."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cli.event_stream import parse_events
from storage.timeline import SEGMENT_SLOTS
from tests.end_to_end.conftest import WORLD_S, Service, flush
from tests.waiting import wait_until

QUESTIONS = ("what place is this ?", "what is there now ?")
Media = tuple[Path, str]


def test_disturbances_change_neither_tokens_nor_answers(service: Service, media: Media) -> None:
    folder, address = media
    video_id = service.submit(url=f"{address}/world.mp4")
    video = service.settled(video_id)
    assert (video["status"], video["progress"]["frames_encoded"]) == ("ready", WORLD_S)
    wanted_tokens, wanted_answers = tokens(service, video_id), answers(service, video_id)
    assert len(wanted_tokens) == WORLD_S
    assert all(answer["status"] == "done" and answer["answer"]["text"] for answer in wanted_answers)

    _flush_and_compare(service, video_id, wanted_answers)
    _submit_the_same_bytes(service, video_id, folder)
    service.http.delete(f"/v1/videos/{_list_duplicates(service, video_id)[0]}").raise_for_status()
    service.http.delete(f"/v1/videos/{video_id}").raise_for_status()
    assert service.http.get(f"/v1/videos/{video_id}").status_code == 404

    for disturb in (_kill_the_encoder, _flush_in_the_middle, _start_a_second_encoder):
        video_id = service.submit(url=f"{address}/world.mp4")
        disturb(service, video_id)
        assert service.settled(video_id)["status"] == "ready"
        assert np.array_equal(tokens(service, video_id), wanted_tokens), disturb.__name__
        texts = [answer["answer"]["text"] for answer in answers(service, video_id)]
        assert texts == [answer["answer"]["text"] for answer in wanted_answers], disturb.__name__
        service.http.delete(f"/v1/videos/{video_id}").raise_for_status()


def test_answers_stream_and_a_bad_source_fails_with_a_reason(service: Service, media: Media) -> None:
    folder, address = media
    video_id = service.submit(url=f"{address}/world.mp4")
    events = ask_streaming(service, video_id, "is there a red circle ?")
    assert [name for name, _ in events][:2] == ["question", "waiting"]  # the question waits for frames and says so
    final = json.loads(events[-1][1])
    assert "".join(data for name, data in events if name == "text") == final["answer"]["text"]
    assert final["answer"]["evidence"]
    picture = service.http.get(final["answer"]["evidence"][0]["picture"])
    assert picture.content.startswith(b"\xff\xd8")

    (folder / "text.mp4").write_text("this is not a video")
    whole = (folder / "world.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    problems = {"text.mp4": "source-unsupported", "inward": "source-refused", "nowhere.mp4": "source-unavailable"}
    for name, code in problems.items():
        failed = service.settled(service.submit(url=f"{address}/{name}"))
        assert (failed["status"], failed["problem"]["code"]) == ("failed", code)
        asked = service.http.post(f"/v1/videos/{failed['id']}/questions", json={"question": "?"})
        assert asked.status_code == 409

    cut = service.settled(service.submit(url=f"{address}/cut.mp4"))
    assert cut["status"] == "ready"
    assert "cut off" in cut["truncated"]
    assert 0 < cut["progress"]["frames_encoded"] < WORLD_S
    assert service.ask(cut["id"], QUESTIONS[0])["status"] == "done"


def tokens(service: Service, video_id: str) -> NDArray[np.float16]:
    ((fingerprint, segments),) = service.store.archive.list_contents(video_id).encoded.items()
    records = [service.store.archive.read_record(video_id, segment, fingerprint) for segment in segments]
    return np.concatenate([record.tokens for record in records if record is not None])


def answers(service: Service, video_id: str) -> list[dict[str, Any]]:
    whole = [service.ask(video_id, question) for question in QUESTIONS]
    part = service.ask(video_id, QUESTIONS[1], start=30, end=100, fusion="exact")
    follow = service.ask(video_id, "is there a red circle ?", previous_question_id=whole[0]["id"], fusion="sampled")
    return [*whole, part, follow]


def ask_streaming(service: Service, video_id: str, question: str) -> list[tuple[str, str]]:
    path, accept = f"/v1/videos/{video_id}/questions", {"accept": "text/event-stream"}
    with service.http.stream("POST", path, json={"question": question}, headers=accept) as response:
        return list(parse_events(response.iter_lines()))


def encoded_frames(service: Service, video_id: str) -> int:
    (progress,) = service.store.read_progress([service.store.read_video(video_id)])
    return progress.frames_encoded if progress else 0


def _flush_and_compare(service: Service, video_id: str, wanted: list[dict[str, Any]]) -> None:
    flush(service.settings)
    wait_until(lambda: service.http.get("/readyz").status_code == 200, within_s=60)
    listed = service.http.get(f"/v1/videos/{video_id}/questions").json()["questions"]
    assert [question["answer"]["text"] for question in reversed(listed)] == [
        asked["answer"]["text"] for asked in wanted
    ]
    assert service.settled(video_id)["progress"]["frames_encoded"] == WORLD_S
    assert [again["answer"]["text"] for again in answers(service, video_id)] == [a["answer"]["text"] for a in wanted]


def _submit_the_same_bytes(service: Service, video_id: str, folder: Path) -> None:
    with (folder / "world.mp4").open("rb") as file:
        uploaded = service.http.post("/v1/videos", files={"file": ("again.mp4", file)})
    assert (uploaded.status_code, uploaded.json()["id"]) == (200, video_id)
    copy = service.submit(path=str(_make_allowed_copy(service, folder)))
    assert service.settled(copy)["duplicate_of"] == video_id
    assert service.ask(copy, QUESTIONS[0])["status"] == "done"
    assert service.http.delete(f"/v1/videos/{video_id}").status_code == 409


def _make_allowed_copy(service: Service, folder: Path) -> Path:
    copy = service.config.with_name("copy.mp4")
    copy.write_bytes((folder / "world.mp4").read_bytes())
    return copy


def _list_duplicates(service: Service, video_id: str) -> list[str]:
    videos = service.http.get("/v1/videos").json()["videos"]
    return [video["id"] for video in videos if video["duplicate_of"] == video_id]


def _kill_the_encoder(service: Service, video_id: str) -> None:
    wait_until(lambda: service.store.state.zcard("rq:wip:encode"), within_s=60, step_s=0.01)
    service.kill("encode")
    service.start("encode")


def _flush_in_the_middle(service: Service, video_id: str) -> None:
    wait_until(lambda: encoded_frames(service, video_id), within_s=60, step_s=0.01)
    flush(service.settings)


def _start_a_second_encoder(service: Service, video_id: str) -> None:
    service.start("encode", "second encoder")
    wait_until(lambda: encoded_frames(service, video_id) > SEGMENT_SLOTS, within_s=60)
