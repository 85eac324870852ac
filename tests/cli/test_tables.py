"""What lists and details show, at any width."""

import pytest
from rich.console import Console

from cli import show
from cli.tables import grounds_lines, question_lines, video_details, video_header, video_lines
from tests.cli.conftest import QUESTION_ID, VIDEO_ID, a_question, a_video, an_answer, progress


def test_an_id_is_first_and_complete_at_any_width() -> None:
    video = a_video(source="https://example.org/" + "very-long-" * 30 + ".mp4")
    for width in (20, 40, 70, 80, 200, None):
        lines = list(video_lines(video, width))
        assert lines[0].split()[0] == VIDEO_ID
        if width:
            assert all(len(line) <= width for line in lines if VIDEO_ID not in line or width >= 30)


def test_a_video_takes_one_line_in_80_columns_and_two_in_60() -> None:
    wide = list(video_lines(a_video(title="東京 " * 20), 80))
    assert len(wide) == 1
    assert wide[0].endswith("…")
    assert video_header(80).split() == ["id", "status", "length", "encoded", "name"]
    assert len(list(video_lines(a_video(), 60))) == 2
    assert "garden.mp4" in list(video_lines(a_video(), 60))[1]


def test_a_narrow_header_takes_two_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(show, "console", Console(width=60))
    show.videos([a_video()])
    assert capsys.readouterr().out.splitlines()[:2] == ["id", "  status  length  encoded  name"]


def test_a_list_shows_the_progress_or_the_reason() -> None:
    assert "encoding" in next(video_lines(a_video(progress=progress(12)), 80))
    assert "12/600" in next(video_lines(a_video(progress=progress(12)), 80))
    assert "?" in next(video_lines(a_video(progress=None), 80))
    failed = a_video(status="failed", problem={"code": "x", "message": "nobody answers there"})
    assert list(video_lines(failed, 80))[1] == "  nobody answers there"
    lacking = a_video(progress=progress(536, frames_failed=64, complete=True))
    assert f"longwatch retry {VIDEO_ID}" in list(video_lines(lacking, 80))[1]
    assert "the same as abc" in list(video_lines(a_video(duplicate_of="abc"), 80))[1]


def test_details_leave_out_unknown_fields() -> None:
    image = dict(video_details(a_video(media="image", duration_s=None, width_px=None)))
    assert image["kind"] == "image by url"
    assert not {"length", "picture", "sampling", "recorded", "note"} & image.keys()
    video = dict(video_details(a_video(progress=progress(12, eta_s=90.4, encoded_until_s=12))))
    assert video["frames"] == "600 of 600 sampled, 12 encoded, 1:30 left"
    assert video["length"] == "10:00"


def test_a_question_shows_what_it_waits_for() -> None:
    waiting = {"for": "frames", "frames_encoded": 128, "frames_expected": 600}
    lines = list(question_lines(a_question(status="waiting", waiting=waiting, start_s=30.0, end_s=90.0)))
    assert lines == [
        QUESTION_ID,
        "  0:30 to 1:30: where is it ?",
        "  (waiting for frames: 128 of 600 encoded)",
    ]
    for status in ("queued", "running"):  # the words of `cancel` and the API
        assert list(question_lines(a_question(status=status)))[2] == f"  ({status})"
    failed = a_question(status="failed", problem={"code": "x", "message": "900 frames would fit"})
    assert list(question_lines(failed))[2] == "  (failed: 900 frames would fit)"


def test_the_grounds_of_an_answer_say_what_was_missing() -> None:
    answer = an_answer(
        "no",
        frames_missing=536,
        video_complete=False,
        encoded_until_s=64.0,
        finish_reason="length",
        start_at="2026-11-21T13:00:00Z",
        end_at="2026-11-21T13:10:00Z",
    )
    words = "\n".join(grounds_lines(a_question(status="done", answer=answer)))
    for expected in (
        "536 frames not encoded",
        "encoded up to 1:04 so far",
        "ended by length",
        "2026-11-21T13:00:00Z",
        "0:17.5 (score 0.40)",
        f"longwatch frame {VIDEO_ID} 17.5",
        "first token 0.30 s",
        QUESTION_ID,
    ):
        assert expected in words
    assert "cancelled" in next(grounds_lines(a_question(status="cancelled")))
