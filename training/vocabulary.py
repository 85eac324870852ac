"""The small model's tokenizer: one token per word of the world, and a chat template."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from training.questions import words

# Id 0 is only for padding, because the architecture hides it in pre-fusion (golden/SEMANTICS.md, item 1).
PAD, BEGIN, END, UNKNOWN, USER, ASSISTANT = SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<user>", "<assistant>")
PAD_ID = SPECIAL.index(PAD)
SYSTEM_PROMPT = "answer the question about the video ."
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}<s>{{ message.content }}"
    "{% elif message.role == 'user' %}<user>{{ message.content }}"
    "{% else %}<assistant>{{ message.content }}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Vocabulary:
    """Turns words into ids for training. The saved tokenizer does the same."""

    def __init__(self) -> None:
        every = [*SPECIAL, *sorted(set(words()) | set(SYSTEM_PROMPT.split()) | {"!", "'", "s"})]
        self.ids = {word: number for number, word in enumerate(every)}

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, text: str) -> list[int]:
        """The ids of a text whose words are separated by spaces."""
        return [self.ids.get(word, self.ids[UNKNOWN]) for word in text.split()]

    @property
    def before(self) -> list[int]:
        """The ids before the frames' tokens in every prompt."""
        return self.encode(f"{BEGIN} {SYSTEM_PROMPT} {USER}")

    def question(self, text: str) -> list[int]:
        """The ids after the frames' tokens."""
        return self.encode(f"{text} {ASSISTANT}")

    def answer(self, text: str) -> list[int]:
        """The ids that the model is to say."""
        return self.encode(f"{text} {END}")

    def save(self, folder: Path) -> None:
        """Writes the vocabulary as a tokenizer that `AutoTokenizer` loads, with its chat template."""
        tokenizer = Tokenizer(WordLevel(self.ids, unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        wrap: Any = PreTrainedTokenizerFast
        fast = wrap(
            tokenizer_object=tokenizer,
            pad_token=PAD,
            bos_token=BEGIN,
            eos_token=END,
            unk_token=UNKNOWN,
            additional_special_tokens=[USER, ASSISTANT],
            clean_up_tokenization_spaces=False,
        )
        fast.chat_template = CHAT_TEMPLATE
        fast.save_pretrained(folder)
