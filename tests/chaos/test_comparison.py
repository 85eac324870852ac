"""The comparisons of the run notice every difference."""

import numpy as np
import pytest

from storage.documents import Answer, Question, Timings, Tokens
from tests.chaos.reference import Segment, compare_answers, compare_segments

TOKENS = np.linspace(-2, 2, 64, dtype=np.float16).reshape(4, 1, 16)
WHOLE = {0: Segment({("model", 0): "a", ("view", 0): "b"}, TOKENS)}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({}, "segments []"),
        ({**WHOLE, 1: WHOLE[0]}, "segments [0, 1]"),
        ({0: Segment({("model", 0): "a"}, TOKENS)}, "pictures of segment 0"),
        ({0: Segment({("model", 0): "a", ("view", 0): "c"}, TOKENS)}, "pictures of segment 0"),
        ({0: Segment(WHOLE[0].pictures, None)}, "no record"),
        ({0: Segment(WHOLE[0].pictures, TOKENS + np.float16(0.02))}, "tokens of segment 0"),
        ({0: Segment(WHOLE[0].pictures, TOKENS[::-1])}, "tokens of segment 0"),
    ],
)
def test_a_different_segment_is_reported(found: dict[int, Segment], told: str) -> None:
    assert compare_segments(WHOLE, WHOLE) == ""
    assert told in compare_segments(WHOLE, found)


def answered(**changes: object) -> Question:
    answer = Answer(
        text="yes",
        finish_reason="stop",
        start_s=0.5,
        end_s=9.5,
        frames=10,
        fusion="exact",
        fusion_frames=10,
        encoded_until_s=10,
        video_complete=True,
        tokens=Tokens(text=5, vision=10, answer=1),
        timings=Timings(queue_s=1, fusion_s=1, prefill_s=1, first_token_s=1, total_s=1),
    )
    question = Question(id="q", video_id="v", text="?", fusion="exact", status="done", answer=answer)
    return question.model_copy(update={"answer": answer.model_copy(update=changes)})


@pytest.mark.parametrize("change", [{"text": "no"}, {"frames": 9}, {"fusion_frames": 3}, {"finish_reason": "length"}])
def test_a_different_answer_is_reported(change: dict[str, object]) -> None:
    assert compare_answers(answered(), answered()) == ""
    assert next(iter(change)) in compare_answers(answered(), answered(**change))


def test_a_failure_is_reported() -> None:
    failed = answered().model_copy(update={"answer": None, "status": "failed"})
    assert "failed" in compare_answers(answered(), failed)
