"""The whole model, or one half of it: loading, encoding frames, and a trace of every intermediate."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from llava_mini.checkpoint import Checkpoint, fill
from llava_mini.errors import DeviceError, PartMissing
from llava_mini.language_half import LanguageHalf
from llava_mini.preprocess import Pictures, Preprocessor
from llava_mini.prompt import IMAGE_TOKEN_ID
from llava_mini.quantize import Weights, quantized
from llava_mini.vision_half import Stages, VisionHalf

Part = Literal["vision", "language"]
Attention = Literal["auto", "flash_attention_2", "sdpa", "eager"]
EMBEDDINGS = "model.embed_tokens.weight"
TOWER = "vision_model."


@dataclass(frozen=True)
class Encoded:
    """What the vision half makes of F frames."""

    tokens: Tensor  # (F,C,D)
    fused: list[Tensor]  # one (F,L_i,D) per text, the placeholder left out


class LlavaMini:
    """LLaVA-Mini in two halves, either of which may be absent.

    fingerprint   identity of the checkpoint, the same for each half
    config        its shapes
    language      the LLM (raises PartMissing where it was not loaded)
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
        self.fingerprint = checkpoint.fingerprint()
        self.preprocessor = Preprocessor(checkpoint.tower_folder, checkpoint.config.resolution_ratio)
        self.device = device
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
    ) -> "LlavaMini":
        """Loads the chosen parts; the other half's tensors are not read.

        `device` "auto" takes CUDA where there is one. Raises CheckpointError, DeviceError.
        """
        kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        place = _device(device)
        checkpoint = Checkpoint(folder_or_hub_id)
        chosen = resolve_attention(attention, place)
        embeddings = checkpoint.tensors(lambda name: name == EMBEDDINGS, kind)[EMBEDDINGS]
        vision = _vision_half(checkpoint, kind, chosen).to(place).eval() if "vision" in parts else None
        language = None
        if "language" in parts:
            llm = _llm(checkpoint, kind, embeddings, chosen)
            language = LanguageHalf(quantized(llm, language_weights, place).eval())
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

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        """Plain embeddings (L,D) on the model's device, gathered where the table lies."""
        return self._embeddings[torch.tensor(token_ids, dtype=torch.long)].to(self.device)

    def preprocess(self, frames: Pictures) -> Tensor:
        """A video's frames (F,h,w,3) uint8 -> (F,pictures,3,S,S) float32."""
        return self.preprocessor.video(frames)

    @torch.inference_mode()
    def encode(
        self, pixel_values: Tensor, texts: Sequence[Sequence[int]] = (), batch_frames: int | None = None
    ) -> Encoded:
        """Frames (F,3,S,S) or (F,pictures,3,S,S) -> tokens (F,C,D) and every text fused with every frame.

        All texts share one pass over a frame's patches. Results are on the CPU, float32.
        """
        frames = pixel_values if pixel_values.dim() == 5 else pixel_values[:, None]
        embedded = [self._embed_visible(text) for text in texts]
        stages = [self._stages(batch, embedded) for batch in frames.split(batch_frames or max(len(frames), 1))]
        tokens = torch.cat([stage.tokens.float().cpu() for stage in stages])
        fused = [torch.cat([stage.fused[i].float().cpu() for stage in stages]) for i in range(len(texts))]
        return Encoded(tokens, [self._with_hidden_rows(rows, text) for rows, text in zip(fused, texts, strict=True)])

    @torch.inference_mode()
    def trace(self, pixel_values: Tensor, input_ids: Tensor, max_new_tokens: int) -> dict[str, Tensor]:
        """Every intermediate of a greedy answer, under the names of docs/parity.md; end tokens are not heeded.

        pixel_values (pictures,3,S,S) for an image or (T,pictures,3,S,S) for a video; input_ids (L,) or (1,L) with one
        placeholder. Needs both halves.
        """
        frames = pixel_values if pixel_values.dim() == 5 else pixel_values[None]
        ids = input_ids.flatten().tolist()
        place = ids.index(IMAGE_TOKEN_ID)
        stages = self._stages(frames, [self._embed_visible(ids)])
        fused = self._with_hidden_rows(stages.fused[0].float().cpu(), ids, keep_placeholder=True)
        pooled = pool(fused)
        tokens = stages.tokens.flatten(0, 1)  # (T,C,D) -> (T*C,D)
        embeds = torch.cat([pooled[:place], tokens.float().cpu(), pooled[place + 1 :]])
        steps, generated = self._greedy(embeds, max_new_tokens)
        return {
            "pixel_values": pixel_values,
            "input_ids": input_ids,
            "clip_features": stages.features,
            "compressor_out": stages.compressed,
            "compressor_attn": stages.attention,
            "compressed_prefusion_in": stages.projected_tokens,
            "global_prefusion_in": stages.projected_patches,
            "compressed_tokens": stages.tokens,
            "fused_text": fused,
            "pooled_text": pooled,
            "inputs_embeds": embeds,
            "logits_last": steps[0],
            "logits_steps": torch.stack(steps),
            "generated_ids": torch.tensor(generated),
        }

    def _stages(self, frames: Tensor, texts: Sequence[Tensor]) -> Stages:
        dtype = self.vision.mm_projector[0].weight.dtype
        stages: Stages = self.vision(frames.to(self.device, dtype), texts)
        return stages

    def _embed_visible(self, ids: Sequence[int]) -> Tensor:
        """Rows with id <= 0 are hidden in pre-fusion and not counted in positions: as if they were not there."""
        return self.embed([i for i in ids if i > 0])

    def _with_hidden_rows(self, rows: Tensor, ids: Sequence[int], keep_placeholder: bool = False) -> Tensor:
        """Puts the raw embedding of token 0 where it was left out of pre-fusion (golden/SEMANTICS.md, item 1)."""
        kept = [i for i in ids if keep_placeholder or i != IMAGE_TOKEN_ID]
        if all(i > 0 for i in kept):
            return rows
        raw = self.embed([max(i, 0) for i in kept]).float().cpu()
        full = raw.repeat(len(rows), 1, 1)
        full[:, [place for place, i in enumerate(kept) if i > 0]] = rows
        return full

    def _greedy(self, embeds: Tensor, max_new_tokens: int) -> tuple[list[Tensor], list[int]]:
        cache = self.language.new_cache()
        steps, generated = [self.language.advance(embeds, cache)], []
        while True:
            generated.append(int(steps[-1].argmax()))
            if len(generated) == max_new_tokens:
                return steps, generated
            steps.append(self.language.step(generated[-1], cache))


