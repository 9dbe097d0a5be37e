"""The models, and the precision of training."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from loaderlab.config import (
    CnnModel,
    CustomModel,
    FeedForwardModel,
    ModelConfig,
    PrecisionConfig,
    TimmModel,
    TransformConfig,
    UserError,
)
from loaderlab.data.spec import DataSpec, ImageArrays, Split, Vectors, transforms
from loaderlab.device.cpu import Cpu
from loaderlab.device.cuda import Cuda
from loaderlab.training import models
from loaderlab.training.precision import Precision

CPU = torch.device("cpu")


def images(size: int = 32, channels: int = 3) -> DataSpec:
    config = (
        TransformConfig(image_size=size) if channels == 3 else TransformConfig(image_size=size, mean=[0.5], std=[0.5])
    )
    transform, _, normalization = transforms(config)
    source = ImageArrays(np.zeros((2, size, size, channels), np.uint8), np.zeros(2, np.int64))
    split = Split(source, transform, normalization)
    return DataSpec("images", split, None, ("a", "b", "c"), (channels, size, size), "uint8", "memory", "")


def vectors() -> DataSpec:
    split = Split(Vectors(np.zeros((2, 6), np.float32), np.zeros(2, np.int64)))
    return DataSpec("vectors", split, None, ("a", "b", "c"), (6,), "float32", "memory", "")


def custom(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width))


def narrow() -> nn.Module:
    return nn.Linear(7, 3)


def no_module() -> int:
    return 3


@pytest.mark.parametrize(
    "config",
    [
        CnnModel(),
        CnnModel(channels_last=False, width=4),
        FeedForwardModel(hidden=[8]),
        FeedForwardModel(hidden=[]),
        TimmModel(name="resnet18"),
        TimmModel(name="resnet18", channels_last=True),
        TimmModel(name="vit_tiny_patch16_224"),
        CustomModel(target=f"{__name__}:custom", options={"width": 3}),
    ],
    ids=str,
)
def test_batch_to_logits(config: ModelConfig) -> None:
    model = models.build(config, images(), CPU)
    batch = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    assert model(batch).shape == (2, 3)


@pytest.mark.parametrize("size", [8, 9, 28, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_cnn_takes_images_of_any_size(size: int, channels: int) -> None:
    assert models.build(CnnModel(), images(size, channels), CPU)(
        torch.zeros(2, channels, size, size, dtype=torch.uint8)
    ).shape == (2, 3)


def test_vectors_are_used_unchanged() -> None:
    model = models.build(FeedForwardModel(hidden=[4]), vectors(), CPU)
    assert model(torch.zeros(2, 6)).shape == (2, 3)
    assert models.num_parameters(model) == 6 * 4 + 4 + 4 * 3 + 3


def test_normalisation_in_front_is_the_declared_one() -> None:
    spec = images()
    assert spec.train.normalization is not None
    front = models.Normalize(spec.train.normalization, channels_last=False)
    batch = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    mean, std = (
        torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1),
        torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
    )
    assert torch.allclose(front(batch), (batch / 255 - mean) / std, atol=1e-5)
    assert front(batch).is_contiguous()
    assert models.Normalize(spec.train.normalization, True)(batch).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("config", "spec", "message"),
    [
        (TimmModel(name="resnet51"), images(), "Did you mean resnet5"),
        (TimmModel(name="resnet18"), vectors(), "needs images"),
        (TimmModel(name="vit_tiny_patch16_224"), images(8), "vit_tiny_patch16_224"),
        (
            CustomModel(target=f"{__name__}:custom", options={"width": 4}),
            images(),
            r"returns \(2, 4\) for a batch of 2; logits \(2, 3\)",
        ),
        (CustomModel(target=f"{__name__}:narrow"), images(), r"fails on a batch \(2, 3, 32, 32\)"),
        (CnnModel(), vectors(), "needs images"),
        (CustomModel(target=f"{__name__}:no_module"), images(), "not a torch.nn.Module"),
        (CustomModel(target=f"{__name__}:custom", options={"nosuch": 1}), images(), "unexpected keyword"),
        (CustomModel(target="no.such:thing"), images(), "importing no.such failed"),
        (FeedForwardModel(channels_last=True), vectors(), "model.channels_last"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(config: ModelConfig, spec: DataSpec, message: str) -> None:
    with pytest.raises(UserError, match=message):
        models.build(config, spec, CPU)


def test_precisions_of_a_cpu() -> None:
    assert Precision(PrecisionConfig(name="fp32"), Cpu()).in_force == {
        "matmul_dtype": "float32",
        "tf32": "off",
        "grad_scaler": "off",
    }
    assert Precision(PrecisionConfig(name="bf16"), Cpu()).in_force["matmul_dtype"] == "bfloat16"
    assert Precision(PrecisionConfig(name="fp16"), Cpu()).in_force["grad_scaler"] == "on"
    with pytest.raises(UserError, match="precision=tf32: needs an NVIDIA GPU"):
        Precision(PrecisionConfig(name="tf32"), Cpu())


def test_a_precision_that_is_not_in_effect_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Precision, "autocast", lambda self: torch.autocast("cpu", enabled=False))
    with pytest.raises(UserError, match="is not in effect"):
        Precision(PrecisionConfig(name="bf16"), Cpu())


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16", "fp16"])
def test_precisions_of_a_gpu(name: str) -> None:
    in_force = Precision(PrecisionConfig(name=name), Cuda()).in_force
    assert in_force["tf32"] == ("on" if name == "tf32" else "off")
    assert in_force["grad_scaler"] == ("on" if name == "fp16" else "off")


def test_compile_gives_the_same() -> None:
    torch.manual_seed(0)
    plain = models.build(FeedForwardModel(hidden=[4]), vectors(), CPU)
    torch.manual_seed(0)
    compiled = models.build(FeedForwardModel(hidden=[4], compile=True), vectors(), CPU)
    inputs = torch.randn(2, 6)
    assert torch.allclose(plain(inputs), compiled(inputs), atol=1e-6)
    assert plain.state_dict().keys() == compiled.state_dict().keys()  # a checkpoint fits with and without


class TwoHeads(nn.Module):
    """Also returns auxiliary logits in training mode, like torchvision's googlenet."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        logits: torch.Tensor = self.body(inputs)
        return (logits, logits) if self.training else logits


