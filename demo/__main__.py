"""Runs the demo: submits two videos by URL, shows progress, streams answers and compares them with the truth."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from cli import show
from cli.client import Client
from cli.errors import ServiceError
from cli.times import format_time
from cli.videos import wait_for_video
from configs.privacy import keep_files_private
from demo.media import REAL_FILE, WORLD_FILE, dozen, prepare, served
from demo.service import running

DATA = Path("data/demo")
RIGHT_AT_LEAST = 10  # of the twelve, or the demo fails
REAL_QUESTION = "what place is this ?"
KNOWS = (
    "The bundled model has 3.6 million parameters and was trained only on a generated world. It knows six colours, "
    "five shapes, five rooms, where things are and whether they were there. It answers every question in these words, "
    "so its answer about the real clip means nothing: the clip only shows that real video takes the same path. See "
    "checkpoints/tiny/README.md; configs/llava-mini-8b.yaml names the real model."
)


def main() -> None:
    """Runs the demo; exits with 1 if too few answers are right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the service running")
    options = parser.parse_args()
    keep_files_private(DATA)
    show.console.print("drawing ten minutes of the generated world ...")
    world = prepare(DATA / "media")
    try:
        with served(DATA / "media") as media, running(DATA / "service", options.keep) as (client, address):
            show.console.print(f"the service is up at {address}")
            video = submit(client, f"{media}/{WORLD_FILE}")
            clip = submit(client, f"{media}/{REAL_FILE}")
            table, right = examined(client, video, dozen(world))
            show.console.print(f"\na real clip, asked {REAL_QUESTION!r}:")
            streamed(client, clip, {"question": REAL_QUESTION})
    except ServiceError as error:
        sys.exit(f"demo: {error}")
    show.console.print(table)
    show.console.print(f"{right} of {table.row_count} answers about the generated video are right.\n{KNOWS}")
    if options.keep:
        show.console.print(
            f"The service keeps running: longwatch list --api-url {address}\n"
            f"To stop it: kill $(cat {DATA}/service/supervisor/supervisord.pid)"
        )
    sys.exit(0 if right >= RIGHT_AT_LEAST else 1)


def submit(client: Client, url: str) -> str:
    """Submits a video, shows its progress to the end and returns its id."""
    video_id = str(client.call("POST", "/v1/videos", json={"url": url})["id"])
    show.console.print(f"submitted {url}: {video_id}")
    wait_for_video(client, video_id)
    return video_id


def examined(client: Client, video_id: str, questions: list[Any]) -> tuple[Table, int]:
    """Asks all questions and streams the answers. Returns a table of answers and truth, and how many are right."""
    table, right = Table("stretch", "question", box=None), 0
    for name in ("answer", "truth", "right?", "looked at", "ms"):
        table.add_column(name, no_wrap=True)
    for start_s, end_s, question in questions:
        asked = streamed(client, video_id, {"question": question.text, "start": start_s, "end": end_s})
        answer = asked["answer"]
        fine = answer["text"].strip() == question.answer
        right += fine
        table.add_row(
            f"{format_time(start_s)}-{format_time(end_s)}",
            question.text,
            answer["text"],
            question.answer,
            "yes" if fine else "NO",
            ", ".join(format_time(item["t_s"]) for item in answer["evidence"][:1]),
            f"{answer['timings']['first_token_s'] * 1000:.0f}",
        )
    table.caption = "looked at: the frame attended to most; ms: until the first word"
    return table, right


def streamed(client: Client, video_id: str, body: dict[str, Any]) -> dict[str, Any]:
    """Asks a question and prints the answer as it comes. Returns the question with its answer."""
    show.console.print(f"{body['question']} ", end="")
    final: dict[str, Any] = {}
    for event, data in client.events("POST", f"/v1/videos/{video_id}/questions", json=body):
        if event == "text":
            show.console.print(data, end="")
        elif event == "error":
            raise ServiceError(json.loads(data)["problem"]["message"])
        elif event == "answer":
            final = json.loads(data)
    show.console.print()
    return final


if __name__ == "__main__":
    main()
