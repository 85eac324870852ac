"""Records small films as a camera's child does, and keeps them as the archive does."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np

from ingest.cameras.recording import Recorder, VideoForm, name_codec
from playback.boxes import measure_head
from storage.recordings import Recording
from storage.timeline import Grid
from tests.ingest.cameras.filming import CODECS, FPS, film, play
from tests.media import number_of, steady, write_video

GRID = Grid(8.0)  # segments of 8 s


class Shelf:
    """Recorded files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, Path] = {}

    @contextmanager
    def open(self, recording: Recording) -> Iterator[BinaryIO]:
        """The file of a recording."""
        with self.files[recording.name].open("rb") as file:
            yield file

    def record(
        self, start_s: float, seconds: float, kind: str = "h264", size: tuple[int, int] = (64, 48)
    ) -> list[Recording]:
        """Records a connection that begins at `start_s` of the stream; its frames are 0, 1, 2 ..."""
        folder = self.folder / f"{start_s}-{kind}-{size[0]}"
        folder.mkdir()
        video, packets = play(film(folder / "film", kind, seconds, size=size))
        context = video.codec_context
        form = VideoForm(name_codec(context.name), *size, context.extradata or b"")
        recorder = Recorder(folder, GRID, video, None)
        ended = []
        for filmed in packets:
            assert filmed.packet.dts is not None
            decoded_s = float((filmed.packet.dts - filmed.packet.pts) * filmed.packet.time_base) + filmed.t_s
            ended += recorder.add_video(filmed.packet, start_s + filmed.t_s, start_s + decoded_s, form)
        ended += recorder.end_file()
        return [self.keep(folder / each.file) for each in ended]

    def record_sound(self, start_s: float, seconds: float) -> list[Recording]:
        """Records a connection with sound, as `record` does."""
        folder = self.folder / f"{start_s}-sound"
        folder.mkdir()
        film_path = write_video(folder / "film.ts", steady(seconds, FPS), options=CODECS["h264"][1], sound=True)
        container: Any = av.open(str(film_path))
        video, sound = container.streams.video[0], container.streams.audio[0]
        recorder, ended = Recorder(folder, GRID, video, sound), []
        form = VideoForm("h264", 64, 48, video.codec_context.extradata or b"")
        packets = sorted((each for each in container.demux() if each.size), key=lambda each: each.dts * each.time_base)
        first = min(each.pts * each.time_base for each in packets if each.stream is video)
        recorder.learn_audio(next(each for each in packets if each.stream is sound))
        for packet in packets:
            t_s, decoded_s = (start_s + float(ticks * packet.time_base - first) for ticks in (packet.pts, packet.dts))
            if packet.stream is video:
                ended += recorder.add_video(packet, t_s, decoded_s, form)
            else:
                recorder.add_audio(packet, t_s)
        return [self.keep(folder / each.file) for each in [*ended, *recorder.end_file()]]

    def keep(self, file: Path) -> Recording:
        """Describes a finished file."""
        segment, start_ms, duration_ms, codec = file.stem.split("-")
        with file.open("rb") as content:
            head_bytes, form = measure_head(content)
        size = file.stat().st_size
        recording = Recording(int(start_ms), int(segment), int(duration_ms), codec, head_bytes, form, size)
        self.files[recording.name] = file
        return recording


def read_shown(content: bytes | str) -> list[tuple[int, float, tuple[int, int]]]:
    """(number, seconds, size) of each picture that a player shows, in order."""
    with av.open(io.BytesIO(content) if isinstance(content, bytes) else content, "r") as container:
        return [
            (
                number_of(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)),
                frame.time or 0.0,
                (frame.width, frame.height),
            )
            for frame in container.decode(video=0)
        ]


def expect_numbers(shown: list[tuple[int, float, tuple[int, int]]], first: int, count: int, start_s: float = 0) -> None:
    """The pictures are these, each at its time."""
    assert [number for number, _, _ in shown] == list(range(first, first + count))
    for number, t_s, _ in shown:
        assert abs(t_s - start_s - (number - first) / FPS) < 0.001
