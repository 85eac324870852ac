"""A segment's pictures are one ordinary ZIP, the model's first, and damage is reported."""

import json
import zipfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.archive import Archive
from storage.errors import DamagedFile, NewerDocument, NotFound
from storage.segments import INDEX, SegmentFrame, SegmentReader, pack_segment
from tests.storage.making import make_frames, make_video


def test_a_segment_is_one_ordinary_zip_with_the_models_pictures_first(tmp_path: Path) -> None:
    archive, video = Archive(str(tmp_path)), make_video()
    archive.write_video(video)
    archive.create_segment(video.id, 0, make_frames(64))
    assert list(archive.files.tree(video.id)) == ["000000/frames.zip", "video.json"]
    with zipfile.ZipFile(tmp_path / video.id / "000000" / "frames.zip") as file:
        assert file.testzip() is None
        entries = file.infolist()
        assert [entry.filename for entry in entries] == [
            *(f"model/{place:02d}.jpg" for place in range(64)),
            *(f"view/{place:02d}.jpg" for place in range(64)),
            INDEX,
        ]
        offsets = [entry.header_offset for entry in entries]
        assert offsets == sorted(offsets)
        assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
        assert file.read("view/63.jpg") == b"view-63-jpg"
        file.extractall(tmp_path / "out")
    assert (tmp_path / "out" / "model" / "00.jpg").read_bytes() == b"model-0-jpg"


@given(st.sets(st.integers(0, 63), min_size=1), st.booleans(), st.booleans())
def test_a_packed_segment_can_be_read_back(places: set[int], model: bool, view: bool) -> None:
    frames = [
        SegmentFrame(place, place + 0.5, b"m%d" % place if model else None, b"v%d" % place if view else None)
        for place in sorted(places)
    ]
    reader = SegmentReader(BytesIO(pack_segment(frames)), "x")
    assert reader.mask == sum(1 << place for place in places)
    assert reader.times_s == {place: place + 0.5 for place in places}
    for place in range(64):
        assert reader.has("model", place) == (model and place in places)
        assert reader.has("view", place) == (view and place in places)
    if model:
        assert reader.read_picture("model", max(places)) == b"m%d" % max(places)
    with pytest.raises(NotFound, match="x holds no picture"):
        reader.read_picture("model", 64)


def test_the_same_frames_make_the_same_bytes() -> None:
    assert pack_segment(make_frames(5)) == pack_segment(make_frames(5))


BLOB = pack_segment(make_frames(3))


@given(st.integers(0, len(BLOB) - 1), st.integers(0, 255), st.booleans())
def test_damage_anywhere_is_reported_or_harmless_and_never_gives_another_picture(at: int, byte: int, cut: bool) -> None:
    blob = BLOB[:at] if cut else BLOB[:at] + bytes([byte]) + BLOB[at + 1 :]
    with suppress(DamagedFile, NotFound, NewerDocument):
        reader = SegmentReader(BytesIO(blob), "there/frames.zip")
        for place in range(3):
            assert reader.read_picture("model", place) == b"model-%d-jpg" % place


def test_a_segment_of_a_newer_longwatch_is_refused_by_name() -> None:
    blob = BytesIO()
    with zipfile.ZipFile(blob, "w") as file:
        file.writestr(INDEX, json.dumps({"version": 2, "frames": "elsewhere"}))
    with pytest.raises(NewerDocument, match=r"there/frames\.zip"):
        SegmentReader(blob, "there/frames.zip")
