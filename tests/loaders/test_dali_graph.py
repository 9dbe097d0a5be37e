"""The processor of every operator of DALI's graphs for a GPU. The graphs are composed, not built, so no GPU is needed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from nvidia.dali import fn

from loaderlab.config import DaliLoader
from loaderlab.data.spec import EncodedImages, OnError, Split
from loaderlab.loaders import dali_graph
from tests.loaders.test_contract import SPLITS

PIXEL_OPERATORS = {"Resize", "Crop", "Flip", "CropMirrorNormalize", "RandomResizedCrop"}
DECODERS = {"decoders__Image", "decoders__ImageRandomCrop"}
HOST_OPERATORS = {  # they see file names, headers and random numbers, never pixels
    "Cast",
    "DLTensorPythonFunctionImpl",
    "ExternalSource",
    "PeekImageShape",
    "PythonFunction",
    "Reshape",
    "_ArithmeticGenericOp",
    "_Shape",
    "_TensorSubscript",
    "io__file__Read",
    "random__Choice",
    "random__CoinFlip",
}
FOLLOWING_OPERATORS = {
    "Constant",
    "Reinterpret",
    "_conditional__Merge",
    "_conditional__Split",
}  # run where their input is


@dataclass(frozen=True)
class Composed:
    """A composed graph.

    Attributes:
        devices: kind of operator to the devices on which such operators run: cpu, mixed or gpu.
        outputs: devices of inputs, labels, ids and the flag ``within``.
        copies: the kinds of operators whose results are copied from the host to the GPU, sorted.
        decoders, readers: the arguments of each decoder, and of each operator that reads files, as text.
    """

    devices: dict[str, set[str]]
    outputs: list[str]
    copies: list[str]
    decoders: list[str]
    readers: list[str]

    def pixel_devices(self) -> set[str]:
        """The devices of the operators that change pixels."""
        return {device for kind in PIXEL_OPERATORS & self.devices.keys() for device in self.devices[kind]}


def composed(split: Split, decode: str = "cpu", device_id: int | None = 0, exact: bool = False) -> Composed:
    pipeline = dali_graph.compose(
        split, DaliLoader(), decode, lambda: (), batch_size=4, num_threads=1, device_id=device_id, seed=1, exact=exact
    )
    pipeline._build_graph()  # only collects the operators
    kinds = {operator.name: str(operator.spec).split("OpSpec for ")[1].split(":")[0] for operator in pipeline._ops}
    devices: dict[str, set[str]] = {}
    made: dict[str, tuple[str, str]] = {}  # name of a result to the device on which it is made, and its operator's kind
    for operator in pipeline._ops:
        kind = kinds[operator.name]
        devices.setdefault(kind, set()).add(str(operator.spec).split("device: ")[1].split()[0])
        made |= {output.name: (str(output.device), kind) for output in operator.outputs}
    nodes = [node for operator in pipeline._ops for node in operator.inputs] + pipeline._graph_outputs
    copied = {node.name: made[node.name][1] for node in nodes if str(node.device) != made[node.name][0]}
    return Composed(
        devices=devices,
        outputs=[str(node.device) for node in pipeline._graph_outputs],
        copies=sorted(copied.values()),
        decoders=[str(operator.spec) for operator in pipeline._ops if kinds[operator.name] in DECODERS],
        readers=[str(operator.spec) for operator in pipeline._ops if kinds[operator.name] == "io__file__Read"],
    )


IMAGES = ("files", "tar", "arrays")
CASES = [
    *itertools.product(IMAGES, ("cpu", "mixed"), ("center", "random"), ("device", "loader"), (False, True)),
    *itertools.product(("vectors", "user"), ("cpu",), ("center",), ("device",), (False,)),
]


def split_of(source: str, tree: Path, crop: str, normalize_on: str, skip: bool) -> Split:
    split = SPLITS[source](tree)
    if split.transform is None or split.normalization is None:
        return split
    return replace(
        split,
        transform=replace(split.transform, random_crop=crop == "random", flip=0.5),
        normalization=replace(split.normalization, on_device=normalize_on == "device"),
        on_error=OnError(skip=skip),
    )


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("source", "decode", "crop", "normalize_on", "skip"), CASES)
def test_every_operator_runs_where_its_input_is(
    source: str, decode: str, crop: str, normalize_on: str, skip: bool, exact: bool, image_tree: Path
) -> None:
    """After mixed decoding, and for arrays, every operator on pixels runs on the GPU, and only the labels are copied at the
    end. After decoding on the CPU, they run there, and the finished inputs are copied."""
    split = split_of(source, image_tree, crop, normalize_on, skip)
    graph = composed(split, decode, exact=exact)
    encoded = isinstance(split.source, EncodedImages)
    on_gpu = split.transform is not None and (decode == "mixed" or not encoded)
    assert graph.outputs == ["gpu", "gpu", "cpu", "cpu"]
    assert graph.pixel_devices() == ({"gpu" if on_gpu else "cpu"} if split.transform is not None else set())
    assert {device for kind in DECODERS & graph.devices.keys() for device in graph.devices[kind]} == (
        {decode} if encoded else set()
    )
    if normalize_on == "loader":
        last = "CropMirrorNormalize"
    else:
        last = "Resize" if encoded and decode == "cpu" and crop == "random" else "Flip"
    copied_inputs = {"arrays": "Reinterpret", "vectors": "ExternalSource", "user": "ExternalSource"}.get(source, last)
    assert graph.copies == sorted(["ExternalSource"] if encoded and on_gpu else ["ExternalSource", copied_inputs])
    for kind in HOST_OPERATORS & graph.devices.keys():
        assert graph.devices[kind] == {"cpu"}, kind
    assert graph.devices.keys() <= HOST_OPERATORS | PIXEL_OPERATORS | DECODERS | FOLLOWING_OPERATORS


@pytest.mark.parametrize(("source", "decode", "crop", "normalize_on", "skip"), CASES[::3])
def test_without_a_gpu_every_operator_runs_on_the_cpu(
    source: str, decode: str, crop: str, normalize_on: str, skip: bool, image_tree: Path
) -> None:
    graph = composed(split_of(source, image_tree, crop, normalize_on, skip), "cpu", device_id=None)
    assert graph.outputs == ["cpu"] * 4
    assert graph.copies == []
    assert set().union(*graph.devices.values()) == {"cpu"}


@pytest.mark.parametrize("crop", ["center", "random"])
def test_a_gpu_decodes_whole_images(crop: str, image_tree: Path) -> None:
    """Decoding only the crop fails on some GPUs: see `_crops` in dali_graph.py. On the CPU it saves time."""
    split = split_of("files", image_tree, crop, "device", False)
    assert {spec.split(":")[0] for spec in composed(split, "mixed").decoders} == {"OpSpec for decoders__Image"}
    kind = "decoders__ImageRandomCrop" if crop == "random" else "decoders__Image"
    assert {spec.split(":")[0] for spec in composed(split, "cpu").decoders} == {f"OpSpec for {kind}"}


def test_a_copy_in_the_wrong_place_is_detected(image_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resize = fn.resize
    monkeypatch.setattr(fn, "resize", lambda images, **options: resize(images.gpu(), **options))
    with pytest.raises(AssertionError, match="gpu"):
        test_every_operator_runs_where_its_input_is("files", "cpu", "center", "device", False, False, image_tree)


def test_dali_refuses_an_operator_that_is_not_where_its_input_is(
    image_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip = fn.flip
    monkeypatch.setattr(fn, "flip", lambda images, **options: flip(images, device="cpu", **options))
    with pytest.raises(RuntimeError, match='operator `nvidia.dali.fn.flip` is stored on incompatible device "gpu"'):
        composed(split_of("files", image_tree, "center", "device", False), "mixed")


def test_mixed_decoding_interpolates_chroma_as_the_cpu_does(image_tree: Path) -> None:
    """The CPU's decoder always interpolates, so it does not get the argument."""
    split = split_of("files", image_tree, "center", "device", False)
    (decoder,) = composed(split, "mixed").decoders
    assert "jpeg_fancy_upsampling: True" in decoder
    assert "hw_decoder_load: 0.65" in decoder
    (decoder,) = composed(split, "cpu").decoders
    assert "jpeg_fancy_upsampling" not in decoder
    assert "hw_decoder_load" not in decoder


def test_files_are_not_mapped(image_tree: Path) -> None:
    """If a mapped file is cut while it is read, the process ends with a bus error."""
    (reader,) = composed(split_of("files", image_tree, "center", "device", False)).readers
    assert "dont_use_mmap: True" in reader
