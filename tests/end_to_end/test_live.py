"""A real camera, all real processes: frames are asked about within seconds, and standing questions become events."""

import json
import threading
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.cameras.camera import Camera, camera
from tests.end_to_end.conftest import Service
from tests.waiting import wait_until
from training.files import write_video
from training.world import generate

WORLD = generate(7, 60)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(WORLD, tmp_path_factory.mktemp("film") / "world.mp4", fps=5, gop=10)


def add_stream(service: Service, cam: Camera, **more: Any) -> str:
    service.start("capture")
    response = service.http.post("/v1/streams", json={"url": cam.url, "name": "Door", "sample_fps": 2, **more})
    assert response.status_code == 201, response.text
    stream = response.json()
    assert stream["state"] == "connecting"
    return str(stream["id"])


def read_stream(service: Service, stream_id: str) -> dict[str, Any]:
    stream: dict[str, Any] = service.http.get(f"/v1/streams/{stream_id}").json()
    return stream


def test_a_camera_can_be_asked_about_at_once_and_later(service: Service, film: Path) -> None:
    with camera(film, user="viewer", password="s3cret") as cam:
        stream_id = add_stream(service, cam, username="viewer", password="s3cret")
        wait_until(lambda: read_stream(service, stream_id)["frames_sampled"] >= 8)
        body = {"question": "which room is this ?", "last_s": 3}
        asked = service.http.post(f"/v1/streams/{stream_id}/questions", json=body, headers={"prefer": "wait=60"}).json()
        assert asked["answer"]["text"] == WORLD.room, asked
        assert asked["answer"]["frames"] in (4, 5, 6)
        assert asked["answer"]["probability"] > 0.5
        picture = service.http.get(asked["answer"]["evidence"][0]["picture"])
        assert picture.headers["content-type"] == "image/jpeg"
        stream = read_stream(service, stream_id)
        assert (stream["state"], stream["problem"], stream["codec"]) == ("online", None, "h264")
        assert "s3cret" not in json.dumps(stream)

        wait_until(lambda: read_stream(service, stream_id)["frames_sampled"] >= 70, within_s=60)
        segments: list[dict[str, Any]] = []

        def first_is_encoded() -> bool:
            segments[:] = service.http.get(f"/v1/streams/{stream_id}/segments").json()["segments"]
            return bool(segments[0]["encoded"]) and len(segments) > 1

        wait_until(first_is_encoded)
        start = datetime.fromisoformat(segments[0]["start"])
        mask = int(segments[0]["mask"], 16)
        late = (mask & -mask).bit_length() - 1  # slots before the film's first keyframe
        assert mask == (1 << 64) - (1 << late)
        body = {"question": "which room is this ?", "start": start.isoformat(), "end": 30}
        asked = service.http.post(f"/v1/streams/{stream_id}/questions", json=body, headers={"prefer": "wait=60"}).json()
        assert asked["answer"]["text"] == WORLD.room, asked
        (gap,) = asked["answer"]["gaps"]
        lasts_s = (datetime.fromisoformat(gap["end"]) - datetime.fromisoformat(gap["start"])).total_seconds()
        assert (gap["start"], lasts_s) == (segments[0]["start"], late / 2)
        assert asked["answer"]["seen"] == pytest.approx(1 - late / 60)
        assert read_stream(service, stream_id)["gaps"] == [gap]


def test_answers_of_a_watch_arrive_as_events(service: Service, film: Path) -> None:
    with camera(film) as cam:
        stream_id = add_stream(service, cam)
        wait_until(lambda: read_stream(service, stream_id)["state"] == "online")
        body = {"question": "which room is this ?", "every_s": 2, "window_s": 4, "notify": "always"}
        added = service.http.post(f"/v1/streams/{stream_id}/watches", json=body)
        assert added.status_code == 201, added.text
        events: list[dict[str, Any]] = []

        def listen() -> None:
            headers = {"accept": "text/event-stream"}
            with service.http.stream("GET", "/v1/events?after=", headers=headers) as lines:
                for line in lines.iter_lines():
                    if line.startswith("data:"):
                        events.append(json.loads(line.removeprefix("data:")))
                    if sum(event["type"] == "answer" for event in events) >= 4:
                        return

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        listener.join(60)
        answers = [event for event in events if event["type"] == "answer"]
        assert len(answers) >= 4, events
        assert {event["watch_id"] for event in answers} == {added.json()["id"]}
        assert {event["answer"] for event in answers[1:]} == {WORLD.room}
        assert len({event["id"] for event in answers}) == len(answers)
        ends = [datetime.fromisoformat(event["end_at"]) for event in answers]
        assert all((later - earlier).total_seconds() % 2 == 0 for earlier, later in pairwise(ends))
        assert service.http.get(answers[-1]["picture"]).status_code == 200
        clip = service.http.get(answers[-1]["clip"])
        assert (clip.status_code, clip.headers["content-type"]) == (200, "video/mp4")
        history = service.http.get(f"/v1/streams/{stream_id}/watches/{added.json()['id']}/history").json()
        assert len(history["evaluations"]) >= 4
