"""The whole model or one half of it: encodes frames, fuses texts with them, and traces every intermediate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from llava_mini.checkpoint import Checkpoint
from llava_mini.context_limit import require_fit
from llava_mini.errors import InputError, PartMissing
from llava_mini.finite import require_finite
from llava_mini.language_half import LanguageHalf, gather
from llava_mini.placement import Attention, resolve_attention, resolve_device, resolve_dtype
from llava_mini.preprocess import Pictures, Preprocessor
from llava_mini.prompt import IMAGE_TOKEN_ID
from llava_mini.quantize import Weights, quantize
from llava_mini.vision_half import Stages, VisionHalf
from llava_mini.weights import load_embeddings, load_language, load_vision

Part = Literal["vision", "language"]


@dataclass(frozen=True)
class Encoded:
    """The vision half's output for F frames: float32, on the CPU."""

    tokens: Tensor  # (F,C,D)
    fused: list[Tensor]  # one (F,L_i,D) per text, without the placeholder


class LlavaMini:
    """LLaVA-Mini in two halves. Either half may be absent.

    fingerprint   identity of the checkpoint, the same for each half
    config        its shapes
    language      the LLM (raises PartMissing if it was not loaded)
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        vision: VisionHalf | None,
        language: LanguageHalf | None,
        embeddings: Tensor,
        device: torch.device,
    ) -> None:
        self.config = checkpoint.config
        self.folder = checkpoint.folder
        self.fingerprint = checkpoint.compute_fingerprint()
        self.device = device
        self._preprocessor = Preprocessor(checkpoint.tower_folder, checkpoint.config)
        self._vision = vision
        self._language = language
        self._embeddings = embeddings

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        *,
        dtype: str | torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        attention: Attention = "auto",
        parts: Sequence[Part] = ("vision", "language"),
        language_weights: Weights = "full",
    ) -> Self:
        """Loads the chosen parts. Of the other half, only the text embeddings are read.

        `device` "auto" takes CUDA if there is a GPU. Raises CheckpointError, DeviceError.
        """
        kind, place = resolve_dtype(dtype), resolve_device(device)
        chosen = resolve_attention(attention, place, kind)
        checkpoint = Checkpoint(folder_or_hub_id)
        embeddings = load_embeddings(checkpoint, kind)
        vision = load_vision(checkpoint, kind, chosen).to(place) if "vision" in parts else None
        language = None
        if "language" in parts:
            llm = load_language(checkpoint, kind, chosen, embeddings)
            language = LanguageHalf(quantize(llm, language_weights, place))
        return cls(checkpoint, vision, language, embeddings, place)

    @property
    def vision(self) -> VisionHalf:
        """The vision half; raises PartMissing."""
        if self._vision is None:
            raise PartMissing('the vision half was not loaded: parts=("vision",)')
        return self._vision

    @property
    def language(self) -> LanguageHalf:
        """The language half; raises PartMissing."""
        if self._language is None:
            raise PartMissing('the language half was not loaded: parts=("language",)')
        return self._language

    def require_fit(self, frames: int, text_tokens: int, new_tokens: int = 0) -> None:
        """Raises PromptTooLong, which holds the number of frames that would fit beside that text and answer."""
        require_fit(
            frames,
            limit=self.config.context,
            tokens_per_frame=self.config.tokens_per_frame,
            text_tokens=text_tokens,
            new_tokens=new_tokens,
        )

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        """Plain embeddings (L,D) on the CPU; raises InputError."""
        return gather(self._embeddings, token_ids)

    def preprocess(self, frames: Pictures) -> Tensor:
        """A video's frames (F,h,w,3) uint8 RGB -> (F,3,S,S) float32, or (F,pictures,3,S,S) at high resolution.

        Frames of 336 px are taken as they are. Others are squeezed to `config.frame_side_px`.
        """
        values = self._preprocessor.prepare_frames(frames)
        return values[:, 0] if self.config.pictures == 1 else values

    def preprocess_image(self, picture: Pictures) -> Tensor:
        """A single image (h,w,3) uint8 RGB of any size -> (1,pictures,3,S,S) float32, as `encode` takes it.

        Keeps the aspect ratio: crops the centre or pads to a square, as the checkpoint says. Raises InputError.
        """
        return self._preprocessor.prepare_image(picture)[None]

    @torch.no_grad()
    def encode(
        self, pixel_values: Tensor, texts: Sequence[Sequence[int]] = (), batch_frames: int | None = None
    ) -> Encoded:
        """Frames (F,3,S,S) or (F,pictures,3,S,S) -> tokens (F,C,D) and every text fused with every frame.

        All texts share one pass over a frame's patches. Raises InputError, and NonFinite naming the frames at fault.
        """
        batches = [(tokens, fused) for tokens, fused in self._encode_batches(pixel_values, texts, batch_frames)]
        tokens = torch.cat([tokens for tokens, _ in batches])
        return Encoded(tokens, [torch.cat([fused[i] for _, fused in batches]) for i in range(len(texts))])

    @torch.no_grad()
    def trace(self, pixel_values: Tensor, input_ids: Tensor, max_new_tokens: int) -> dict[str, Tensor]:
        """Every intermediate of a greedy answer, under the names of golden/README.md. End tokens do not stop it.

        pixel_values (pictures,3,S,S) for an image or (T,pictures,3,S,S) for a video; input_ids (L,) or (1,L) with one
        placeholder. Needs both halves. Raises InputError, PartMissing, PromptTooLong.
        """
        frames = self._check_frames(pixel_values if pixel_values.dim() == 5 else pixel_values[None])
        ids = input_ids.flatten().tolist()
        if ids.count(IMAGE_TOKEN_ID) != 1 or max_new_tokens < 1:
            raise InputError(f"trace needs the placeholder {IMAGE_TOKEN_ID} exactly once, and at least one new token")
        self.require_fit(len(frames), len(ids) - 1, max_new_tokens)
        place = ids.index(IMAGE_TOKEN_ID)
        stages = self._run_stages(frames, [self._embed_visible(ids)])
        fused = self._add_hidden_rows(stages.fused[0].float().cpu(), ids)
        pooled = pool(fused)
        tokens = stages.tokens.float().cpu()
        embeds = torch.cat([pooled[:place], tokens.flatten(0, 1), pooled[place + 1 :]])  # (T*C + L - 1, D)
        steps, generated = self._decode_greedily(embeds, max_new_tokens)
        return {
            "pixel_values": pixel_values,
            "input_ids": input_ids.view(1, -1),
            "clip_features": stages.features.float().cpu(),
            "compressor_out": stages.compressed.float().cpu(),
            "compressor_attn": stages.attention.float().cpu(),
            "compressed_prefusion_in": stages.projected_tokens.float().cpu(),
            "global_prefusion_in": stages.projected_patches.float().cpu(),
            "compressed_tokens": tokens,
            "fused_text": fused,
            "pooled_text": pooled,
            "inputs_embeds": embeds,
            "logits_last": steps[0],
            "logits_steps": torch.stack(steps),
            "generated_ids": torch.tensor(generated),
        }

    def _encode_batches(
        self, pixel_values: Tensor, texts: Sequence[Sequence[int]], batch_frames: int | None
    ) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Yields tokens (B,C,D) and fused texts (B,L_i,D) for each batch of frames: float32, on the CPU."""
        frames = self._check_frames(pixel_values if pixel_values.dim() == 5 else pixel_values[:, None])
        kept = [[i for i in text if i != IMAGE_TOKEN_ID] for text in texts]
        visible = [self._embed_visible(text) for text in kept]
        size = batch_frames or len(frames)
        for first in range(0, len(frames), size):
            stages = self._run_stages(frames[first : first + size], visible)
            require_finite([stages.tokens, *stages.fused], first)
            fused = [rows.float().cpu() for rows in stages.fused]
            whole = [self._add_hidden_rows(rows, text) for rows, text in zip(fused, kept, strict=True)]
            yield stages.tokens.float().cpu(), whole

    def _check_frames(self, pixel_values: Tensor) -> Tensor:
        """Returns the frames; raises InputError unless they are (F,pictures,3,S,S)."""
        c = self.config
        expected = (c.pictures, 3, c.side_px, c.side_px)
        if not len(pixel_values) or tuple(pixel_values.shape[1:]) != expected:
            raise InputError(f"pixel_values must have shape (frames, {expected}), not {tuple(pixel_values.shape)}")
        return pixel_values

    def _run_stages(self, frames: Tensor, texts: Sequence[Tensor]) -> Stages:
        dtype = self.vision.compressor.query.dtype
        stages: Stages = self.vision(frames.to(self.device, dtype), texts)
        return stages

    def _embed_visible(self, ids: Sequence[int]) -> Tensor:
        """Leaves out ids <= 0: pre-fusion hides their rows and does not count them in positions."""
        return self.embed([i for i in ids if i > 0]).to(self.device)

    def _add_hidden_rows(self, rows: Tensor, ids: Sequence[int]) -> Tensor:
        """Inserts the raw embedding of each token 0 that pre-fusion left out (golden/SEMANTICS.md, item 1)."""
        if all(i > 0 for i in ids):
            return rows
        full = self.embed([max(i, 0) for i in ids]).float().repeat(len(rows), 1, 1)  # the placeholder's row too
        full[:, [place for place, i in enumerate(ids) if i > 0]] = rows
        return full

    def _decode_greedily(self, embeds: Tensor, max_new_tokens: int) -> tuple[list[Tensor], list[int]]:
        cache = self.language.make_cache()
        steps = [self.language.advance(cache, embeds)]
        generated = [int(steps[0].argmax())]
        while len(generated) < max_new_tokens:
            steps.append(self.language.step(cache, generated[-1]))
            generated.append(int(steps[-1].argmax()))
        return [step.cpu() for step in steps], generated


def pool(fused: Tensor) -> Tensor:
    """(F,L,D) -> (L,D): summed in float32 in the frames' order, then divided (golden/SEMANTICS.md, item 6)."""
    total = torch.zeros(fused.shape[1:], dtype=torch.float32)
    for frame in fused:
        total += frame.float()
    return total / len(fused)
