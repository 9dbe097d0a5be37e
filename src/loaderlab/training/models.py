"""Builds the model for the samples, preceded by normalisation if that happens on the device."""

from __future__ import annotations

import difflib
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from loaderlab.config import (
    CnnModel,
    CustomModel,
    FeedForwardModel,
    ModelConfig,
    TimmModel,
    UserError,
    choice,
    refuse,
)
from loaderlab.data.normalization import mean_and_std
from loaderlab.data.spec import DataSpec, Normalization
from loaderlab.device.random_states import random_states_kept
from loaderlab.system import user_code
from loaderlab.system.causes import described, reason, safe_text

TF32_IS_OFF = "TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled"
HUB = re.compile(r"(hf[-_]hub|local-dir):(?P<owner>[^/]*)/?(?P<model>.*)")  # sources other than timm's own list


class Normalize(nn.Module):
    """(N, C, H, W) uint8 on the device to float32 ``(x / 255 - mean) / std``, in the memory format of the model."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, normalization: Normalization, channels_last: bool) -> None:
        super().__init__()
        mean, std = mean_and_std(normalization, torch.device("cpu"))
        self.register_buffer("mean", (255 * mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("scale", (1 / (255 * std)).view(1, -1, 1, 1), persistent=False)
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        floats = images.to(torch.float32, memory_format=self._format)
        return (floats - self.mean) * self.scale


def feedforward(config: FeedForwardModel, num_features: int, num_classes: int) -> nn.Module:
    """Flatten, then linear layers with ReLU between them: (N, ...) to logits (N, num_classes)."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = num_features
    for hidden in config.hidden:
        layers += [nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, num_classes))


def cnn(config: CnnModel, channels: int, num_classes: int) -> nn.Module:
    """A strided stem, three stages of convolution, batch norm, ReLU and pooling (each twice as wide as the previous one), and a
    global average; returns logits (N, num_classes). For images of 8 pixels or more."""

    def stage(before: int, after: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]

    width = config.width
    layers = stage(channels, width, 2)
    for _ in range(3):
        layers += [*stage(width, 2 * width, 1), nn.MaxPool2d(2, ceil_mode=True)]
        width *= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


