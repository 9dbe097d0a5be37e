"""The effective precision is observed with a product and a convolution, also where only one of them uses TF32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from loaderlab.config import PrecisionConfig, UserError
from loaderlab.device.cpu import Cpu
from loaderlab.device.cuda import Cuda
from loaderlab.training import precision, rounding
from loaderlab.training.precision import Precision
from loaderlab.training.rounding import Observed, observe_convolution, observe_product

CPU, GPU = Cpu(), Cuda()
Operation = Callable[..., torch.Tensor]


def tf32(values: torch.Tensor) -> torch.Tensor:
    """Float32 values with 10 bits of mantissa, rounded to nearest as tensor cores do."""
    return ((values.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def with_tf32(operation: Operation) -> Operation:
    return lambda values, factors, **options: operation(tf32(values), tf32(factors), **options)


def with_errors(operation: Operation) -> Operation:
    """The operation with the rounding errors of Winograd's algorithm."""
    return lambda values, factors, **options: operation(values, factors, **options) * (1 + 2**-22)


@pytest.fixture(autouse=True)
def flags_restored() -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "SIZE_ON_CPU", 16)
    monkeypatch.setattr(rounding, "CONVOLUTION", (2, 8, 5, 5))


@pytest.mark.usefixtures("small")
def test_tf32_is_seen_in_each_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    full, cut = Observed(torch.float32, rounded=False), Observed(torch.float32, rounded=True)
    assert (observe_product(CPU), observe_convolution(CPU)) == (full, full)
    convolve = torch.nn.functional.conv2d
    monkeypatch.setattr(torch.nn.functional, "conv2d", with_errors(convolve))
    assert observe_convolution(CPU) == full, "another algorithm in full precision"
    monkeypatch.setattr(torch.nn.functional, "conv2d", with_tf32(convolve))
    assert (observe_product(CPU), observe_convolution(CPU)) == (full, cut)
    monkeypatch.setattr(torch.Tensor, "__matmul__", with_tf32(torch.mm))
    assert observe_product(CPU) == cut


@pytest.mark.usefixtures("small")
def test_autocast_is_seen() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert observe_product(CPU) == observe_convolution(CPU) == Observed(torch.bfloat16, rounded=True)


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, *, product: bool, convolution: bool) -> None:
    """Lets `Precision` run on a GPU that rounds the factors of these operations."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(precision, "observe_product", lambda device: Observed(torch.float32, product))
    monkeypatch.setattr(precision, "observe_convolution", lambda device: Observed(torch.float32, convolution))
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: torch.GradScaler("cpu", enabled=enabled))


@pytest.mark.parametrize(
    ("name", "product", "convolution", "recorded"),
    [
        ("fp32", False, False, {"tf32": "off"}),
        ("tf32", True, True, {"tf32": "on"}),
        ("tf32", True, False, {"tf32": "on", "tf32_convolution": "off"}),  # cuDNN's choice
    ],
)
def test_what_is_recorded_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, name: str, product: bool, convolution: bool, recorded: dict[str, str]
) -> None:
    on_a_gpu(monkeypatch, product=product, convolution=convolution)
    in_force = Precision(PrecisionConfig(name), GPU).in_force
    assert in_force == {"matmul_dtype": "float32", **recorded, "grad_scaler": "off"}


@pytest.mark.parametrize(
    ("name", "product", "convolution", "reason"),
    [
        ("fp32", True, False, "a test product is float32 with fewer than 24 bits"),
        ("fp32", False, True, "a test convolution is float32 with fewer than 24 bits"),
        ("tf32", False, True, "a test product is float32 with all 24 bits"),
    ],
)
def test_a_precision_that_is_not_in_effect_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, name: str, product: bool, convolution: bool, reason: str
) -> None:
    on_a_gpu(monkeypatch, product=product, convolution=convolution)
    with pytest.raises(UserError, match=f"precision={name}: is not in effect: {reason}"):
        Precision(PrecisionConfig(name), GPU)


def test_a_convolution_without_tf32_is_an_error_if_the_flag_was_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gpu(monkeypatch, product=True, convolution=False)
    monkeypatch.setattr(Precision, "_set_flags", lambda self: None)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    with pytest.raises(UserError, match="a test convolution is float32 with all 24 bits"):
        Precision(PrecisionConfig("tf32"), GPU)


@pytest.mark.gpu
def test_a_gpu_uses_tf32_where_it_is_allowed() -> None:
    assert "tf32_convolution" not in Precision(PrecisionConfig("tf32"), GPU).in_force
    assert "tf32_convolution" not in Precision(PrecisionConfig("fp32"), GPU).in_force
