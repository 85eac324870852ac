"""The compressor: a few learnable queries read a picture's patches and become its tokens."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 8  # fixed in the public implementation (golden/README.md)


class Attention(nn.Module):
    """The weights of one multi-head attention, named as `torch.nn.MultiheadAttention` names them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)


class Compressor(nn.Module):
    """Cross-attention with LayerNorm on both inputs. Queries and keys get positions, values do not. No final norm."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(size * size, width))
        self.pos_embed = nn.Parameter(torch.empty(size * size, width), requires_grad=False)
        self.ln_q = nn.LayerNorm(width)
        self.ln_kv = nn.LayerNorm(width)
        self.attn = Attention(width)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(F,P,V) -> tokens (F,C,V) and their attention, mean over heads (F,C,P)."""
        F_, P, V = features.shape
        C = self.query.shape[0]
        positions = resize(self.pos_embed, math.isqrt(P)).to(features.dtype)
        values = self.ln_kv(features)
        weights, biases = self.attn.in_proj_weight.chunk(3), self.attn.in_proj_bias.chunk(3)
        q = F.linear(self.ln_q(self.query) + self.pos_embed, weights[0], biases[0])  # (C,V)
        k = F.linear(values + positions, weights[1], biases[1])  # (F,P,V)
        v = F.linear(values, weights[2], biases[2])
        q = q.view(C, HEADS, -1).transpose(0, 1)  # (H,C,V/H)
        k = k.view(F_, P, HEADS, -1).permute(0, 2, 3, 1)  # (F,H,V/H,P)
        v = v.view(F_, P, HEADS, -1).transpose(1, 2)  # (F,H,P,V/H)
        attention = torch.softmax((q / math.sqrt(V // HEADS)) @ k, dim=-1)  # (F,H,C,P)
        tokens = (attention @ v).transpose(1, 2).reshape(F_, C, V)
        return self.attn.out_proj(tokens), attention.mean(dim=1)


def resize(table: Tensor, side: int) -> Tensor:
    """Resizes a square table of positions (C,V) bicubically to (side*side,V), as the public implementation does."""
    own = math.isqrt(table.shape[0])
    if own == side:
        return table
    grid = table.float().view(1, own, own, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)
