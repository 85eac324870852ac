"""The probability of an answer's first token, and the forms of yes and no in a vocabulary."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from llava_mini.errors import CheckpointError
from llava_mini.probability import Gauge, find_forms
from llava_mini.prompt import PromptBuilder
from tests.llava_mini.layouts import write_vicuna_tokenizer
from tests.tiny import TINY

CHANCES = torch.tensor([0.1, 0.2, 0.1, 0.2, 0.4])  # "yes", " Yes", "no", "No", "red"
LOGITS = torch.log(CHANCES) + 3.0  # a constant changes nothing
GAUGE = Gauge(yes=frozenset({0, 1}), no=frozenset({2, 3}))


@pytest.mark.parametrize(("token", "expected"), [(0, 0.5), (1, 0.5), (2, 0.5), (4, 0.4)])
def test_a_form_of_yes_is_measured_against_no_and_other_words_against_all(token: int, expected: float) -> None:
    assert GAUGE.measure_probability(LOGITS, token) == pytest.approx(expected)


def test_both_sides_add_up_to_one_whatever_else_is_likely() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, -3.0, 9.0])
    yes, no = GAUGE.measure_probability(logits, 0), GAUGE.measure_probability(logits, 3)
    assert yes + no == pytest.approx(1)
    sides = logits.exp()
    assert yes == pytest.approx(float((sides[0] + sides[1]) / sides[:4].sum()))


def test_a_token_that_was_drawn_has_its_own_probability_and_not_the_likeliest_ones() -> None:
    plain = Gauge()
    assert [plain.measure_probability(LOGITS, token) for token in range(5)] == pytest.approx(CHANCES.tolist())


def test_without_forms_of_the_other_side_yes_is_a_word_like_any_other() -> None:
    assert Gauge(yes=frozenset({0})).measure_probability(LOGITS, 0) == pytest.approx(0.1)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_calibration_scales_the_logits(temperature: float) -> None:
    gauge = Gauge(frozenset({0}), frozenset({2}), temperature)
    logits = torch.tensor([3.0, 1.0, 1.0, 0.0, 2.0])
    assert gauge.measure_probability(logits, 0) == pytest.approx(float(torch.tensor(2 / temperature).sigmoid()))
    assert gauge.measure_probability(logits, 4) == pytest.approx(float((logits / temperature).softmax(0)[4]))


def test_far_apart_logits_give_zero_and_one() -> None:
    logits = torch.tensor([1e4, -1e4, -torch.inf, -torch.inf, 0.0])
    assert GAUGE.measure_probability(logits, 0) == 1.0
    assert GAUGE.measure_probability(logits, 4) == 0.0


def test_the_forms_of_a_word_are_single_tokens_in_any_case_with_or_without_a_blank() -> None:
    tokens = ("yes", "Yes", "YES", "ĠYes", "Ġyes", "▁Yes", "yesterday", "eyes", "▁yes▁", "no")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    assert find_forms(vocabulary, "yes") == {0, 1, 2, 3, 4, 5, 8}
    assert find_forms(vocabulary, "no") == {9}


def test_a_checkpoint_knows_its_forms_and_its_temperature(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path / "tiny"))
    path = folder / "generation_config.json"
    values = json.loads(path.read_text())
    values.pop("probability_temperature", None)
    for added, expected in (({}, 1.0), ({"probability_temperature": 1.5}, 1.5)):
        path.write_text(json.dumps(values | added))
        prompts = PromptBuilder.from_pretrained(folder)
        assert prompts.gauge == Gauge(frozenset({89}), frozenset({46}), expected)
        assert prompts.end_ids == {2}
    for bad in (0, -1, "hot", True, float("inf"), float("nan")):
        path.write_text(json.dumps(values | {"probability_temperature": bad}))
        with pytest.raises(CheckpointError, match="probability_temperature"):
            PromptBuilder.from_pretrained(folder)


def test_a_tokenizer_without_these_words_has_no_forms(tmp_path: Path) -> None:
    write_vicuna_tokenizer(tmp_path)  # only letters and bytes
    prompts = PromptBuilder.from_pretrained(tmp_path, chat_template="{{ messages[0].content }}<image>")
    assert prompts.gauge == Gauge()