def from_timm(config: TimmModel, spec: DataSpec) -> nn.Module:
    """A timm model for these classes and channels, and for this image size if the architecture has a fixed one.

    Raises:
        UserError: timm has no such model, or cannot build it for these samples.
    """
    import timm

    if (hub := HUB.fullmatch(config.name)) is not None:
        raise _refuse_hub(config.name, hub)
    if not timm.is_model(config.name):
        near = difflib.get_close_matches(config.name, timm.list_models(), n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise UserError(f"model.name={config.name}: timm has no such model.{hint} timm.list_models() lists all names")
    channels, height, _ = _image_shape(spec, config.name)
    cfg = timm.get_pretrained_cfg(config.name)
    options: dict[str, Any] = {"img_size": height} if cfg is not None and cfg.fixed_input_size else {}
    try:
        model: nn.Module = timm.create_model(
            config.name,
            pretrained=config.pretrained,
            num_classes=len(spec.classes),
            in_chans=channels,
            **options,
        )
    except Exception as error:  # from timm, from the network or from huggingface_hub
        raise UserError(
            f"model.name={config.name}: timm cannot build it for {channels}x{height}x{height} samples: {reason(error)}"
        ) from error
    return model


def _refuse_hub(name: str, hub: re.Match[str]) -> UserError:
    """The error for a model name of a hub. Such a model needs a network, and may change or disappear."""
    why = "only timm's own model names are allowed, which need no network"
    if hub["owner"] == "timm":
        return refuse("model.name", name, why, f"model.name={hub['model']}", is_example=False)
    custom = f"model=custom model.target=timm:create_model '+model.options={{model_name: \"{name}\", num_classes: 10}}'"
    return refuse("model.name", name, why, custom)


def _image_shape(spec: DataSpec, name: str) -> tuple[int, int, int]:
    if len(spec.sample_shape) != 3:
        raise UserError(
            f"model={name}: needs images (C, H, W), but a sample of data={spec.name} is {spec.sample_shape}"
        )
    channels, height, width = spec.sample_shape
    return channels, height, width


def build(config: ModelConfig, spec: DataSpec, device: torch.device) -> nn.Module:
    """The model on the device, which maps the raw inputs of a batch to logits (N, num_classes); with ``model.step``, whatever the
    user's step needs.

    Raises:
        UserError: the model does not fit the samples.
    """
    num_classes = len(spec.classes)
    match config:
        case FeedForwardModel():
            model = feedforward(config, math.prod(spec.sample_shape), num_classes)
        case CnnModel():
            model = cnn(config, _image_shape(spec, "cnn")[0], num_classes)
        case TimmModel():
            model = from_timm(config, spec)
        case CustomModel():
            made = user_code.call("model.target", config.target, config.options)
            if not isinstance(made, nn.Module):
                raise UserError(
                    f"model.target={config.target}: returned a {type(made).__name__}, not a torch.nn.Module"
                )
            model = made
        case _:
            raise AssertionError(config)
    if config.channels_last:
        if len(spec.sample_shape) != 3:
            kind = "the batches are your own" if spec.whole_batches else f"a sample is {spec.sample_shape}"
            raise refuse(
                "model.channels_last",
                "true",
                f"needs images, but {kind}",
                "model.channels_last=false",
            )
        model = model.to(memory_format=torch.channels_last)
    normalization = spec.train.normalization
    if normalization is not None and normalization.on_device:
        model = nn.Sequential(Normalize(normalization, config.channels_last), model)
    model = model.to(device)
    if not isinstance(config, CustomModel) or config.step is None:  # the user's step is tried out on a real batch
        _try_out(model, config, spec, device)
    if config.compile:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own code warns at its first import
            model.compile()
        # torch 2.11 warns in the first step; `precision=` decides about TF32
        warnings.filterwarnings("ignore", TF32_IS_OFF, UserWarning, module=r"torch\._inductor\.")
    return model


def _try_out(model: nn.Module, config: ModelConfig, spec: DataSpec, device: torch.device) -> None:
    """Runs a forward pass of two blank samples in evaluation mode and in training mode, so that a model that does not fit is
    refused before the run starts."""
    model.eval()
    _refuse_other_than_logits(_forward(model, config, spec, device), config, spec, "")
    with state_kept(model, device):
        model.train()
        logits = _forward(model, config, spec, device)
    _refuse_other_than_logits(logits, config, spec, " in training mode")


def _forward(model: nn.Module, config: ModelConfig, spec: DataSpec, device: torch.device) -> Any:
    batch = torch.zeros(2, *spec.sample_shape, dtype=getattr(torch, spec.sample_dtype), device=device)
    try:
        with torch.no_grad():
            return model(batch)
    except user_code.FAILURES as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        if is_out_of_memory(error):
            raise torch.OutOfMemoryError(f"cuDNN: {reason(error)}") from error
        mode = " in training mode" if model.training else ""
        raise UserError(
            f"model={choice(config)}: fails on a batch {tuple(batch.shape)} {spec.sample_dtype} of data={spec.name}{mode}: "
            f"{described(error)}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that the device has no memory left. torch and cuDNN use different words for it."""
    text = safe_text(error)
    return isinstance(error, torch.OutOfMemoryError) or "find an engine" in text or "CUDNN_STATUS_ALLOC" in text


def _refuse_other_than_logits(logits: Any, config: ModelConfig, spec: DataSpec, mode: str) -> None:
    """Raises:
    UserError: the model does not return one logit per class for each of two samples.
    """
    num_classes = len(spec.classes)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        auxiliary = ". For torchvision models with auxiliary heads, set: aux_logits=false" if mode else ""
        raise UserError(
            f"model={choice(config)}: returns {got}{mode} for a batch of 2; logits (2, {num_classes}) are needed, one per "
            f"class{auxiliary}"
        )


@contextmanager
def state_kept(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Restores a model's buffers (such as BatchNorm statistics), its mode and the random states at the end."""
    training = model.training
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if not is_lazy(buffer)
    ]
    try:
        with random_states_kept(device):
            yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                buffer.copy_(value)
                setattr(module, name, buffer)  # forward may have replaced the buffer
        model.train(training)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
