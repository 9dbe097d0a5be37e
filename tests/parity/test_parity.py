"""Loaders with one planted fault each, which the check must name, and the project's own loaders, which must pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset, IterableDataset

from loaderlab import data, loaders
from loaderlab.config import (
    DaliLoader,
    ImageFolderData,
    LoaderConfig,
    NativeLoader,
    ReplayLoader,
    TrainConfig,
    TransformConfig,
    UserError,
    VectorsData,
)
from loaderlab.data.spec import ImageArrays, Split, UserItems, transforms
from loaderlab.device.base import Device
from loaderlab.device.cpu import Cpu
from loaderlab.device.cuda import Cuda
from loaderlab.loaders.contract import Batch, EpochPlan
from loaderlab.loaders.decode import crop_window, resize
from loaderlab.loaders.native import Native
from loaderlab.parity import check, distribution, draws, gradient_image, samples
from loaderlab.parity.result import ParityResult, ResultBuilder
from loaderlab.runs import job, run
from loaderlab.runs.context import RunContext
from loaderlab.runs.outputs import Outcome
from loaderlab.system.terminal import Terminal
from tests.conftest import picture

CPU = Cpu()
ONE_PROCESS = NativeLoader(num_workers=0)


class Squares(Dataset[Any]):
    """A user's map-style dataset."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> Any:
        return torch.full((3,), float(index**2)), index % 2


class Noise(Squares):
    """A dataset whose items differ each time."""

    def __getitem__(self, index: int) -> Any:
        return torch.rand(3), index % 2


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.zeros(3), 0)])


def files(tree: Path, **transform: Any) -> Split:
    spec = TransformConfig(image_size=24, resize=28, **transform)
    return data.build(ImageFolderData(root=str(tree), val_fraction=0.0, transform=spec), lambda *_: None).train


def arrays(_tree: Path, **transform: Any) -> Split:
    train, _, normalization = transforms(TransformConfig(image_size=16, resize=20, **transform))
    images = np.stack([picture(30, 40, index) for index in range(23)])
    return Split(ImageArrays(images, np.arange(23, dtype=np.int64) % 5), train, normalization)


def vectors(_tree: Path) -> Split:
    return data.build(VectorsData(num_samples=23, num_features=6, num_classes=3, work=2), lambda *_: None).train


def items(_tree: Path) -> Split:
    return Split(UserItems(Squares(), False, None, None, 2))


def checked(split: Split, config: LoaderConfig = ONE_PROCESS, **options: Any) -> ParityResult:
    defaults: dict[str, Any] = {"batch_size": 4, "drop_last": True, "seed": 3, "device": CPU, "num_samples": None}
    return check.check(config, split, **(defaults | options))


# ---- correct loaders -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("split", [files, arrays, vectors, items])
@pytest.mark.parametrize(
    "config",
    [ONE_PROCESS, NativeLoader(num_workers=1, batched=False, in_order=False), DaliLoader(num_threads=1)],
    ids=["native", "one by one in a worker", "dali"],
)
def test_the_loaders_do_the_same_work(
    config: LoaderConfig,
    split: Callable[[Path], Split],
    device: str,
    image_tree: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check, "NUM_GRADIENTS", 96)
    result = checked(split(image_tree), config, device=Cuda() if device == "cuda" else CPU)
    assert result.status == "same work", result
    assert (result.num_samples, result.num_epochs, result.batch_size) == (23, 3, 4)
    if split in (files, arrays):
        assert device == "cuda" or result.inside_levels == isinstance(config, DaliLoader)
        assert result.num_draws == 2 * 96
        assert set(result.p_values) == {"flip", "flip repeats", "area", "log aspect", "centre x", "centre y"}
        assert "192 random crops and flips agree (p " in str(result)
    else:
        assert (result.inside_levels, result.p_values) == (None, {})


def test_normalized_by_the_loader_and_grayscale(image_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "NUM_GRADIENTS", 64)
    split = files(image_tree, normalize_on="loader", train_crop="center", flip=0.3)
    result = checked(split, DaliLoader(num_threads=1))
    assert (result.status, result.inside_levels, list(result.p_values)) == ("same work", 1, ["flip", "flip repeats"])
    train, _, normalization = transforms(TransformConfig(image_size=16, mean=[0.5], std=[0.2], normalize_on="loader"))
    gray = Split(ImageArrays(np.full((9, 28, 28, 1), 100, np.uint8), np.zeros(9, np.int64)), train, normalization)
    assert checked(gray).status == "same work"


