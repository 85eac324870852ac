"""Turns questions into token ids by the checkpoint's own chat template, and ids back into text piece by piece."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer

from llava_mini.errors import CheckpointError

IMAGE_TOKEN_ID = -200  # stands where the frames' tokens go (golden/README.md)
IMAGE_MARK = "<image>"
UNFINISHED = "�"  # how a tokenizer shows bytes that are no whole character yet

Turn = tuple[str, str | None]  # question, and its answer if it has one


@dataclass(frozen=True)
class PromptIds:
    """Token ids before and after the place of the frames' tokens."""

    before: list[int]  # the system prompt: the same for every question
    after: list[int]

    @property
    def text(self) -> list[int]:
        """All of the text, as it is fused with each frame."""
        return self.before + self.after

    @property
    def ids(self) -> list[int]:
        """With the placeholder, as `LlavaMini.trace` takes it."""
        return [*self.before, IMAGE_TOKEN_ID, *self.after]


class Prompter:
    """The checkpoint's tokenizer and chat template.

    With `generation_prompt` the answer's header is part of the prompt; without, the model writes it itself, as the
    public implementation has it (golden/SEMANTICS.md, item 11; the released tokenizer was not at hand to verify).
    """

    def __init__(self, folder: Path, system: str, generation_prompt: bool = True) -> None:
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"no usable tokenizer in {folder}: {error}") from error
        if not self._tokenizer.chat_template:
            raise CheckpointError(f"the tokenizer in {folder} has no chat template")
        self._system = system
        self._generation_prompt = generation_prompt
        self.end_ids = _end_ids(folder, self._tokenizer)

    def build(self, turns: Sequence[Turn]) -> PromptIds:
        """The prompt of a conversation whose last turn has no answer yet; the frames stand before the first question."""
        messages = [{"role": "system", "content": self._system}]
        for number, (question, answer) in enumerate(turns):
            content = question.replace(IMAGE_MARK, "")
            messages.append({"role": "user", "content": f"{IMAGE_MARK}\n{content}" if number == 0 else content})
            if answer is not None:
                messages.append({"role": "assistant", "content": answer})
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=self._generation_prompt
            )
        except TemplateError as error:
            raise CheckpointError(f"the chat template fails: {error}") from error
        before, mark, after = text.partition(IMAGE_MARK)
        if not mark:
            raise CheckpointError("the chat template loses the picture mark")
        return PromptIds(self._ids(before), self._ids(after))

    def stream(self) -> "TextStream":
        """A fresh decoder for one answer."""
        return TextStream(self._tokenizer)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids


class TextStream:
    """Decodes an answer as its tokens come; holds back bytes that are no whole character yet."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self.text = ""

    def push(self, token_id: int) -> str:
        """The text that this token completes, perhaps none."""
        self._ids.append(token_id)
        text: str = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        if text.endswith(UNFINISHED):
            return ""
        piece, self.text = text[len(self.text) :], text
        return piece


def _end_ids(folder: Path, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's own, and those of generation_config.json (Llama 3.1 has several)."""
    from llava_mini.config import read_json

    path = folder / "generation_config.json"
    named = read_json(path).get("eos_token_id") if path.exists() else None
    ids = [named] if isinstance(named, int) else list(named or ())
    return frozenset([*ids, tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else ids)
