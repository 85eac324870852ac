"""Recordings hold every coded frame once, play by themselves, and survive a killed process."""

import itertools
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from ingest.cameras.camera_messages import Recorded
from ingest.cameras.coded_frames import FrameReader
from ingest.cameras.recording import Recorder, VideoForm, find_audio_to_copy, finish_partial_recordings
from storage.timeline import Grid
from tests.ingest.cameras.filming import CODECS, FPS, film, number_in, play
from tests.media import steady, write_video

GRID = Grid(8.0)  # segments of 8 s


def record(path: Path, folder: Path, *, until_s: float = 1e9) -> list[Recorded]:
    """Records a file as if it came from a camera, shifted by 4 s."""
    container: Any = av.open(str(path))
    video = container.streams.video[0]
    recorder = Recorder(folder, GRID, video, find_audio_to_copy(list(container.streams)))
    reader, recorded = FrameReader(video.codec_context.name, None), []
    packets = [packet for packet in container.demux() if packet.size]
    packets.sort(key=lambda packet: packet.dts * packet.time_base)
    recorder.learn_audio(next((packet for packet in packets if packet.stream.type == "audio"), None))
    form = VideoForm(video.codec_context.name, 64, 48, b"")
    for packet in packets:
        t_s, decoded_s = (4.0 + float(ticks * packet.time_base) for ticks in (packet.pts, packet.dts))
        if t_s > until_s:
            shutil.copytree(folder, folder.parent / "killed")
            break
        if packet.stream is video:
            parameters = reader.read_frame(bytes(packet)).parameters or form.parameters
            form = VideoForm(video.codec_context.name, 64, 48, parameters)
            recorded += recorder.add_video(packet, t_s, decoded_s, form)
        else:
            recorder.add_audio(packet, t_s)
    return recorded + recorder.end_file()


def read_numbers(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [number_in(frame) for frame in container.decode(video=0)]


@pytest.mark.parametrize("kind", ["h264", "b-frames", "one reference", "h265", "mjpeg"])
def test_every_frame_is_recorded_once_in_one_file_a_segment(kind: str, tmp_path: Path) -> None:
    recorded = record(film(tmp_path / "camera", kind, 20), tmp_path / "spool")
    assert [one.segment for one in recorded] == [0, 1, 2]
    files = [tmp_path / "spool" / one.file for one in recorded]
    assert list(itertools.chain(*map(read_numbers, files))) == list(range(300))
    assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == [one.file for one in recorded]
    for one, path in zip(recorded, files, strict=True):
        assert one.file == f"{one.segment:06d}-{one.start_ms}-{one.duration_ms}-{one.codec}.mp4"
        assert one.start_ms >= max(GRID.segment_start_s(one.segment), 4) * 1000
        assert one.size_bytes == path.stat().st_size
    for earlier, later in itertools.pairwise(recorded):
        assert earlier.start_ms + earlier.duration_ms == pytest.approx(later.start_ms, abs=140)


def test_frames_keep_their_times(tmp_path: Path) -> None:
    (recorded, *_) = record(film(tmp_path / "camera", "b-frames", 20), tmp_path / "spool")
    with av.open(str(tmp_path / "spool" / recorded.file)) as container:
        times = [frame.time or 0.0 for frame in container.decode(video=0)]
    assert times == pytest.approx([times[0] + k / FPS for k in range(len(times))], abs=0.001)


def test_h265_is_tagged_so_that_apple_plays_it(tmp_path: Path) -> None:
    (recorded,) = record(film(tmp_path / "camera", "h265", 3), tmp_path / "spool")
    with av.open(str(tmp_path / "spool" / recorded.file)) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"
    assert recorded.codec == "hevc"


def test_sound_is_copied(tmp_path: Path) -> None:
    # In MPEG-TS each AAC packet has an ADTS head, which MP4 does not have.
    path = write_video(tmp_path / "camera.ts", steady(20, FPS), options=CODECS["h264"][1], sound=True)
    recorded = record(path, tmp_path / "spool")
    seconds = []
    for one in recorded:
        with av.open(str(tmp_path / "spool" / one.file)) as container:
            samples = sum(frame.samples for frame in container.decode(audio=0))
            seconds.append(Fraction(samples, 16_000))
    assert sum(seconds) > 17
    assert read_numbers(tmp_path / "spool" / recorded[1].file)


def test_a_change_of_the_video_begins_a_new_file(tmp_path: Path) -> None:
    video, packets = play(film(tmp_path / "camera", "h264", 6))
    recorder, recorded = Recorder(tmp_path, GRID, video, None), []
    parameters = video.codec_context.extradata or b""
    for filmed in packets:
        form = VideoForm("h264", 64 if filmed.number < 50 else 128, 48, parameters)
        recorded += recorder.add_video(filmed.packet, filmed.t_s, filmed.t_s, form)
    recorded += recorder.end_file()
    assert [(one.segment, one.start_ms) for one in recorded] == [(0, 0), (0, 4000)]
    assert read_numbers(tmp_path / recorded[0].file) == list(range(60))


@pytest.mark.parametrize("cut", [0, 1, 300])
def test_what_a_killed_process_left_is_finished(cut: int, tmp_path: Path) -> None:
    record(film(tmp_path / "camera", "h264", 20), tmp_path / "spool", until_s=13)
    killed = tmp_path / "killed"
    (partial,) = killed.glob("*.part")
    partial.write_bytes(partial.read_bytes()[: partial.stat().st_size - cut])
    (killed / "000009-5.mp4.part").write_bytes(b"nothing yet")
    (recorded,) = finish_partial_recordings(killed)
    numbers = read_numbers(killed / recorded.file)
    assert numbers == list(range(60, 60 + len(numbers)))  # from 8 s on; the camera began at 4 s
    assert len(numbers) in ((60,) if cut == 0 else (30, 60))  # whole groups of pictures
    assert (recorded.segment, recorded.start_ms) == (1, 8000)
    assert recorded.duration_ms == pytest.approx(len(numbers) / FPS * 1000, abs=100)
    assert list(killed.glob("*.part")) == []