# ---- loaders with a planted fault ------------------------------------------------------------------------------


class Wrong(Native):
    """The native loader with a fault in its split, its batches or its epoch numbers."""

    def __init__(self, fault: Fault, split: Split, plan: EpochPlan) -> None:
        super().__init__(ONE_PROCESS, fault.split(split), plan, CPU)
        self._fault, self._original = fault, split
        self._shuffled = plan.shuffle

    def epoch(self, epoch: int) -> Iterator[Batch]:
        batches = super().epoch(epoch if self._shuffled or not self._fault.repeats else 0)
        return iter(self._fault.batches([self._fault.batch(batch, self._original) for batch in batches]))


class Fault:
    repeats = False

    def split(self, split: Split) -> Split:
        return split

    def batch(self, batch: Batch, split: Split) -> Batch:
        return batch

    def batches(self, batches: list[Batch]) -> list[Batch]:
        return batches


def fault_of(**methods: Any) -> Fault:
    attributes = {name: value if name == "repeats" else staticmethod(value) for name, value in methods.items()}
    fault: Fault = type("PlantedFault", (Fault,), attributes)()
    return fault


def rows(batch: Batch, keep: torch.Tensor) -> Batch:
    assert batch.ids is not None
    return Batch(batch.inputs[keep], batch.targets[keep], batch.ids[keep])


def without_five(batch: Batch, _split: Split) -> Batch:
    assert batch.ids is not None
    return rows(batch, batch.ids != 5)


def seven_for_five(batch: Batch, _split: Split) -> Batch:
    assert batch.ids is not None
    return Batch(batch.inputs, batch.targets, torch.where(batch.ids == 5, 7, batch.ids))


def swapped_labels(batch: Batch, _split: Split) -> Batch:
    assert batch.ids is not None
    return Batch(batch.inputs, torch.where(batch.ids == 8, (batch.targets + 1) % 2, batch.targets), batch.ids)


