"""Settings of the model, the precision and the optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from loaderlab.config.base import MISSING, refuse, setting


@dataclass
class ModelConfig:
    """The model that is trained."""

    channels_last: bool = setting(False, "channels-last memory format of images and weights (images only)")
    compile: bool = setting(False, "compile the model with torch.compile")


@dataclass
class FeedForwardModel(ModelConfig):
    """A fully connected network."""

    name: ClassVar[str] = "feedforward"
    hidden: list[int] = setting([512, 512], "widths of the hidden layers")

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise refuse("model.hidden", self.hidden, "every width must be at least 1", "'model.hidden=[512,512]'")


@dataclass
class CnnModel(ModelConfig):
    """A small convolutional network."""

    name: ClassVar[str] = "cnn"
    channels_last: bool = setting(True, "channels-last memory format of images and weights")
    width: int = setting(8, "channels of the first stage; each of the three later stages has twice as many", at_least=1)


@dataclass
class TimmModel(ModelConfig):
    """A model of timm."""

    name: str = setting(MISSING, "name of a timm model, for example resnet50")
    pretrained: bool = setting(False, "start from published weights (downloads them)")


@dataclass
class CustomModel(ModelConfig):
    """Your own module, and with ``step`` your own task.

    With ``step``, a batch is what ``data.collate`` returns, on the device: ``step(model, batch)`` returns the loss (a tensor of one
    number, with a graph) or ``(loss, metrics)``; the metrics are a dict of numbers, which are recorded as ``task/NAME``. It must not
    change the batch in place. ``evaluate(model, batch)`` is called in evaluation mode and without gradients. It returns a dict of means
    over the batch's samples; their means over all validation samples are recorded as ``val/NAME``. With a data set of loaderlab, a
    batch is ``(inputs, targets)``.
    """

    name: ClassVar[str] = "custom"
    target: str = setting(MISSING, "package.module:function that returns a torch.nn.Module")
    options: dict[str, Any] = setting({}, "keyword arguments for the function")
    step: str | None = setting(
        None,
        "package.module:function, called as step(model, batch): it returns the loss, or (loss, metrics); null: the cross entropy of "
        "the model's logits",
    )
    evaluate: str | None = setting(
        None,
        "package.module:function, called as evaluate(model, batch): it returns a dict of numbers, each a mean over the batch; null: "
        "with model.step, its mean loss",
    )


@dataclass
class PrecisionConfig:
    """The arithmetic of the training step."""

    name: str = setting(MISSING, "arithmetic of the training step", choices=("fp32", "tf32", "bf16", "fp16"))


@dataclass
class OptimizerConfig:
    """The optimizer and the learning rate's schedule."""

    lr: float = setting(1e-3, "peak learning rate", at_least=0)
    weight_decay: float = setting(0.0, "weight decay", at_least=0)
    schedule: str = setting(
        "cosine",
        "learning rate after the warm-up: cosine to 0, linear to 0, or constant",
        choices=("cosine", "linear", "constant"),
    )
    warmup_steps: int = setting(0, "optimizer updates over which the learning rate rises linearly", at_least=0)


@dataclass
class SgdOptimizer(OptimizerConfig):
    """Stochastic gradient descent with momentum."""

    name: ClassVar[str] = "sgd"
    momentum: float = setting(0.9, "momentum", at_least=0)
    nesterov: bool = setting(False, "Nesterov momentum")

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise refuse("optimizer.nesterov", "true", "needs a momentum above 0", "optimizer.momentum=0.9")


@dataclass
class AdamWOptimizer(OptimizerConfig):
    """AdamW."""

    name: ClassVar[str] = "adamw"
    betas: list[float] = setting([0.9, 0.999], "decay rates of the first and second moments")

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise refuse(
                "optimizer.betas",
                self.betas,
                "must be two numbers of at least 0 and below 1",
                "'optimizer.betas=[0.9,0.999]'",
            )
