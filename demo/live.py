"""The live demo: two looping cameras of the generated world, three standing questions, and a look at the past."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cli import show
from cli.client import Client
from cli.errors import ServiceError
from cli.events import follow_events
from configs.privacy import keep_files_private
from demo.cameras.camera_server import CameraServer, running_cameras
from demo.cameras.clips import read_clip
from demo.service import running
from training.files import write_video
from training.world import World, generate

DATA = Path("data/demo-live")
SEEDS = {"hall": 20261, "yard": 20263}  # odd seeds are never trained on
FILM_S, FILM_FPS, GOP = 60, 10, 20  # a keyframe every two seconds, as cameras have them
WATCHED_S = 120.0
PAST_S = (90.0, 50.0)  # the question about the past is about the time from so long ago until so long ago
START_WITHIN_S = 30.0


def main() -> None:
    """Runs the demo; exits with 1 if no event came, or the past is answered wrong."""
    keep_files_private(DATA)
    show.console.print("drawing two minutes of the generated world ...")
    worlds = {name: generate(seed, FILM_S) for name, seed in SEEDS.items()}
    clips = {name: read_clip(_draw(world, DATA / "media" / f"{name}.mp4")) for name, world in worlds.items()}
    server = CameraServer(clips)
    try:
        with running_cameras(server), running(DATA / "service", keep=False) as (client, _):
            streams = {name: _add_stream(client, server, name) for name in clips}
            watches = dict(_add_watches(client, streams, worlds))
            show.console.print(f"events of the next {WATCHED_S:.0f} seconds:")
            answers = _print_events(client, watches)
            right = _ask_about_the_past(client, streams["hall"], worlds["hall"])
    except ServiceError as error:
        sys.exit(f"demo: {error}")
    show.console.print(f"{answers} answers came as events.")
    sys.exit(0 if right and answers else 1)


def _draw(world: World, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path if path.exists() else write_video(world, path, FILM_FPS, gop=GOP)


def _add_stream(client: Client, server: CameraServer, name: str) -> str:
    body = {"url": f"rtsp://{server.host}:{server.rtsp_port}/{name}", "name": name, "sample_fps": 1, "record": True}
    stream_id = str(client.call("POST", "/v1/streams", json=body)["id"])
    deadline = time.monotonic() + START_WITHIN_S
    while (stream := client.call("GET", f"/v1/streams/{stream_id}"))["state"] != "online":
        if time.monotonic() > deadline:
            raise ServiceError(f"camera {name} is {stream['state']}: {stream['problem']}")
        time.sleep(0.5)
    show.console.print(f"camera {name} is online: {body['url']}")
    return stream_id


def _add_watches(
    client: Client, streams: dict[str, str], worlds: dict[str, World]
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yields (watch id, (camera, question)) of three standing questions."""
    things = {name: world.things[0].name for name, world in worlds.items()}
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("hall", {"question": f"is there a {things['hall']} ?", "every_s": 5, "notify": "change"}),
        ("yard", {"question": f"is there a {things['yard']} ?", "every_s": 5, "window_s": 10, "notify": "change"}),
        ("yard", {"question": "which room is this ?", "every_s": 20, "notify": "always"}),
    ]
    for name, body in wanted:
        added = client.call("POST", f"/v1/streams/{streams[name]}/watches", json=body)
        show.console.print(f"watching {name}: {body['question']} every {body['every_s']} s, notify {body['notify']}")
        yield str(added["id"]), (name, body["question"])


def _print_events(client: Client, watches: dict[str, tuple[str, str]]) -> int:
    """Prints events for a while; returns how many were answers."""
    counted: list[str] = []
    done = threading.Event()

    def follow() -> None:
        for event in follow_events(client, "/v1/events"):
            if done.is_set():
                return
            camera, question = watches.get(event["watch_id"], ("", event["message"]))
            if event["watch_id"]:
                counted.append(event["id"])
                found = f"{camera}: {question} {event['answer']} ({event['probability']:.2f}), see {event['picture']}"
                show.console.print(f"{event['at'][11:19]}  {event['type']:8} {found}")
            else:
                show.console.print(f"{event['at'][11:19]}  {event['type']:8} {question}")

    threading.Thread(target=follow, daemon=True).start()
    time.sleep(WATCHED_S)
    done.set()
    show.aside.quiet = True  # the service ends next, and the thread that follows it would complain
    return len(counted)


def _ask_about_the_past(client: Client, stream_id: str, world: World) -> bool:
    start, end = (datetime.now(UTC) - timedelta(seconds=ago_s) for ago_s in PAST_S)
    question = {"question": "which room is this ?", "start": start.isoformat(), "end": end.isoformat()}
    final: dict[str, Any] = {}
    for name, data in client.events("POST", f"/v1/streams/{stream_id}/questions", json=question):
        if name in ("answer", "error"):
            final = json.loads(data)
    if final["problem"]:
        raise ServiceError(final["problem"]["message"])
    answer = final["answer"]
    show.console.print(
        f"hall from {start:%H:%M:%S} to {end:%H:%M:%S} UTC, {answer['frames']} frames: {question['question']} "
        f"{answer['text']} (the truth: {world.room})"
    )
    return bool(answer["text"].strip() == world.room)


if __name__ == "__main__":
    main()
