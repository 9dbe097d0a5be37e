"""What is trained: built for the declared samples, with normalisation in front of it where that happens on the device."""

from __future__ import annotations

import difflib
import math
import warnings
from typing import Any

import torch
from torch import nn

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
from loaderlab.system import user_code


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
    """A strided stem and three stages of convolution, batch norm, ReLU and pooling, each twice as wide as the one
    before; global average; logits (N, num_classes). For images of 8 pixels and more."""

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
    """A model of timm for these classes, channels and, where the architecture fixes it, image size.

    Raises:
        UserError: timm has no such model, or does not build it for these samples.
    """
    import timm

    if not timm.is_model(config.name):
        near = difflib.get_close_matches(config.name, timm.list_models(), n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise UserError(f"model.name={config.name}: timm has no such model.{hint} timm.list_models() gives all names")
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
    except (AssertionError, RuntimeError, OSError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"model.name={config.name}: timm does not build it for {channels}x{height}x{height} samples: {reason}"
        ) from error
    return model


def _image_shape(spec: DataSpec, name: str) -> tuple[int, int, int]:
    if len(spec.sample_shape) != 3:
        raise UserError(f"model={name}: needs images (C, H, W); a sample of data={spec.name} is {spec.sample_shape}")
    channels, height, width = spec.sample_shape
    return channels, height, width


def build(config: ModelConfig, spec: DataSpec, device: torch.device) -> nn.Module:
    """The model on the device: raw inputs of a batch to logits (N, num_classes).

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
                raise UserError(f"model.target={config.target}: gave a {type(made).__name__}, not a torch.nn.Module")
            model = made
        case _:
            raise AssertionError(config)
    if config.channels_last:
        if len(spec.sample_shape) != 3:
            raise refuse(
                "model.channels_last",
                "true",
                f"needs images; a sample is {spec.sample_shape}",
                "model.channels_last=false",
            )
        model = model.to(memory_format=torch.channels_last)
    normalization = spec.train.normalization
    if normalization is not None and normalization.on_device:
        model = nn.Sequential(Normalize(normalization, config.channels_last), model)
    model = model.to(device)
    _try_out(model, config, spec, device)
    if config.compile:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch's own parts, at its first import
            model.compile()
    return model


def _try_out(model: nn.Module, config: ModelConfig, spec: DataSpec, device: torch.device) -> None:
    """A forward pass of two blank samples: a model that does not fit is told of before anything starts."""
    batch = torch.zeros(2, *spec.sample_shape, dtype=getattr(torch, spec.sample_dtype), device=device)
    model.eval()
    try:
        with torch.no_grad():
            logits = model(batch)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if "find an engine" in str(error) or "CUDNN_STATUS_ALLOC" in str(
            error
        ):  # cuDNN's way to say that memory is short
            raise torch.OutOfMemoryError(f"cuDNN: {str(error).splitlines()[0]}") from error
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"model={choice(config)}: does not take a batch {tuple(batch.shape)} {spec.sample_dtype} of data={spec.name}: {reason}"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, len(spec.classes)):
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise UserError(
            f"model={choice(config)}: for a batch of 2 it gives {found}; logits (2, {len(spec.classes)}) are needed, one a class"
        )


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