def on_inputs(change: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    return fault_of(batch=lambda batch, _: Batch(change(batch.inputs), batch.targets, batch.ids))


def on_last_sample(change: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    """Changes the inputs of sample 22 alone."""

    def one(batch: Batch, _split: Split) -> Batch:
        assert batch.ids is not None
        inputs = torch.where((batch.ids == 22).view(-1, 1, 1, 1), change(batch.inputs), batch.inputs)
        return Batch(inputs.contiguous(memory_format=torch.channels_last), batch.targets, batch.ids)

    return fault_of(batch=one)


def padded(batches: list[Batch]) -> list[Batch]:
    """Fills the last batch with its first sample, as some loaders do."""
    last = batches[-1]
    return [*batches[:-1], rows(last, torch.arange(len(batches[0])) % len(last))]


def not_antialiased(batch: Batch, split: Split) -> Batch:
    if split.transform is None or split.transform.random_crop or batch.ids is None:
        return batch
    assert isinstance(split.source, ImageArrays)
    images = torch.from_numpy(split.source.images[batch.ids.numpy()]).permute(0, 3, 1, 2)
    small = F.interpolate(images, size=(20, 27), mode="bilinear")[:, :, 2:18, 6:22]
    return Batch(small.contiguous(memory_format=torch.channels_last), batch.targets, batch.ids)


def in_the_corner(batch: Batch, split: Split) -> Batch:
    """Crops with correct sizes, all in the upper left corner."""
    if split.transform is None or not split.transform.random_crop or batch.ids is None:
        return batch
    assert isinstance(split.source, ImageArrays)
    spec, rng, inputs = split.transform, np.random.default_rng(int(batch.inputs.long().sum().item())), batch.inputs
    for position, index in enumerate(batch.ids.tolist()):
        image = torch.from_numpy(split.source.images[index]).permute(2, 0, 1)
        _, _, height, width = crop_window(image.shape[1], image.shape[2], spec, rng.random((10, 4)))
        cut = resize(image[:, :height, :width], spec.size, spec.size)
        inputs[position] = cut.flip(-1) if rng.random() < spec.flip else cut
    return Batch(inputs, batch.targets, batch.ids)


def transformed(**settings: Any) -> Fault:
    """A random transform that differs from the configured one."""

    def changed(split: Split) -> Split:
        spec = split.transform
        if spec is None or not spec.random_crop:
            return split
        return replace(split, transform=replace(spec, **settings))

    return fault_of(split=changed)


WRONG: dict[str, tuple[Fault, str, int | None]] = {  # fault, the field that must be named, the sample
    "drops an id": (fault_of(batch=without_five), "ids", 5),
    "duplicates an id": (fault_of(batch=seven_for_five), "ids", 7),
    "swaps labels": (fault_of(batch=swapped_labels), "labels", 8),
    "another order": (fault_of(batches=lambda batches: [batches[1], batches[0], *batches[2:]]), "order", None),
    "one batch missing": (fault_of(batches=lambda batches: batches[:-1]), "steps", None),
    "a padded last batch": (fault_of(batches=padded), "last batch", None),
    "shifts an image": (on_last_sample(lambda inputs: inputs.roll(2, -1)), "pixels", 22),
    "resizes without antialiasing": (fault_of(batch=not_antialiased), "pixels", None),
    "gives BGR": (
        on_inputs(lambda inputs: inputs.flip(1).contiguous(memory_format=torch.channels_last)),
        "pixels",
        None,
    ),
    "gives floats": (on_inputs(torch.Tensor.float), "dtype", None),
    "gives larger images": (on_inputs(lambda inputs: F.pad(inputs, (1, 1))), "shape", None),
    "gives rows of channels": (on_inputs(torch.Tensor.contiguous), "layout", None),
    "never flips": (transformed(flip=0.0), "flip", None),
    "always flips": (transformed(flip=1.0), "flip", None),
    "crops larger areas": (transformed(scale=(0.4, 1.0)), "crop area", None),
    "crops squares": (transformed(ratio=(1.0, 1.0)), "crop aspect", None),
    "crops in a corner": (fault_of(batch=in_the_corner), "crop position", None),
    "repeats its crops": (fault_of(repeats=True), "crop repeats", None),
    "darkens": (on_inputs(lambda inputs: (inputs * 0.8).to(torch.uint8)), "mean", None),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_fault_is_named(name: str, image_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault, field, sample = WRONG[name]
    monkeypatch.setattr(loaders, "build", lambda _config, split, plan, _device: Wrong(fault, split, plan))
    monkeypatch.setattr(check, "NUM_GRADIENTS", 128)
    result = checked(arrays(image_tree), drop_last=False)
    mismatches = {mismatch.field: mismatch for mismatch in result.mismatches}
    assert field in mismatches, result
    if sample is not None:
        assert mismatches[field].sample == sample
        assert f"sample {sample} " in str(mismatches[field])
    assert result.status.startswith("unlike work: ")
    if field.startswith("crop") or field in ("flip", "labels", "order", "last batch", "dtype", "layout"):
        assert result.mismatches[0].field in (field, "ids")  # there is no other fault
        assert len(mismatches) <= 2


def test_repeated_flips_are_detected_without_random_crops(image_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        loaders, "build", lambda _config, split, plan, _device: Wrong(fault_of(repeats=True), split, plan)
    )
    result = checked(arrays(image_tree, train_crop="center"))
    assert [mismatch.field for mismatch in result.mismatches] == ["flip repeats"]


def test_samples_are_named_by_their_file_and_their_id_in_the_whole_split(
    image_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = on_last_sample(lambda inputs: inputs.roll(2, -1))
    monkeypatch.setattr(loaders, "build", lambda _config, split, plan, _device: Wrong(fault, split, plan))
    (mismatch,) = checked(files(image_tree, train_crop="center", flip=0.0)).mismatches
    assert str(mismatch).startswith("pixels: sample 22 (bee/09.jpg) differs by up to ")
    split = files(image_tree, train_crop="center", flip=0.0)
    fault = fault_of(batch=swapped_labels)  # of the ninth compared sample
    (mismatch,) = checked(split, num_samples=10).mismatches
    chosen = int(samples.chosen_ids(23, 10, 3)[8])
    assert (mismatch.field, mismatch.sample) == ("labels", chosen)
    assert str(mismatch).startswith(f"labels: sample {chosen} (bee/0{chosen - 13}.jpg) has 0, expected 1 (and 1 more)")


# ---- a GPU's decoder ---------------------------------------------------------------------------------------------


def darker(levels: int) -> Fault:
    return on_inputs(lambda inputs: (inputs.int() - levels).clamp(0).to(torch.uint8))


@pytest.mark.parametrize(
    ("decoder_levels", "levels", "status"),
    [
        (None, 3, "same work"),  # not measured: at most 4 on average
        (None, 5, "unlike work"),
        (0.4, 1, "same work"),  # measured: at most 0.4 + 1
        (0.4, 2, "unlike work"),
        (9.0, 3, "same work"),  # a large measured difference does not raise the limit
        (9.0, 5, "unlike work"),
    ],
)
def test_the_limit_of_a_gpus_decoder_is_the_measured_one(
    decoder_levels: float | None, levels: int, status: str, image_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(_config: LoaderConfig, split: Split, plan: EpochPlan, _device: Device) -> Wrong:
        loader = Wrong(darker(levels), split, plan)
        loader.capabilities = replace(loader.capabilities, decodes_on_device=True, decoder_levels=decoder_levels)
        return loader

    monkeypatch.setattr(loaders, "build", build)
    result = checked(files(image_tree, train_crop="center", flip=0.0))
    assert result.status.split(":")[0] == status, result
    limit = samples.mean_limit(decoder_levels)
    assert (result.mean_limit, limit) == (limit, {None: 4.0, 0.4: 1.4, 9.0: 4.0}[decoder_levels])
    assert result.mean_levels is not None
    assert levels - 0.5 < result.mean_levels <= levels  # black stays black
    if status == "same work":
        assert f"a GPU decoded: mean difference up to {result.mean_levels:.2f}, allowed {limit:g}" in str(result)
    else:
        assert f"the limit is {limit:g} on average" in result.status


# ---- what cannot be compared -----------------------------------------------------------------------------------


def test_the_result_says_what_is_not_compared(image_tree: Path) -> None:
    stream = Split(UserItems(Stream(), True, None, None, 2))
    assert checked(stream).status == "not checked: an iterable dataset has no ids"
    assert checked(arrays(image_tree), ReplayLoader()).status.startswith("not checked: replay is a ceiling")
    result = checked(Split(UserItems(Noise(), False, None, None, 2)))
    assert result.status == "same work"
    assert str(result).endswith("values not compared: the dataset returns different ones each time")


def test_which_samples_are_compared() -> None:
    assert samples.chosen_ids(1000, 8, 3).tolist() == [0, 143, 285, 428, 571, 714, 856, 999]
    assert len(samples.chosen_ids(1000, 9, 3)) == 10  # so that the last batch is incomplete
    assert samples.chosen_ids(6, None, 3).tolist() == [0, 1, 2, 3, 4, 5]
    assert samples.chosen_ids(6, 256, 3).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_small_set_is_compared_in_smaller_batches(image_tree: Path) -> None:
    assert checked(vectors(image_tree), batch_size=64).batch_size == 7
    assert checked(vectors(image_tree), batch_size=64, num_samples=2).batch_size == 1


# ---- the result ------------------------------------------------------------------------------------------------


def test_a_built_result_does_not_change() -> None:
    builder = ResultBuilder(num_samples=8, num_epochs=3, batch_size=4)
    builder.add_pixel_difference(1.0, 7.0, 0.3)
    builder.add_pixel_difference(0.5, 9.0, 0.2)
    before = builder.build()
    builder.add_mismatch("labels", "is wrong", 3)
    builder.add_mismatch("ids", "is missing", 5)
    builder.add_mismatch("labels", "is wrong too", 4)
    builder.add_p_value("flip", 0.5)
    after = builder.build()
    assert (before.status, dict(before.p_values)) == ("same work", {})
    assert (before.inside_levels, before.border_levels, before.mean_levels, before.mean_limit) == (1, 9, 0.3, None)
    assert after.mismatch_summary == "labels: is wrong (and 1 more); also ids"
    assert [mismatch.sample for mismatch in after.mismatches] == [3, 5]
    assert (builder.differs_in("ids", "shape"), builder.differs_in("shape")) == (True, False)
    assert list(after.as_dict()) == [
        "status",
        "line",
        "not_checked",
        "num_samples",
        "num_epochs",
        "batch_size",
        "num_draws",
        "inside_levels",
        "border_levels",
        "mean_levels",
        "mean_limit",
        "p_values",
        "notes",
        "mismatches",
    ]
    with pytest.raises(AttributeError, match="cannot assign"):
        after.num_draws = 3  # type: ignore[misc]


# ---- the tests of draws ----------------------------------------------------------------------------------------


def drawn(
    rng: np.random.Generator, num: int, low: float = 0.08, high: float = 1.0, bound: float = 4 / 3
) -> gradient_image.Draws:
    """The draws that `GradientImage.read` would return for crops with these bounds of a 4:3 gradient, without pixels.

    Crops that do not fit the image are left out.
    """
    area = 4 / 3 * rng.uniform(low, high, 2 * num)
    aspect = np.exp(rng.uniform(-np.log(bound), np.log(bound), 2 * num))
    width, height = np.sqrt(area * aspect), np.sqrt(area / aspect)
    fits = np.flatnonzero((width <= 4 / 3) & (height <= 1))[:num]
    width, height = width[fits] * 3 / 4, height[fits]
    left, top = rng.random(len(fits)) * (1 - width), rng.random(len(fits)) * (1 - height)
    edges = np.column_stack([left, left + width, top, top + height])
    return gradient_image.Draws(
        edges, rng.random(len(fits)) < 0.5, np.full(len(fits), float(gradient_image.BLUE)), 4 / 3
    )


def compared(one: gradient_image.Draws, other: gradient_image.Draws, seed: int) -> ParityResult:
    builder = ResultBuilder()
    draws.compare_crops(one, other, seed, builder)
    draws.compare_flips(one, 0.5, builder)
    return builder.build()


def test_false_alarms_are_rare() -> None:
    """At a level of 5 % the tests raise a false alarm in 5 %; at the level that is used, in none of these checks."""
    rng = np.random.default_rng(0)
    results = [compared(drawn(rng, 512), drawn(rng, 512), seed) for seed in range(150)]
    p_values = np.array([list(entry.p_values.values()) for entry in results])
    assert 0.02 < (p_values < 0.05).mean() < 0.08
    assert not any(entry.mismatches for entry in results)


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({"low": 0.2}, "crop area"),
        ({"high": 0.7}, "crop area"),
        ({"bound": 1.25}, "crop aspect"),
        ({"bound": 1.43}, "crop aspect"),
    ],
    ids=str,
)
def test_differences_that_1024_draws_detect(other: dict[str, float], field: str) -> None:
    rng = np.random.default_rng(0)
    results = [compared(drawn(rng, 1024, **other), drawn(rng, 1024), seed) for seed in range(20)]
    assert sum(field in {mismatch.field for mismatch in entry.mismatches} for entry in results) >= 19


def test_flips_by_the_exact_binomial() -> None:
    assert distribution.binomial_p(512, 1024, 0.5) == 1
    assert distribution.binomial_p(614, 1024, 0.5) < 1e-9  # 60 %
    assert distribution.binomial_p(2, 4, 0.25) == pytest.approx(2 * (6 * 9 + 4 * 3 + 1) / 256)
    assert (
        distribution.binomial_p(0, 9, 0.0),
        distribution.binomial_p(1, 9, 0.0),
        distribution.binomial_p(8, 9, 1.0),
    ) == (
        1,
        0,
        0,
    )


# ---- the gate of a run -----------------------------------------------------------------------------------------


def test_a_run_that_is_checked_first(
    make_config: Callable[..., TrainConfig], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "NUM_GRADIENTS", 32)
    config = make_config("measure=bare", "measure.parity=true", "epochs=1", "evaluate=false", "loader.num_workers=0")
    errors: list[Any] = []
    parity_files: list[Any] = []

    def record(context: RunContext, outcome: Outcome) -> None:
        parity_files.append(json.loads((context.folder / "parity.json").read_text()))
        errors.append(outcome.error)

    monkeypatch.setattr(run, "record", record)
    assert run.run(config, job.single(config, []), terminal).status == "FINISHED"
    assert parity_files[0]["status"] == "same work"
    assert any(line.startswith("parity    same work: 18 samples x 3 epochs") for line in terminal.said)
    fault = fault_of(batch=swapped_labels)
    monkeypatch.setattr(loaders, "build", lambda _config, split, plan, _device: Wrong(fault, split, plan))
    with pytest.raises(UserError, match=r"measure.parity=true: loader=native .* labels: sample 8 \(.*\.jpg\) has "):
        run.run(config, job.single(config, []), terminal)
    assert parity_files[1]["mismatches"][0]["field"] == "labels"
    assert isinstance(errors[1], UserError)
