"""Turns conversations into token ids with the checkpoint's chat template, and ids back into text piece by piece."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast

from llava_mini.config import read_json
from llava_mini.errors import CheckpointError
from llava_mini.probability import Gauge, find_forms

IMAGE_TOKEN_ID = -200  # marks the place of the frames' tokens (golden/README.md)
IMAGE_MARK = "<image>"
TEMPERATURE = "probability_temperature"  # our key in generation_config.json (docs/design.md, probability)
BROKEN_STREAM = "Invalid prefix"  # start of DecodeStream's error if later bytes change text it has already given
# Llama 3's templates write a date into the system text. 3.1 writes this one; later versions write today's unless they
# are given one. Fusions of the system text are kept, so the text must not change from day to day.
DATE = "26 Jul 2024"
# The public implementation's system text for Llama 3.1 (golden/SEMANTICS.md, item 11).
SYSTEM_TEXT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)

Turn = tuple[str, str | None]  # question, and its answer if it has one


@dataclass(frozen=True)
class PromptIds:
    """Token ids before and after the place of the frames' tokens."""

    before: list[int]  # the system text: the same for every question
    after: list[int]

    @property
    def text(self) -> list[int]:
        """The whole text, as it is fused with each frame."""
        return self.before + self.after

    @property
    def ids(self) -> list[int]:
        """The ids with the placeholder, as `LlavaMini.trace` takes them."""
        return [*self.before, IMAGE_TOKEN_ID, *self.after]


class PromptBuilder:
    """The checkpoint's tokenizer and chat template.

    With `generation_prompt`, the answer's header is part of the prompt and is fused with it, as in the public training.
    The public inference leaves the header out, and the model writes it. `end_ids` are the tokens that end an answer,
    and `gauge` measures its probability.
    """

    def __init__(
        self, tokenizer: Any, end_ids: frozenset[int], system: str, generation_prompt: bool, temperature: float = 1.0
    ) -> None:
        self._tokenizer = tokenizer
        self._system = system
        self._generation_prompt = generation_prompt
        marks = sorted({IMAGE_MARK, *tokenizer.get_added_vocab()}, key=len, reverse=True)
        self._marks = re.compile("|".join(re.escape(mark) for mark in marks))
        self.end_ids = end_ids
        vocabulary = tokenizer.get_vocab()
        self.gauge = Gauge(find_forms(vocabulary, "yes"), find_forms(vocabulary, "no"), temperature)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        system: str = SYSTEM_TEXT,
        generation_prompt: bool = True,
        chat_template: str = "",
    ) -> "PromptBuilder":
        """Loads tokenizer.json from a checkpoint's folder; `chat_template` (Jinja text) replaces its own, if given.

        AutoTokenizer cannot load it: config.json names an architecture that it does not know. Raises CheckpointError.
        """
        try:
            tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(str(folder))
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"no usable tokenizer.json in {folder}: {error}") from error
        tokenizer.chat_template = chat_template or tokenizer.chat_template
        if not tokenizer.chat_template:
            raise CheckpointError(
                f"the tokenizer in {folder} has no chat template; set model.chat_template to the Jinja text of one"
            )
        values = _read_generation(Path(folder))
        return cls(tokenizer, _end_ids(values, tokenizer), system, generation_prompt, _read_temperature(values, folder))

    def build(self, turns: Sequence[Turn], system: str | None = None) -> PromptIds:
        """The prompt of a conversation whose last turn has no answer yet.

        The frames stand before the first question, so `before` depends on the system text alone. Text that looks like
        a special token is removed from questions and answers. Raises CheckpointError if the template fails.
        """
        messages = [{"role": "system", "content": self._system if system is None else system}]
        for number, (question, answer) in enumerate(turns):
            mark = f"{IMAGE_MARK}\n" if number == 0 else ""
            messages.append({"role": "user", "content": mark + self._strip_marks(question)})
            if answer is not None:
                messages.append({"role": "assistant", "content": self._strip_marks(answer)})
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=self._generation_prompt, date_string=DATE
            )
        except TemplateError as error:
            raise CheckpointError(f"the chat template fails: {error}") from error
        before, mark, after = text.partition(IMAGE_MARK)
        if not mark:
            raise CheckpointError("the chat template drops the picture mark")
        return PromptIds(self._encode(before), self._encode(after))

    def start_stream(self) -> "TextStream":
        """A fresh decoder for one answer."""
        return TextStream(self._tokenizer.backend_tokenizer)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a whole answer, without special tokens."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    def _strip_marks(self, text: str) -> str:
        return self._marks.sub(" ", text)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids


class TextStream:
    """Decodes an answer as its tokens arrive; holds back bytes that do not form a whole character yet."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._held: list[int] = []  # tokens whose text has not been given yet

    def push(self, token_id: int) -> str:
        """Returns the text that this token completes; empty if there is none."""
        self._held.append(token_id)
        piece = self._step(token_id)
        if piece:
            self._held.clear()
        return piece

    def finish(self) -> str:
        """Returns the text still held back; no token will complete it."""
        rest: str = self._tokenizer.decode(self._held, skip_special_tokens=True)
        self._held.clear()
        return rest

    def _step(self, token_id: int) -> str:
        try:
            return self._stream.step(self._tokenizer, token_id) or ""
        except Exception as error:  # tokenizers raises no narrower class
            if not str(error).startswith(BROKEN_STREAM):
                raise
        # Invalid UTF-8 changed the text before it. Start over with the tokens whose text was not given yet.
        self._stream = DecodeStream(skip_special_tokens=True)
        return self._stream.step(self._tokenizer, list(self._held)) or ""


def _read_generation(folder: Path) -> dict[str, Any]:
    """Reads generation_config.json. Without that file transformers takes config.json, and so it is here."""
    files = (folder / "generation_config.json", folder / "config.json")
    path = next((file for file in files if file.exists()), None)
    return read_json(path) if path else {}


def _end_ids(values: dict[str, Any], tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's own, and those the checkpoint names (Llama 3.1 has several)."""
    named = values.get("eos_token_id")
    ids = [named] if isinstance(named, int) else list(named or ())
    return frozenset([*ids, tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else ids)


def _read_temperature(values: dict[str, Any], folder: str | Path) -> float:
    """The temperature that calibrates this checkpoint's probabilities; 1 if it names none."""
    named = values.get(TEMPERATURE, 1.0)
    if isinstance(named, bool) or not isinstance(named, int | float) or not 0 < named < math.inf:
        raise CheckpointError(f"{TEMPERATURE} in {folder} must be a positive number, not {named!r}")
    return float(named)
