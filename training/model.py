"""The forward pass for training: the modules of `llava_mini`, with many questions per video after one vision prefix.

Attention is written out (softmax of a matrix product). Compiled for a CPU, its backward pass is about 2.5 times as fast
as that of PyTorch's fused attention (docs/training.md). A test compares this pass with `llava_mini`'s.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from llava_mini.config import LlavaMiniConfig
from llava_mini.vision_half import VisionHalf
from training.batches import Batch
from training.vocabulary import PAD_ID

FEATURE_STD = 0.02
ENOUGH_EVIDENCE = 0.5  # share of a question's attention to the frames; asking for more would starve its other needs
Layer = Callable[..., Any]


class TrainingModel(nn.Module):
    """Both halves, with gradients."""

    def __init__(self, config: LlavaMiniConfig, compiled: bool = False) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionHalf(config)
        self.llm = LlamaForCausalLM(config.text)
        ready: Callable[[Layer], Layer] = _compiled if compiled else _uncompiled
        self._clip_layer: Layer = ready(_clip_layer)
        self._llama_layer: Layer = ready(_llama_layer)
        self._watched_layer: Layer = ready(_watched_layer)
        _initialise(self)

    def features(self, pictures: Tensor) -> Tensor:
        """(N,3,S,S) -> (N,P,V)."""
        tower = self.vision.tower
        hidden: Tensor = tower.pre_layrnorm(tower.embeddings(pictures))
        for layer in tower.layers:
            hidden = self._clip_layer(layer, hidden)
        return hidden[:, 1:]

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (V,Q,A,vocabulary) of the answers' tokens, and each question's attention to each frame (V,Q,T).

        The attention is summed as in `LanguageHalf.score`, which chooses the frames of a focused question.
        """
        V, T = batch.frames
        with torch.no_grad():  # the tower was trained in its own stage; here it would only drift
            features = self.features(batch.pictures)
        compressed, _ = self.vision.compressor(features)
        patches, tokens = self.vision.mm_projector(features), self.vision.mm_projector(compressed)
        tokens, before, after = self._fuse(patches, tokens, batch)
        D = tokens.shape[-1]
        tokens = tokens.view(V, T, D)
        before = before.view(V, T, -1, D).mean(1)
        fused = torch.einsum("vqt,vtqld->vqld", batch.weights, after.view(V, T, *batch.questions.shape[1:], D).float())
        plain = self.llm.model.embed_tokens(batch.questions)
        after = torch.where(batch.plain[:, None, None, None], plain, fused.to(plain.dtype))
        return self._answer(before, tokens, after, batch)

    def _fuse(self, patches: Tensor, tokens: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [patches, token, before, all questions] through pre-fusion -> (N,1,D), (N,B,D), (N,Q,L,D)."""
        V, T = batch.frames
        Q, L = batch.questions.shape[1:]
        N, P, D = patches.shape
        embed = self.llm.model.embed_tokens
        before = embed(batch.before).expand(N, -1, -1)
        questions = embed(batch.questions).view(V, 1, Q * L, D).expand(-1, T, -1, -1).reshape(N, Q * L, D)
        hidden = torch.cat([patches, tokens, before, questions], dim=1)
        rope = _rope(batch.fusion_positions, D // self.config.text.num_attention_heads)
        for index, layer in enumerate(self.vision.prefusion.layers):
            first = P if index == len(self.vision.prefusion.layers) - 1 else 0
            hidden = self._llama_layer(layer, hidden, rope, batch.fusion_bias, first)
        B = before.shape[1]
        return hidden[:, :1], hidden[:, 1 : 1 + B], hidden[:, 1 + B :].view(N, Q, L, D)

    def _answer(self, before: Tensor, tokens: Tensor, after: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows [before, tokens, (question, answer) ...] through the LLM -> (V,Q,A,vocabulary), (V,Q,T)."""
        V, Q, L, D = after.shape
        A, B, T = batch.answers.shape[2], before.shape[1], tokens.shape[1]
        said = self.llm.model.embed_tokens(batch.answers[:, :, :-1])
        blocks = torch.cat([after, said], dim=2).view(V, Q * (L + A - 1), D)
        hidden = torch.cat([before, tokens, blocks], dim=1)
        rope = _rope(batch.answer_positions, D // self.config.text.num_attention_heads)
        rope, bias = (rope[0][:, None], rope[1][:, None]), batch.answer_bias[:, None]
        watched = []
        for layer in self.llm.model.layers:
            hidden, weights = self._watched_layer(layer, hidden, rope, bias, B, B + T)
            watched.append(weights)
        attention = torch.stack(watched[1:]).sum(0)[:, B + T :].view(V, Q, L + A - 1, T)[:, :, :L]
        asked = (batch.questions != PAD_ID).float()
        attention = torch.einsum("vqlt,vql->vqt", attention, asked)
        rows = hidden[:, B + T :].view(V, Q, L + A - 1, D)
        wanted = batch.answer_rows[..., None].expand(-1, -1, -1, D)  # the row before each answer token
        logits: Tensor = self.llm.lm_head(self.llm.model.norm(rows.gather(2, wanted)))
        return logits, attention


def answer_loss(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross entropy, with each question weighted by answer length^-0.6; and which answers are fully right (V,Q)."""
    targets = batch.answers.masked_fill(~batch.answer_mask, -100)
    losses = F.cross_entropy(logits.flatten(0, 2).float(), targets.flatten(), reduction="none", ignore_index=-100)
    lengths = batch.answer_mask.sum(2).clamp(min=1)
    per_question = losses.view(targets.shape).sum(2) * lengths.float() ** -0.6
    asked = batch.answer_mask.any(2)
    right = ((logits.argmax(-1) == batch.answers) | ~batch.answer_mask).all(2) & asked
    return per_question.sum() / asked.sum(), right


def evidence_loss(attention: Tensor, batch: Batch) -> Tensor:
    """How far attention to the evidence is below ENOUGH_EVIDENCE, in nats: questions must look at the right frames."""
    shares = (attention * batch.evidence).sum(2) / attention.sum(2)
    shown = batch.evidence.any(2)
    return F.relu(math.log(ENOUGH_EVIDENCE) - shares[shown].clamp(min=1e-6).log()).sum() / shown.numel()


def _compiled(function: Layer) -> Layer:
    """Compiles a layer once per batch shape. Compiling the whole model as one graph would take many minutes."""
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(function, dynamic=False)


def _uncompiled(function: Layer) -> Layer:
    return function


def _clip_layer(layer: Any, hidden: Tensor) -> Tensor:
    attention = layer.self_attn
    normed = layer.layer_norm1(hidden)
    q, k, v = (
        _heads(part(normed), attention.head_dim) for part in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    hidden = hidden + attention.out_proj(_attend(q, k, v, None)[0])
    advanced: Tensor = hidden + layer.mlp(layer.layer_norm2(hidden))
    return advanced


def _llama_layer(layer: Any, hidden: Tensor, rope: tuple[Tensor, Tensor], bias: Tensor, first: int) -> Tensor:
    """The layer's output for the rows from `first` on. Keys and values come from all rows."""
    return _with_weights(layer, hidden, rope, bias, first)[0]


def _watched_layer(
    layer: Any, hidden: Tensor, rope: tuple[Tensor, Tensor], bias: Tensor, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    """The layer's output, and each row's attention to rows `start` to `stop` (V,R,stop-start), the mean over heads."""
    advanced, weights = _with_weights(layer, hidden, rope, bias, 0)
    return advanced, weights[..., start:stop].float().mean(1)


def _with_weights(
    layer: Any, hidden: Tensor, rope: tuple[Tensor, Tensor], bias: Tensor, first: int
) -> tuple[Tensor, Tensor]:
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    q = _rotate(
        _heads(attention.q_proj(normed[:, first:]), attention.head_dim),
        (rope[0][..., first:, :], rope[1][..., first:, :]),
    )
    k = _rotate(_heads(attention.k_proj(normed), attention.head_dim), rope)
    v = _heads(attention.v_proj(normed), attention.head_dim)
    attended, weights = _attend(q, k, v, bias[..., first:, :])
    hidden = hidden[:, first:] + attention.o_proj(attended)
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden)), weights


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Heads (...,R,S) of queries, keys and values -> rows (...,R,D), and the weights (...,heads,R,S)."""
    scores = (q @ k.transpose(-2, -1)).float() / math.sqrt(q.shape[-1])
    weights = (scores if bias is None else scores + bias).softmax(-1).to(v.dtype)
    return (weights @ v).transpose(1, 2).flatten(2), weights


def _heads(rows: Tensor, width: int) -> Tensor:
    return rows.view(*rows.shape[:-1], -1, width).transpose(1, 2)


def _rope(positions: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Rotary cos and sin (...,S,width) of integer positions (...,S), theta 10,000."""
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, device=positions.device) / width)
    angles = positions[..., None].float() * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def _rotate(rows: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    first, second = rows.chunk(2, dim=-1)
    return rows * rope[0].to(rows.dtype) + torch.cat([-second, first], dim=-1) * rope[1].to(rows.dtype)


def _initialise(model: TrainingModel) -> None:
    tower, compressor = model.vision.tower, model.vision.compressor
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            nn.init.ones_(parameter) if "norm" in name or "ln_" in name else nn.init.zeros_(parameter)
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=0.5 / math.sqrt(parameter[0].numel()))
    nn.init.normal_(model.llm.model.embed_tokens.weight, std=0.5)
    nn.init.normal_(tower.embeddings.class_embedding, std=FEATURE_STD)
    nn.init.normal_(compressor.query, std=0.3)
    for layer in model.vision.mm_projector:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=1.4 / math.sqrt(layer.in_features))
    with torch.no_grad():
        side = math.isqrt(model.config.patches)
        width = model.config.vision.hidden_size
        # Random initial positions keep shapes from being learned (docs/training.md).
        tower.embeddings.position_embedding.weight[1:] = 0.3 * sincos_2d(side, width)
        compressor.pos_embed.copy_(sincos_2d(model.config.compressor_size, width))
        # Begin as average pooling, so that the projector understands the compressor's output from the start.
        compressor.attn.in_proj_weight[2 * width :] = torch.eye(width)
        compressor.attn.out_proj.weight.copy_(torch.eye(width))


def sincos_2d(side: int, width: int) -> Tensor:
    """Fixed positions of a square grid: (side*side, width). Half of the width is for the column, half for the row."""
    frequencies = 1.0 / 10000 ** (torch.arange(width // 4) / (width // 4))
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    parts = [part for axis in (x, y) for part in (torch.sin, torch.cos)]
    axes = [x, x, y, y]
    return torch.cat([f(a.flatten()[:, None] * frequencies) for f, a in zip(parts, axes, strict=True)], dim=1)
