"""Documents: what goes in comes out, a newer one is refused by name, and a damaged one is named."""

import json
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.documents import VERSION, Answer, Evidence, Question, Timings, Tokens, Video, parse_document
from storage.errors import DamagedFile, NewerDocument
from tests.storage.making import make_question, make_video


def test_documents_survive_json() -> None:
    video = make_video(recorded_at=datetime(2026, 11, 21, tzinfo=UTC), sample_fps=0.1, sha256="ab", title="ü\u202e")
    answer = Answer(
        text="a red circle",
        finish_reason="stop",
        start_s=0.5,
        end_s=9.5,
        frames=10,
        fusion="focused",
        fusion_frames=4,
        evidence=(Evidence(slot=3, t_s=3.5, score=0.25, picture="/v1/x.jpg"),),
        encoded_until_s=10,
        video_complete=True,
        tokens=Tokens(text=3, vision=10, answer=4),
        timings=Timings(queue_s=0.1, fusion_s=0.2, prefill_s=0.3, first_token_s=0.4, total_s=0.5),
    )
    question = make_question(video, answer=answer, status="done", end_s=0.1 + 0.2)
    assert parse_document(Video, video.model_dump_json().encode(), "here") == video
    assert parse_document(Question, question.model_dump_json().encode(), "here") == question


def test_a_newer_document_is_refused_by_name_whatever_it_contains() -> None:
    content = json.dumps({"version": VERSION + 1, "a field": "of the future"}).encode()
    with pytest.raises(NewerDocument, match=rf"there/x\.json was written by a newer Longwatch \(version {VERSION + 1}"):
        parse_document(Video, content, "there/x.json")
    with pytest.raises(NewerDocument, match=r"there/x\.json"):
        parse_document(Question, content, "there/x.json")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"1", b"\xff\xfe", b"[" * 100_000, b'{"version": null}']
)
def test_a_damaged_document_is_named(content: bytes) -> None:
    with pytest.raises(DamagedFile, match=r"there/video\.json is damaged"):
        parse_document(Video, content, "there/video.json")


@given(st.data())
def test_a_document_cut_or_changed_anywhere_raises_no_other_errors(data: st.DataObject) -> None:
    content = bytearray(make_video(sha256="ab").model_dump_json().encode())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[at:]
    else:
        content[at] = data.draw(st.integers(0, 255))
    with suppress(DamagedFile, NewerDocument):
        parse_document(Video, bytes(content), "there/video.json")


def test_an_unknown_field_is_refused() -> None:
    fields = json.loads(make_video().model_dump_json()) | {"sample_pfs": 2}
    with pytest.raises(DamagedFile, match="sample_pfs"):
        parse_document(Video, json.dumps(fields).encode(), "x")


def test_content_is_the_same_only_if_it_is_sampled_the_same_way() -> None:
    video = make_video(sha256="ab")
    assert make_video().content_key is None
    assert video.content_key == make_video(sha256="ab").content_key
    for other in ({"sha256": "cd"}, {"sample_fps": 2.0}, {"mode": "keyframes"}):
        assert video.model_copy(update=other).content_key != video.content_key
