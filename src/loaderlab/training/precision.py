"""The arithmetic of the step: sets it, and checks with a test product and a test convolution that it is in effect."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from loaderlab.config import PrecisionConfig, UserError, refuse
from loaderlab.device.base import Device
from loaderlab.system import machine
from loaderlab.training.rounding import Observed, observe_convolution, observe_product

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def unsupported(config: PrecisionConfig, device: Device) -> UserError | None:
    """The error for a precision that the device does not support; None if it does."""
    capability = device.capabilities.compute_capability
    if capability is None:
        if config.name == "tf32":
            return refuse(
                "precision",
                "tf32",
                "needs an NVIDIA GPU (Ampere or newer), but this run is on the CPU",
                "precision=fp32",
            )
        return None
    if config.name in ("tf32", "bf16") and capability < (8, 0):
        return refuse(
            "precision",
            config.name,
            f"needs compute capability 8.0, but {device.name} has {capability[0]}.{capability[1]}",
            "precision=fp16",
        )
    return None


def unsuitable(config: PrecisionConfig, device: Device, *, ladder: bool) -> UserError | None:
    """The reason why a study leaves out a precision that the device supports only slowly; None if it does not."""
    if device.capabilities.uses_host_cores and config.name == "bf16" and ladder and not machine.cpu_has_bf16():
        return refuse(
            "precision",
            "bf16",
            "this processor has no bf16 arithmetic and emulates it, several times slower than fp32",
            "study=loader_precision, to see by how much",
        )
    if device.capabilities.uses_host_cores and config.name == "fp16":
        return refuse(
            "precision",
            "fp16",
            "is several times slower than fp32 on a CPU, so studies leave it out",
            "precision=fp16, without a study",
        )
    return None


class Precision:
    """The precision of one run.

    Args:
        config: fp32, tf32, bf16 or fp16.
        device: the device of the step.

    Raises:
        UserError: the device does not support the precision.
    """

    def __init__(self, config: PrecisionConfig, device: Device) -> None:
        self.name, self._device = config.name, device
        self._dtype = AUTOCAST.get(config.name)
        if (refused := unsupported(config, device)) is not None:
            raise refused
        self._set_flags()
        self.scaler = torch.amp.GradScaler(device.torch_device.type, enabled=config.name == "fp16")
        self.in_force = self._observe()

    def autocast(self) -> AbstractContextManager[object]:
        """A context for the forward pass and the loss. It does nothing for fp32 and tf32."""
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device.torch_device.type, dtype=self._dtype)

    def _set_flags(self) -> None:
        """Sets torch's older flags, which also set the newer ones. If only the newer ones are set, reading the older ones raises,
        and the compiler of some torch versions reads them (pytorch issue 166387)."""
        torch.set_float32_matmul_precision("high" if self.name == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = self.name == "tf32"

    def _observe(self) -> dict[str, str]:
        """The effective precision, observed with a product, and on CUDA also with a convolution.

        Raises:
            UserError: the precision is not in effect.
        """
        with torch.no_grad(), self.autocast():
            product = self._checked("product", observe_product(self._device))
            convolution = product
            if not self._device.capabilities.uses_host_cores:  # on a CPU, no flag of torch distinguishes them
                convolution = self._checked("convolution", observe_convolution(self._device))
        tf32 = {"tf32": "on" if self.name == "tf32" else "off"}
        if convolution.rounded != product.rounded:
            tf32["tf32_convolution"] = "on" if convolution.rounded else "off"
        return {
            "matmul_dtype": str(product.dtype).removeprefix("torch."),
            **tf32,
            "grad_scaler": "on" if self.scaler.is_enabled() else "off",
        }

    def _checked(self, operation: str, observed: Observed) -> Observed:
        """The observed arithmetic of an operation, if it is the one of this precision."""
        rounds = self.name != "fp32"
        # cuDNN may prefer a convolution in full precision although TF32 is allowed: this is recorded, and no error
        is_free = operation == "convolution" and self.name == "tf32" and torch.backends.cudnn.allow_tf32
        if observed.dtype != (self._dtype or torch.float32) or (observed.rounded != rounds and not is_free):
            raise UserError(
                f"precision={self.name}: is not in effect: a test {operation} is {observed}. "
                "Another library may have changed torch's flags"
            )
        return observed
