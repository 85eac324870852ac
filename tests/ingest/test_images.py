"""Images become upright, eight-bit pictures on white, or are refused with a reason."""

import random
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.settings import IngestSettings
from ingest.errors import SourceTooLarge, UnsupportedSource
from ingest.files.images import is_image, read_image
from storage.decoding import decode_picture
from storage.errors import DamagedFile
from tests.media import number_of, numbered, steady, write_video

SETTINGS = IngestSettings()
SUFFIXES = {"JPEG": "jpeg", "PNG": "png", "WEBP": "webp"}


def packed(image: Image.Image, form: str, **how: Any) -> bytes:
    file = BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def picture(number: int = 1234, width: int = 64, height: int = 48) -> Image.Image:
    return Image.fromarray(numbered(number, width, height))


def view_of(path: Path, **settings: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    view_jpeg = read_image(path, IngestSettings.model_validate(settings)).frame.view_jpeg
    assert view_jpeg is not None
    return decode_picture(view_jpeg)


@pytest.mark.parametrize("form", SUFFIXES)
def test_an_image_is_recognized_by_its_content_and_is_one_frame(form: str, tmp_path: Path) -> None:
    path = write(tmp_path / "named-wrongly.mp4", packed(picture(), form))
    assert is_image(path)
    source = read_image(path, SETTINGS)
    info = source.info
    assert (info.width_px, info.height_px, info.duration_s, info.fps) == (64, 48, None, None)
    assert (info.codec, info.rotation_deg, info.pixel_aspect) == (SUFFIXES[form], 0, 1.0)
    assert (source.frame.slot, source.frame.model_jpeg) == (0, None)
    assert number_of(view_of(path)) == number_of(decode_picture(path.read_bytes())) == 1234


def test_a_video_is_not_an_image(tmp_path: Path) -> None:
    for name in ("video.avi", "video.mp4"):  # AVI and WebP begin alike
        assert not is_image(write_video(tmp_path / name, steady(1)))
    assert not is_image(write(tmp_path / "empty.png", b""))


@pytest.mark.parametrize("form", SUFFIXES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_shown_upright(orientation: int, form: str, tmp_path: Path) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    lying = picture().transpose(undo[orientation]) if orientation > 1 else picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path / "image", packed(lying, form, exif=exif))
    info = read_image(path, SETTINGS).info
    assert (info.width_px, info.height_px) == (64, 48)
    assert number_of(view_of(path)) == 1234


@pytest.mark.parametrize(("size", "view"), [((1280, 720), (960, 540)), ((500, 2000), (240, 960)), ((10, 5), (10, 5))])
def test_the_view_keeps_the_aspect_and_is_never_enlarged(
    size: tuple[int, int], view: tuple[int, int], tmp_path: Path
) -> None:
    path = write(tmp_path / "image", packed(picture(5, *size), "PNG"))
    assert view_of(path).shape[1::-1] == view
    assert read_image(path, IngestSettings(view_long_side_px=0)).frame.view_jpeg is None


def test_transparent_areas_become_white() -> None:
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4, :, 3] = 255  # opaque black above, nothing below
    greys = Image.fromarray(clear).convert("LA")
    palette = Image.new("P", (8, 8))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.paste(1, (0, 4, 8, 8))
    for data in (
        packed(Image.fromarray(clear), "PNG"),
        packed(Image.fromarray(clear), "WEBP", lossless=True),
        packed(greys, "PNG"),
        packed(palette, "PNG", transparency=1),
    ):
        shown = decode_picture(data)
        assert (shown[:4] == 0).all()
        assert (shown[4:] == 255).all()


def test_grey_cmyk_and_sixteen_bits_keep_their_brightness() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)
    expected = (ramp >> 8)[..., None].repeat(3, axis=2)
    assert np.array_equal(decode_picture(packed(Image.fromarray(ramp), "PNG")), expected)
    grey = Image.fromarray((ramp >> 8).astype(np.uint8))
    assert np.array_equal(decode_picture(packed(grey, "PNG")), expected)
    cmyk = decode_picture(packed(grey.convert("RGB").convert("CMYK"), "JPEG", quality=95)).astype(int)
    assert abs(cmyk - expected).max() < 8
    one_bit = decode_picture(packed(grey.point(lambda level: 255 * (level > 127)).convert("1"), "PNG"))
    assert set(np.unique(one_bit)) == {0, 255}


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_an_animation_is_refused(form: str, tmp_path: Path) -> None:
    frames = [picture(number) for number in range(3)]
    path = write(tmp_path / "image", packed(frames[0], form, save_all=True, append_images=frames[1:]))
    with pytest.raises(UnsupportedSource, match="animated: convert it to a video"):
        read_image(path, SETTINGS)


def test_only_the_first_picture_of_a_photo_is_used(tmp_path: Path) -> None:
    file = BytesIO()
    picture(77).save(file, "MPO", save_all=True, append_images=[picture(78)])
    path = write(tmp_path / "image", file.getvalue())
    assert read_image(path, SETTINGS).info.codec == "jpeg"
    assert number_of(view_of(path)) == 77


@pytest.mark.parametrize("form", SUFFIXES)
def test_a_large_image_is_refused_before_it_is_decoded(form: str, tmp_path: Path) -> None:
    with pytest.raises(SourceTooLarge, match=r"64x48 .*ingest\.max_frame_pixels"):
        read_image(write(tmp_path / "image", packed(picture(), form)), IngestSettings(max_frame_pixels=3000))
    path = write(tmp_path / "large", packed(Image.new("L", (16_000, 12_000)), form))  # beyond Pillow's own limit
    code = (
        "import sys, warnings; from pathlib import Path; from configs.settings import IngestSettings\n"
        "from ingest.errors import SourceTooLarge\n"
        "from ingest.files.images import read_image\n"
        "try: read_image(Path(sys.argv[1]), IngestSettings())\n"
        "except SourceTooLarge: print('refused')\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    refused, peak_kb = done.stdout.split()
    assert refused == "refused"
    assert int(peak_kb) < 150_000


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about EXIF data that it skips
@pytest.mark.parametrize("form", SUFFIXES)
def test_a_cut_or_damaged_image_is_read_or_refused_without_other_errors(form: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = packed(picture(99, 320, 240), form, exif=exif)
    for share in (0.1, 0.5, 0.9):
        cut = write(tmp_path / "cut", whole[: int(len(whole) * share)])
        with pytest.raises(UnsupportedSource, match="cut off or damaged"):
            read_image(cut, SETTINGS)
        with pytest.raises(DamagedFile):
            decode_picture(cut.read_bytes())
    chance = random.Random(form)
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            content[chance.randrange(min(len(content), 600))] = chance.randrange(256)
        path = write(tmp_path / "damaged", bytes(content))
        try:
            read_image(path, SETTINGS)
        except (UnsupportedSource, SourceTooLarge):
            continue
