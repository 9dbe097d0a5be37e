"""The worked examples in a plain PyTorch loop: their data, their arithmetic, and that they learn."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from experiments.examples import detection, packed_text, segmentation, video
from experiments.examples.packed_text import ROW_TOKENS, PackedRows
from experiments.examples.segmentation import Scene

EXAMPLES = [detection, segmentation, packed_text, video]
SMALL: dict[ModuleType, dict[str, int]] = {segmentation: {"image_px": 32}}
LEARNING_RATE = {packed_text: 5e-3}
every_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.__name__.rpartition(".")[2])


def batches(example: ModuleType, num_batches: int) -> list[Any]:
    """Batches of 16 of the training set."""
    train, _ = example.make_datasets(num_train=16 * num_batches, **SMALL.get(example, {}))
    return list(DataLoader(train, 16, collate_fn=getattr(example, "collate", None)))


def parts(item: Any) -> list[Tensor]:
    """The tensors of an item."""
    if isinstance(item, Tensor):
        return [item]
    return list(item.values() if isinstance(item, dict) else item)


@every_example
def test_an_item_depends_only_on_its_index(example: ModuleType) -> None:
    train, val = example.make_datasets(num_train=8, num_val=4)
    assert (len(train), len(val)) == (8, 4)
    again, _ = example.make_datasets(num_train=16)
    torch.testing.assert_close(parts(train[5]), parts(again[5]), rtol=0, atol=0)
    for other in (train[4], val[5]):
        first, second = parts(train[5])[0], parts(other)[0]
        assert first.shape != second.shape or not first.equal(second)


@every_example
def test_the_loss_falls(example: ModuleType) -> None:
    torch.manual_seed(0)
    model = example.make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE.get(example, 3e-3))
    losses = []
    for batch in batches(example, 25):
        loss, _ = example.step(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.75 * losses[0]


# ---- detection ---------------------------------------------------------------------------------------------------


def test_images_differ_in_size_and_in_their_number_of_objects() -> None:
    train, _ = detection.make_datasets(num_train=32)
    items = [train[index] for index in range(32)]
    assert len({item["image"].shape for item in items}) > 16
    assert {len(item["boxes"]) for item in items} == {0, 1, 2, 3, 4}
    for item in items:
        (height, width), boxes = item["image"].shape[1:], item["boxes"]
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= width).all()
        assert (boxes[:, 3] <= height).all()
    batch = detection.collate(items[:3])
    assert {key: len(entries) for key, entries in batch.items()} == {"images": 3, "boxes": 3, "labels": 3}
    assert batch["images"][2].equal(items[2]["image"])


def test_a_smaller_image_is_padded_with_zeros() -> None:
    images = [torch.full((3, 10, 4), 255, dtype=torch.uint8), torch.full((3, 2, 17), 51, dtype=torch.uint8)]
    batch = detection.padded(images)
    assert batch.shape == (2, 3, 16, 24)
    assert batch[0].sum() == 3 * 10 * 4
    assert batch[1].sum().item() == pytest.approx(0.2 * 3 * 2 * 17)


def test_the_cells_of_a_box_point_to_its_sides() -> None:
    boxes, labels = torch.tensor([[2.0, 1.0, 14.0, 7.0]]), torch.tensor([2])  # centres of cells are at 4, 12 and 20
    classes, distances = detection.cell_targets(boxes, labels, 2, 3)
    assert classes.tolist() == [[2, 2, 0], [0, 0, 0]]
    assert distances[:, 0, 0].tolist() == [2, 3, 10, 3]  # left, top, right, bottom
    assert distances[:, 0, 1].tolist() == [10, 3, 2, 3]


def test_intersection_over_union() -> None:
    ours = torch.tensor([1.0, 1, 1, 1]).view(1, 4, 1, 1)
    theirs = torch.tensor([1.0, 1, 1, 3]).view(1, 4, 1, 1)
    assert detection.iou(ours, ours).item() == 1
    assert detection.iou(ours, theirs).item() == 0.5


def test_a_batch_without_any_object_has_a_loss() -> None:
    batch = {"images": [torch.zeros(3, 48, 50)], "boxes": [torch.zeros(0, 4)], "labels": [torch.zeros(0).long()]}
    loss, metrics = detection.step(detection.make_model(), batch)
    assert loss.isfinite()
    assert metrics["box_loss"] == 0


# ---- segmentation ------------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """A model that predicts the same classes for every image."""

    def __init__(self, classes: Tensor) -> None:
        super().__init__()
        self.logits = 100.0 * nn.functional.one_hot(classes, segmentation.NUM_CLASSES).permute(0, 3, 1, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


def test_the_mean_iou_is_one_for_the_right_mask_and_less_for_another() -> None:
    mask = torch.tensor([[[0, 0, 1, 2]]], dtype=torch.uint8)
    scene = Scene(torch.zeros(1, 3, 1, 4, dtype=torch.uint8), mask)
    assert segmentation.evaluate(Fixed(mask.long()), scene)["mean_iou"] == 1
    guess = torch.tensor([[[0, 1, 1, 2]]])  # 1 of 2, 1 of 2 and 1 of 1
    assert segmentation.evaluate(Fixed(guess), scene)["mean_iou"].item() == pytest.approx(2 / 3)


# ---- packed text -------------------------------------------------------------------------------------------------


def packed(*documents: str) -> PackedRows:
    return packed_text.collate([torch.tensor(list(text.encode("ascii"))) for text in documents])


def test_documents_share_rows() -> None:
    batch = packed("a" * 100, "b" * 50, "c" * 28)
    assert batch.tokens.shape == (2, ROW_TOKENS)
    assert batch.documents[0].tolist() == 100 * [1] + 28 * [3]
    assert batch.documents[1].tolist() == 50 * [2] + 78 * [0]
    assert batch.positions[0].tolist() == [*range(100), *range(28)]
    assert bytes(batch.tokens[0].tolist()) == b"a" * 100 + b"c" * 28
    assert packed_text.count_tokens(batch) == 178


def test_no_document_sees_another() -> None:
    torch.manual_seed(0)
    model = packed_text.make_model().eval()
    alone, together = packed("the second"), packed("the first", "the second", "x" * 100)
    with torch.no_grad():
        expected = model(alone)[0, :10]
        torch.testing.assert_close(model(together)[0, 9:19], expected)
        assert not torch.allclose(model(packed("another one"))[0, :10], expected)


def test_no_document_predicts_the_first_token_of_the_next() -> None:
    model = packed_text.make_model().eval()
    losses = [packed_text.step(model, packed(*texts))[0] * num for texts, num in ((("aab",), 2), (("cd",), 1))]
    together, _ = packed_text.step(model, packed("aab", "cd"))
    torch.testing.assert_close(3 * together, losses[0] + losses[1])


# ---- video -------------------------------------------------------------------------------------------------------


def test_the_ball_moves_with_its_velocity() -> None:
    train, _ = video.make_datasets(num_train=8, image_px=64)
    for clip in (train[index] for index in range(8)):
        bright = (clip["frames"].float().mean(1) > 110).to(torch.complex128)  # (T, 64, 64): the ball
        angle = torch.arange(64) * 2 * torch.pi / 64
        circle = torch.complex(angle.cos(), angle.sin()).to(torch.complex128)  # a place across the border has no jump
        for axis, place in enumerate((bright.sum(2) @ circle, bright.sum(1) @ circle)):
            moved = (place[1:] / place[:-1]).angle() * 64 / (2 * torch.pi)  # pixels per frame
            expected = clip["velocity"][axis] * clip["times_s"].diff()
            torch.testing.assert_close(moved.float(), expected, rtol=0, atol=1.5)