def pool(fused: Tensor) -> Tensor:
    """(F,L,D) -> (L,D): summed in float32 in the frames' order, divided by their number (SEMANTICS, item 6)."""
    total = torch.zeros(fused.shape[1:], dtype=torch.float32)
    for frame in fused:
        total += frame.float()
    return total / len(fused)


def resolve_attention(attention: Attention, device: torch.device) -> str:
    """The implementation that `auto` stands for; raises DeviceError where the asked one cannot run."""
    flash = importlib.util.find_spec("flash_attn") is not None and device.type == "cuda"
    if attention == "auto":
        return "flash_attention_2" if flash else "sdpa"
    if attention == "flash_attention_2" and not flash:
        raise DeviceError("flash_attention_2 needs CUDA and the `gpu` extra (flash-attn); use attention: auto")
    return attention


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "model.device is cuda, but torch sees no GPU here; use device: auto, or install torch for CUDA"
        )
    return place


def _vision_half(checkpoint: Checkpoint, dtype: torch.dtype, attention: str) -> VisionHalf:
    own = ("model.compressor.", "model.mm_projector.", "model.prefusion_layers.")
    tensors = {
        name.removeprefix("model.").replace("prefusion_layers.", "prefusion.layers."): value
        for name, value in checkpoint.tensors(lambda name: name.startswith(own), dtype).items()
    }
    checkpoint.config.vision._attn_implementation = attention
    with torch.device("meta"):
        half = VisionHalf(checkpoint.config)
    wanted = {name.removeprefix("tower.").replace("layers.", "encoder.layers.", 1) for name in half.tower.state_dict()}
    for name, value in checkpoint.tower_tensors(lambda name: name.removeprefix(TOWER) in wanted, dtype).items():
        tensors["tower." + name.removeprefix(TOWER).replace("encoder.layers.", "layers.")] = value
    fill(half, tensors, checkpoint.folder)
    half.prefusion.rotary = LlamaRotaryEmbedding(checkpoint.config.text)  # computed, not stored
    half.tower.embeddings.position_ids = torch.arange(checkpoint.config.patches + 1)[None]
    return half


def _llm(checkpoint: Checkpoint, dtype: torch.dtype, embeddings: Tensor, attention: str) -> LlamaForCausalLM:
    own = ("model.layers.", "model.norm.", "lm_head.")
    tensors = checkpoint.tensors(lambda name: name.startswith(own), dtype) | {EMBEDDINGS: embeddings}
    if checkpoint.config.text.tie_word_embeddings:
        tensors["lm_head.weight"] = embeddings
    checkpoint.config.text._attn_implementation = attention
    with torch.device("meta"):
        llm = LlamaForCausalLM(checkpoint.config.text)
    fill(llm, tensors, checkpoint.folder)
    llm.model.rotary_emb = LlamaRotaryEmbedding(checkpoint.config.text)
    return llm
