"""Serves video files as cameras: python -m demo.cameras FILE... --port N."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from demo.cameras.camera_server import CameraServer
from demo.cameras.clips import read_clip
from demo.cameras.digest import Accounts


def serve(
    files: Annotated[list[Path], typer.Argument(help="Each file is a camera, named like the file.", exists=True)],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="RTSP port.")] = 8554,
    http_port: Annotated[int, typer.Option(help="HTTP port; 0 takes any free one.")] = 0,
    user: Annotated[str, typer.Option(help="User name; without one, everybody may watch.")] = "",
    password: Annotated[str, typer.Option(envvar="CAMERA_PASSWORD", help="The user's password.")] = "",
) -> None:
    """Serves video files as live cameras until Ctrl-C."""
    accounts = Accounts({user: password} if user else {})
    clips = {file.stem: read_clip(file) for file in files}
    server = CameraServer(clips, host=host, rtsp_port=port, http_port=http_port, accounts=accounts)
    asyncio.run(_serve(server))


async def _serve(server: CameraServer) -> None:
    await server.open()
    for name, source in server.sources.items():
        kind = "live.mjpeg" if source.clip.tracks[0].codec == "mjpeg" else "live.ts"
        typer.echo(f"rtsp://{server.host}:{server.rtsp_port}/{name}")
        typer.echo(f"http://{server.host}:{server.http_port}/{name}/{kind}")
    try:
        await asyncio.Event().wait()
    finally:
        await server.close()


if __name__ == "__main__":
    typer.run(serve)
