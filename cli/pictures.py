"""The commands that fetch pictures: frame, source."""

import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.client import Client
from cli.errors import CannotWrite
from cli.options import ApiUrl, Output, Time, VideoId, read_settings
from cli.prefixes import find_video

app = typer.Typer()

SLOT = re.compile(r"/frames/(\d+)\.jpg$", re.ASCII)
SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp"}
STANDARD_OUTPUT = "-"


@app.command()
def frame(
    context: typer.Context,
    video_id: VideoId,
    at: Time,
    kind: Annotated[
        Literal["view", "model"], typer.Option(help="The picture for people, or what the model sees.")
    ] = "view",
    output: Output = None,
    api_url: ApiUrl = None,
) -> None:
    """Fetch the frame at a given time as a JPEG; prints the file's name (default: ID-SLOT.jpg)."""
    with Client.of(read_settings(context), api_url) as client:
        found = find_video(client, video_id)
        content, address, _ = client.download(f"/v1/videos/{found}/frame", {"at": at, "kind": kind})
    slot = SLOT.search(address.path)
    _write(content, output or f"{found}-{slot[1] if slot else 'frame'}.jpg")


@app.command()
def source(context: typer.Context, video_id: VideoId, output: Output = None, api_url: ApiUrl = None) -> None:
    """Fetch an image as it was submitted; prints the file's name (default: ID with the type as suffix)."""
    with Client.of(read_settings(context), api_url) as client:
        found = find_video(client, video_id)
        content, _, media_type = client.download(f"/v1/videos/{found}/source")
    _write(content, output or f"{found}{SUFFIXES.get(media_type, '.bin')}")


def _write(content: bytes, output: str) -> None:
    if output == STANDARD_OUTPUT:
        sys.stdout.buffer.write(content)
        return
    try:
        Path(output).write_bytes(content)
    except OSError as error:
        raise CannotWrite(f"cannot write {output}: {error.strerror or error}; choose another path with -o") from error
    typer.echo(output)
