"""Packed text: documents of different lengths share the rows of a batch, and none of them sees another. A batch is a dataclass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

ROW_TOKENS = 128
VOCABULARY = 128  # a token is a byte of ASCII text
WORDS = {
    "who": ["the cat", "a small dog", "my neighbour", "the old engineer", "nobody"],
    "does": ["sees", "measures", "never forgets", "paints", "is looking for"],
    "what": ["the loader", "a red ball", "every sample", "the river", "another worker"],
    "when": ["in the morning", "twice a day", "after the epoch", "without a reason"],
}


class Stories(Dataset[Tensor]):
    """Documents of 1 to 3 short sentences, as tokens (L,) int64 with L up to 128. An item depends only on the seed and its index."""

    def __init__(self, num_samples: int, seed: int) -> None:
        self._num_samples, self._seed = num_samples, seed

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> Tensor:
        rng = np.random.default_rng((self._seed, index))
        sentences = [" ".join(map(rng.choice, WORDS.values())) for _ in range(rng.integers(1, 4))]
        text = ". ".join(sentences) + ".\n"
        return torch.tensor(list(text.encode("ascii")[:ROW_TOKENS]))


def make_datasets(num_train: int = 2048, num_val: int = 256) -> tuple[Stories, Stories]:
    """The training and the validation set."""
    return Stories(num_train, seed=0), Stories(num_val, seed=1)


@dataclass
class PackedRows:
    """Documents in rows. The number of rows differs from batch to batch.

    Attributes:
        tokens: (R, 128) int64, 0 where a row is not used.
        positions: (R, 128) int64: the position of a token in its document.
        documents: (R, 128) int64: the document of the batch that a token belongs to, from 1; 0 where a row is not used.
    """

    tokens: Tensor
    positions: Tensor
    documents: Tensor


def collate(items: Sequence[Tensor]) -> PackedRows:
    """Packs the documents, each into the first row that has room for it."""
    rows: list[list[tuple[int, Tensor]]] = []
    used: list[int] = []
    for document, tokens in enumerate(items, start=1):
        row = next((row for row, count in enumerate(used) if count + len(tokens) <= ROW_TOKENS), len(rows))
        if row == len(rows):
            rows.append([])
            used.append(0)
        rows[row].append((document, tokens))
        used[row] += len(tokens)
    packed = PackedRows(*(torch.zeros(len(rows), ROW_TOKENS, dtype=torch.int64) for _ in range(3)))
    for row, contents in enumerate(rows):
        begin = 0
        for document, tokens in contents:
            place = slice(begin, begin + len(tokens))
            packed.tokens[row, place] = tokens
            packed.positions[row, place] = torch.arange(len(tokens))
            packed.documents[row, place] = document
            begin = place.stop
    return packed


def count_tokens(batch: PackedRows) -> int:
    """The number of tokens in a batch. As ``data.count``, it makes throughput tokens per second, and a mean loss one per token."""
    return int(batch.documents.count_nonzero())


class SmallTransformer(nn.Module):
    """Packed rows to logits (R, 128, 128) of the next token. A token attends to earlier ones of its own document only."""

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(ROW_TOKENS, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(num_layers))
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, rows: PackedRows) -> Tensor:
        same = rows.documents[:, :, None] == rows.documents[:, None, :]
        may_see = same.tril()[
            :, None
        ]  # (R, 1, 128, 128); a place that is not used sees other such places: no row of it is empty
        x = self.token(rows.tokens) + self.position(rows.positions)
        for layer in self.layers:
            x = layer(x, may_see)
        return torch.as_tensor(self.head(x))


class Layer(nn.Module):
    """One layer: attention with four heads, and a feed-forward part."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, may_see: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.inputs(self.norms[0](x)).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=may_see)
        x = x + self.output(attended.transpose(1, 2).flatten(2))
        return torch.as_tensor(x + self.feed_forward(self.norms[1](x)))


def make_model(width: int = 64, num_layers: int = 2) -> SmallTransformer:
    """The transformer. ``width``: a multiple of 4."""
    return SmallTransformer(width, num_layers)


def step(model: nn.Module, batch: PackedRows) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean loss per token, and as a metric the share of the rows that is used. Nothing here waits for the device."""
    same = batch.documents[:, 1:] == batch.documents[:, :-1]
    is_used = batch.documents > 0
    targets = torch.where(
        same & is_used[:, 1:], batch.tokens[:, 1:], -100
    )  # no document predicts the next one's first token
    loss = F.cross_entropy(model(batch)[:, :-1].transpose(1, 2), targets)
    return loss, {"used_pct": 100 * is_used.float().mean()}
