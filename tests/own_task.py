"""A task of one's own for the tests: images of different sizes with different numbers of boxes; and wrong functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import IterableDataset

Item = dict[str, Any]
OWN = [
    "model=custom",
    f"model.target={__name__}:network",
    f"model.step={__name__}:step",
    "data=custom",
    f"data.target={__name__}:datasets",
    f"data.collate={__name__}:collate",
]


class Boxes:
    """Map-style: item i has an image of 4 to 8 pixels, and i % 3 + 1 boxes with the image's mean colour."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Item:
        image = torch.rand(3, 4 + index % 5, 8 - index % 5, generator=torch.Generator().manual_seed(index))
        return {"image": image, "boxes": image.mean((1, 2)).repeat(index % 3 + 1, 1), "name": str(index)}


class BoxStream(IterableDataset[Item]):
    """The same items as a stream without ids."""

    def __init__(self, size: int) -> None:
        self._items = Boxes(size)

    def __iter__(self) -> Iterator[Item]:
        return (self._items[index] for index in range(len(self._items)))


@dataclass(frozen=True)
class Target:
    boxes: list[torch.Tensor]
    names: tuple[str, ...]


class Boxed(NamedTuple):
    images: list[torch.Tensor]
    target: Target


def datasets(num_train: int = 24, num_val: int = 7, stream: bool = False) -> tuple[Any, Any]:
    kind = BoxStream if stream else Boxes
    return kind(num_train), kind(num_val)


def collate(items: list[Item]) -> Boxed:
    boxes, names = [item["boxes"] for item in items], tuple(item["name"] for item in items)
    return Boxed([item["image"] for item in items], Target(boxes, names))


def count(batch: Boxed) -> int:
    return sum(map(len, batch.target.boxes))


class Network(nn.Module):
    """The mean colour of each image, (N, 3)."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        colours: torch.Tensor = self.linear(self.dropout(torch.stack([image.mean((1, 2)) for image in images])))
        return colours


def network(dropout: float = 0.1) -> nn.Module:
    return Network(dropout)


def loss_of(model: nn.Module, batch: Boxed) -> torch.Tensor:
    colours = model(batch.images)
    losses = [F.mse_loss(colour.expand_as(own), own) for colour, own in zip(colours, batch.target.boxes, strict=True)]
    return torch.stack(losses).mean()


def step(model: nn.Module, batch: Boxed) -> tuple[torch.Tensor, dict[str, Any]]:
    loss = loss_of(model, batch)
    return loss, {"root": loss.sqrt(), "boxes": count(batch)}


def evaluate(model: nn.Module, batch: Boxed) -> dict[str, Any]:
    assert not model.training
    assert not torch.is_grad_enabled()
    return {"loss": loss_of(model, batch), "boxes": count(batch) / len(batch.images)}


# ---- wrong functions ---------------------------------------------------------------------------------------------------


def no_batch(model: nn.Module) -> torch.Tensor:
    raise AssertionError


def nothing(*_: Any) -> None:
    return None


def one_per_sample(model: nn.Module, batch: Boxed) -> torch.Tensor:
    colours: torch.Tensor = model(batch.images)
    return colours.sum(1)


def detached(model: nn.Module, batch: Boxed) -> torch.Tensor:
    return loss_of(model, batch).detach()


def failing(model: nn.Module, batch: Boxed) -> torch.Tensor:
    raise KeyError("masks")


def vector_metric(model: nn.Module, batch: Boxed) -> tuple[torch.Tensor, dict[str, Any]]:
    return loss_of(model, batch), {"colours": torch.zeros(3)}


def badly_named(model: nn.Module, batch: Boxed) -> dict[str, float]:
    return {"AP@50": 1.0}


def around_the_wrapper(model: nn.Module, batch: Boxed) -> torch.Tensor:
    return loss_of(getattr(model, "module", model), batch)


def stacked(items: list[Item]) -> torch.Tensor:
    return torch.stack([item["image"] for item in items])


def not_sendable(items: list[Item]) -> dict[str, Any]:
    return {"image": items[0]["image"], "transform": lambda image: image}


def half(batch: Boxed) -> float:
    return len(batch.images) / 2