class OneHead(TwoHeads):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(inputs + torch.rand_like(inputs))
        return logits


class FailsInTraining(TwoHeads):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise KeyError("targets")
        logits: torch.Tensor = self.body(inputs)
        return logits


class Leaves(TwoHeads):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        raise SystemExit(0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "TwoHeads",
            r"returns a tuple in training mode for a batch of 2; logits \(2, 3\) are needed.*: aux_logits=false",
        ),
        (
            "FailsInTraining",
            r"fails on a batch \(2, 6\) float32 of data=vectors in training mode: KeyError: 'targets'",
        ),
        ("Leaves", r"fails on a batch \(2, 6\) float32 of data=vectors: SystemExit: 0"),
    ],
)
def test_a_model_is_tried_in_training_mode_too(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        models.build(CustomModel(target=f"{__name__}:{name}"), vectors(), CPU)
    assert "\n" not in str(error.value)


def test_trying_a_model_changes_neither_its_statistics_nor_the_random_states() -> None:
    torch.manual_seed(3)
    fresh = OneHead()
    torch.rand(12)  # the trial in eval mode
    after = torch.rand(1)
    torch.manual_seed(3)
    built = models.build(CustomModel(target=f"{__name__}:OneHead"), vectors(), CPU)
    assert torch.equal(torch.rand(1), after)
    assert {name: value.tolist() for name, value in built.state_dict().items()} == {
        name: value.tolist() for name, value in fresh.state_dict().items()
    }


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("hf-hub:timm/resnet18.a1_in1k", "Type: model.name=resnet18.a1_in1k"),
        ("hf_hub:timm/resnet18.a1_in1k", "Type: model.name=resnet18.a1_in1k"),
        ("hf-hub:someone/mine", """'+model.options={model_name: "hf-hub:someone/mine", num_classes: 10}'"""),
        ("local-dir:/nosuch", """'+model.options={model_name: "local-dir:/nosuch", num_classes: 10}'"""),
    ],
)
def test_names_of_a_hub_are_refused_with_an_override(name: str, advice: str) -> None:
    with pytest.raises(UserError) as error:
        models.build(TimmModel(name=name), images(), CPU)
    assert str(error.value).startswith(
        f"model.name={name}: only timm's own model names are allowed, which need no network. Type"
    )
    assert advice in str(error.value)


def test_a_buffer_that_forward_replaces_is_restored() -> None:
    """A memory bank grows with each batch, so its shape differs after the trial."""

    class Bank(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("bank", torch.zeros(1, 2), persistent=False)

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            self.bank: torch.Tensor = torch.cat([self.bank, batch])
            return batch

    model = Bank()
    with models.state_kept(model, torch.device("cpu")):
        model(torch.ones(3, 2))
    assert model.bank.tolist() == [[0.0, 0.0]]
    assert not model.state_dict()


def test_compiling_ignores_only_the_warning_about_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.11 warns with `warnings.warn`, torch 2.15 logs the same text."""
    from torch._inductor import compile_fx
    from torch._inductor.fx_passes import fuse_attention

    def warn(text: str, module: str = "torch._inductor.compile_fx") -> None:
        warnings.warn_explicit(text, UserWarning, "compile_fx.py", 322, module=module)

    text = f"{models.TF32_IS_OFF}. Consider setting"
    models.build(FeedForwardModel(hidden=[4]), vectors(), CPU)
    with pytest.raises(UserWarning, match="TensorFloat32"):
        warn(text)
    models.build(FeedForwardModel(hidden=[4], compile=True), vectors(), CPU)
    warn(text)
    warn(text, "torch._inductor.fx_passes.fuse_attention")
    for other in ("TensorFloat32 is gone", "Torchinductor does not support complex operators"):
        with pytest.raises(UserWarning, match=other):
            warn(other)
    with pytest.raises(UserWarning, match="TensorFloat32"):
        warn(text, "tests.other")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    for module in (compile_fx, fuse_attention):
        module._warn_tf32_disabled.__wrapped__()  # without its cache
