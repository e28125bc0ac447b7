"""A small decoder-only transformer that predicts the next character."""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from compsgd.workers.data.splits import TextFormat

# GPT-2's.
_INITIAL_STD = 0.02


class Size(NamedTuple):
    channels: int
    layers: int
    heads: int


SIZES = {"small": Size(channels=64, layers=3, heads=4), "base": Size(128, layers=5, heads=4)}


class GPT(nn.Module):
    """Pre-norm, GELU, learned positions, no dropout."""

    def __init__(self, text: TextFormat, size: Size, tie_embeddings: bool) -> None:
        """
        Args:
            text: what it reads.
            size: how large it is.
            tie_embeddings: whether the head's weights are those of the embedding.
        """
        super().__init__()
        num_tokens, channels = len(text.vocabulary), size.channels
        self.embedding = nn.Embedding(num_tokens, channels)
        self.positions = nn.Embedding(text.context, channels)
        self.blocks = nn.Sequential(*(Block(channels, size.heads) for _ in range(size.layers)))
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, num_tokens, bias=False)
        self.apply(_initialise)
        for block in self.blocks:
            assert isinstance(block, Block)
            _scale_residual(block.attention.out, size.layers)
            _scale_residual(block.shrink, size.layers)
        if tie_embeddings:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the token after each.

        Args:
            tokens: int64, shape (batch, at most context).

        Returns:
            float32, shape (batch, tokens, vocabulary).
        """
        places = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.embedding(tokens) + self.positions(places)
        logits: Tensor = self.head(self.norm(self.blocks(hidden)))
        return logits


class Block(nn.Module):
    """Attention and a network of one hidden layer, each added to what comes in."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = CausalAttention(channels, heads)
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, 4 * channels)
        self.shrink = nn.Linear(4 * channels, channels)

    def forward(self, hidden: Tensor) -> Tensor:
        """Shape (batch, tokens, channels), and so the result."""
        hidden = hidden + self.attention(self.attention_norm(hidden))
        wide = F.gelu(self.widen(self.norm(hidden)))
        total: Tensor = hidden + self.shrink(wide)
        return total


class CausalAttention(nn.Module):
    """Every token looks at itself and at those before it."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.project = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, hidden: Tensor) -> Tensor:
        """Shape (batch, tokens, channels), and so the result."""
        # (3, batch, heads, tokens, channels of a head)
        split = self.project(hidden).unflatten(2, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind()
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return mixed


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=_INITIAL_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _scale_residual(projection: nn.Linear, layers: int) -> None:
    """Two projections a layer add to the residual stream, whose variance should not grow by it."""
    with torch.no_grad():
        projection.weight /= (2 * layers) ** 0.5
