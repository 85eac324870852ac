"""The half of the model in the reasoner: runs the LLM, shares prefixes, and measures what a question attends to."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from llava_mini.errors import DeviceError, InputError
from llava_mini.packed_questions import Pack

PREFILL_POSITIONS = 2048  # positions run at once: 0.26 GB at the 8B model's widths (127 kB a position)
SCORE_CELLS = 2**24  # scores in one call, over all heads: 64 MB in float32
MASKED = ("sdpa", "eager")  # attention implementations that take a mask per row


class LanguageHalf:
    """An unmodified Llama over embeddings, one sequence at a time. Logits are float32, on the model's device.

    A cache holds the keys and values of the positions run so far. To answer twice from one prefix, `fork` the cache.
    Nothing is copied until the twin grows. To answer many questions at once from one prefix, make a `Pack` of it.
    """

    def __init__(self, llm: LlamaForCausalLM) -> None:
        self.llm = llm

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.llm.device
        return device

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        """Plain text embeddings (L,D); raises InputError."""
        table: Tensor = self.llm.model.embed_tokens.weight
        return gather(table, token_ids)

    def make_cache(self) -> DynamicCache:
        """An empty cache."""
        return DynamicCache(config=self.llm.config)

    def count_cache_bytes(self, positions: int) -> int:
        """Bytes that a cache of this many positions takes."""
        return positions * cache_bytes_per_position(self.llm.config, self.llm.model.embed_tokens.weight.dtype)

    @torch.no_grad()
    def prefill(self, inputs_embeds: Tensor, cache: DynamicCache | None = None) -> DynamicCache:
        """Runs embeddings (S,D) after those in `cache`, or as the first ones. Returns the cache, S positions longer."""
        grown = self.make_cache() if cache is None else cache
        for part in torch.split(inputs_embeds, PREFILL_POSITIONS):  # bounds the activations
            self._run(grown, part)
        return grown

    @torch.no_grad()
    def advance(self, cache: DynamicCache, inputs_embeds: Tensor) -> Tensor:
        """Runs embeddings as `prefill` does, and returns the last position's logits (V,)."""
        logits: Tensor = self.llm.lm_head(self._run(cache, inputs_embeds)[-1])
        return logits.float()

    def step(self, cache: DynamicCache, token_id: int) -> Tensor:
        """Appends one generated token to `cache`, and returns the logits (V,) of the next one."""
        return self.advance(cache, self.embed([token_id]))

    def score(
        self, cache: DynamicCache, question_embeds: Tensor, vision_span: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Runs a question (L,D) as `advance` does, and measures its attention to `vision_span` (start, stop).

        Returns logits (V,) and attention (stop - start,) float32: the mean over heads, summed over the question's rows
        and over all layers but the first (docs/design.md, focused fusion). The weights are computed here, for these
        rows only, because the attention implementation in use may not return any.
        """
        shares = torch.ones(1, len(question_embeds), device=self.device)
        with self._watch(cache, vision_span, shares) as total:
            logits = self.advance(cache, question_embeds)
        return logits, total[0]

    @property
    def can_pack(self) -> bool:
        """Whether a pack may hold more than one question. FlashAttention takes no mask, so it runs one at a time."""
        return self.llm.config._attn_implementation in MASKED

    @torch.no_grad()
    def advance_packed(self, pack: Pack, inputs_embeds: Tensor, owners: Sequence[int]) -> dict[int, Tensor]:
        """Runs rows (R,D) of several questions in one pass, after those in `pack`. `owners` names each row's question.

        Returns the logits (V,) of each question's last row among them. Raises DeviceError unless `can_pack`.
        """
        return self._run_packed(pack, inputs_embeds, owners, self._find_visible(pack, owners))

    def score_packed(
        self, pack: Pack, inputs_embeds: Tensor, owners: Sequence[int], vision_span: tuple[int, int]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Runs rows as `advance_packed` does, and measures attention as `score` does, for each question by itself.

        A question's rows may come in several calls: its attention is the sum.
        """
        asked = sorted(set(owners))
        shares = torch.tensor([[owner == each for owner in owners] for each in asked], device=self.device).float()
        visible = self._find_visible(pack, owners)
        with self._watch(pack.cache, vision_span, shares, visible) as total:
            logits = self._run_packed(pack, inputs_embeds, owners, visible)
        return logits, dict(zip(asked, total, strict=True))

    def _find_visible(self, pack: Pack, owners: Sequence[int]) -> Tensor | None:
        """Returns the mask of new rows (R,S); None if they are the only question's, for which causality is enough."""
        if not pack.is_shared(owners):
            return None
        if not self.can_pack:
            raise DeviceError(f"{self.llm.config._attn_implementation} takes no mask: pack one question at a time")
        return pack.find_visible(owners, self.device)

    @torch.no_grad()
    def _run_packed(
        self, pack: Pack, inputs_embeds: Tensor, owners: Sequence[int], visible: Tensor | None
    ) -> dict[int, Tensor]:
        positions = None if visible is None else pack.list_positions(owners)
        hidden = self._run(pack.cache, inputs_embeds, positions, visible)
        pack.extend(owners)
        last = {owner: place for place, owner in enumerate(owners)}
        logits: Tensor = self.llm.lm_head(hidden[list(last.values())])
        return dict(zip(last, logits.float(), strict=True))

    def _run(
        self,
        cache: DynamicCache,
        inputs_embeds: Tensor,
        positions: Sequence[int] | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """(R,D) -> (R,D), after the last norm. By default the rows follow those in the cache and see all before them.

        `visible` (R,S) says what they see instead.
        """
        dtype = self.llm.model.embed_tokens.weight.dtype
        embeds = inputs_embeds[None].to(self.device, dtype)
        ids = None if positions is None else torch.tensor([positions], device=self.device)
        mask = None if visible is None else visible[None, None]
        if mask is not None and self.llm.config._attn_implementation == "eager":  # it adds the mask to the scores
            mask = torch.zeros(mask.shape, dtype=dtype, device=self.device).masked_fill_(~mask, torch.finfo(dtype).min)
        ran = self.llm.model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=ids, past_key_values=cache, use_cache=True
        )
        hidden: Tensor = ran.last_hidden_state
        return hidden[0]

    @contextmanager
    def _watch(
        self, cache: DynamicCache, span: tuple[int, int], shares: Tensor, visible: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yields (Q, stop - start), filled in with the attention of all rows run inside the block to the span.

        `shares` (Q,R) says how much of each row counts for each question.
        """
        total = torch.zeros(len(shares), span[1] - span[0], device=self.device)

        def add(module: nn.Module, _args: tuple[()], kwargs: dict[str, Any], _output: object) -> None:
            hidden, rope = kwargs["hidden_states"], kwargs["position_embeddings"]
            for rows, weights in _compute_weights(module, hidden, rope, cache, visible):
                total.addmm_(shares[:, rows], weights[:, slice(*span)])

        handles = [layer.self_attn.register_forward_hook(add, with_kwargs=True) for layer in self.llm.model.layers[1:]]
        try:
            yield total
        finally:
            for handle in handles:
                handle.remove()


def cache_bytes_per_position(text: LlamaConfig, dtype: torch.dtype) -> int:
    """Bytes of one position's keys and values in all layers."""
    sizes: Any = text  # transformers types them as optional, but always sets them
    return int(2 * sizes.num_hidden_layers * sizes.num_key_value_heads * sizes.head_dim * dtype.itemsize)


def gather(table: Tensor, token_ids: Sequence[int]) -> Tensor:
    """Looks up rows of an embedding table (vocabulary,D) -> (L,D); raises InputError."""
    if token_ids and not (min(token_ids) >= 0 and max(token_ids) < len(table)):
        raise InputError(f"a token id is beyond the vocabulary of {len(table)}: the tokenizer is of another checkpoint")
    return table[torch.tensor(token_ids, dtype=torch.long, device=table.device)]


def _compute_weights(
    attention: Any, hidden: Tensor, rope: tuple[Tensor, Tensor], cache: DynamicCache, visible: Tensor | None
) -> Iterator[tuple[slice, Tensor]]:
    """Yields (rows, weights (r,S) float32): softmax over all S cached positions, the mean over heads.

    The rows are those of `hidden` (1,R,D), the last ones in the cache, a few at a time.
    """
    queries = attention.q_proj(hidden).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    queries = apply_rotary_pos_emb(queries, queries, *rope)[0]
    keys = cache.layers[attention.layer_idx].keys  # (1, kv heads, S, head width)
    count, width = queries.shape[2], keys.shape[2]
    step = max(SCORE_CELLS // (queries.shape[1] * width), 1)
    for first in range(0, count, step):
        rows = slice(first, min(first + step, count))
        if visible is None:
            hides = torch.ones(rows.stop - first, width, dtype=torch.bool, device=keys.device)
            hides.triu_(width - count + first + 1)
        else:
            hides = ~visible[rows]
        yield rows, _compute_row_weights(queries[:, :, rows], keys, hides, attention.scaling)


def _compute_row_weights(queries: Tensor, keys: Tensor, hides: Tensor, scaling: float) -> Tensor:
    """Weights (R,S) of the rows (1,heads,R,width); `hides` (R,S) names the positions that they do not see."""
    rows, kv_heads, width = queries.shape[2], keys.shape[1], keys.shape[2]
    grouped = queries.reshape(1, kv_heads, -1, queries.shape[3])  # (1, kv heads, group*R, head width)
    scores = (grouped @ keys.transpose(2, 3)).float() * scaling
    scores = scores.view(1, kv_heads, -1, rows, width)  # (1, kv heads, group, R, S)
    weights = scores.masked_fill_(hides, -torch.inf).softmax(-1)
    return weights.mean((1, 2))[0]
