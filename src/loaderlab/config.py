"""The schema of every setting: its type, its default, one line of documentation, and what contradicts what.

YAML under ``conf/`` chooses values; these plain dataclasses own the rest. `TrainConfig` is what the code below
the entry points sees: no ``DictConfig`` travels further. Nothing here imports torch, so ``--help`` stays quick.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING

AUTO = "auto"
PROJECT = Path(__file__).resolve().parents[2]  # conf/, mlruns/, data/


class UserError(ValueError):
    """Something that the user can mend. Its text says what was found, what is allowed and what to type."""


def setting(
    default: Any,
    doc: str,
    *,
    at_least: float | None = None,
    choices: tuple[Any, ...] = (),
    kind: type | None = None,
) -> Any:
    """A dataclass field with its line of documentation and the simplest bounds on its value.

    A knob that may be ``auto`` is annotated ``Any`` and says here of what ``kind`` it is otherwise: OmegaConf 2.3
    fails to merge a union inside a group whose choice is still open.
    """
    metadata = {"doc": doc, "at_least": at_least, "choices": choices, "kind": kind}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def refuse(name: str, got: Any, allowed: str, example: str) -> UserError:
    """The one form of a refused value: field, value, what is allowed, the override to type."""
    return UserError(f"{name}={got}: {allowed}. Type for example: {example}")


def is_group(config: Any) -> bool:
    """Whether a value of the tree is itself a dataclass of settings."""
    return is_dataclass(config) and not isinstance(config, type)


def check_bounds(config: Any, prefix: str = "") -> None:
    """Holds every field of a dataclass tree to the bounds that `setting` declared.

    Raises:
        UserError: naming the first field that is out of bounds.
    """
    for entry in fields(config):
        value, name = getattr(config, entry.name), f"{prefix}{entry.name}"
        if is_group(value):
            check_bounds(value, f"{name}.")
            continue
        choices, at_least = entry.metadata.get("choices", ()), entry.metadata.get("at_least")
        if value == AUTO and entry.default == AUTO:
            continue
        kind = entry.metadata.get("kind")
        if kind is not None and type(value) is not kind:
            example = "true" if kind is bool else 2
            allowed = "true, false or auto" if kind is bool else "a whole number or auto"
            raise refuse(name, value, f"must be {allowed}", f"{name}={example}")
        if choices and value not in choices:
            raise refuse(name, value, f"must be one of {', '.join(map(str, choices))}", f"{name}={choices[0]}")
        if at_least is not None and value is not None:
            auto = " or auto" if entry.default == AUTO else ""
            if value < at_least:
                raise refuse(name, value, f"must be at least {at_least:g}{auto}", f"{name}={at_least:g}")


# ---- data ------------------------------------------------------------------------------------------------------


@dataclass
class TransformConfig:
    """How a decoded image becomes a sample. Every loader builds the same from this declaration."""

    image_size: int = setting(64, "height and width of a sample, pixels", at_least=8)
    train_crop: str = setting(
        "random_resized",
        "training crop: random_resized, or center for no augmentation",
        choices=("random_resized", "center"),
    )
    scale: list[float] = setting([0.08, 1.0], "random_resized: bounds of the crop's share of the image's area")
    ratio: list[float] = setting([0.75, 1.3333], "random_resized: bounds of the crop's width / height")
    flip: float = setting(0.5, "probability of a horizontal flip in training", at_least=0)
    resize: int | None = setting(
        None, "center: length of the shorter side before the crop, pixels (null: image_size)", at_least=8
    )
    mean: list[float] = setting([0.485, 0.456, 0.406], "per channel, subtracted after scaling to 0..1")
    std: list[float] = setting([0.229, 0.224, 0.225], "per channel, divided by")
    normalize_on: str = setting(
        "device",
        "where uint8 becomes normalised float32: on the device, or by the loader",
        choices=("device", "loader"),
    )

    def __post_init__(self) -> None:
        for name in ("scale", "ratio"):
            bounds = getattr(self, name)
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
                raise refuse(
                    f"data.transform.{name}", bounds, "must be two positive numbers, the smaller first",
                    f"'data.transform.{name}=[0.5,1.0]'",
                )  # fmt: skip
        if self.scale[1] > 1:
            raise refuse(
                "data.transform.scale",
                self.scale,
                "is a share of the image: at most 1",
                "'data.transform.scale=[0.5,1.0]'",
            )
        if self.flip > 1:
            raise refuse("data.transform.flip", self.flip, "is a probability: 0 to 1", "data.transform.flip=0.5")
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or min(self.std, default=0) <= 0:
            raise refuse(
                "data.transform.mean/std", f"{self.mean}/{self.std}", "need one number a channel (1 or 3), std above 0",
                "'data.transform.mean=[0.5,0.5,0.5]' 'data.transform.std=[0.5,0.5,0.5]'",
            )  # fmt: skip
        if self.resize is not None and self.resize < self.image_size:
            raise refuse(
                "data.transform.resize", self.resize, f"must be at least image_size ({self.image_size})",
                f"data.transform.resize={self.image_size}",
            )  # fmt: skip


@dataclass
class DataConfig:
    """What the samples are. Knows no loader."""

    name: ClassVar[str] = "data"
    images: ClassVar[bool] = True


@dataclass
class DigitsData(DataConfig):
    name: ClassVar[str] = "digits"
    root: str = setting("data/digits", "folder under which the JPEG tree is written")
    image_px: int = setting(160, "height and width of the JPEG files, pixels", at_least=8)
    subsampling: str = setting(
        "444", "chroma subsampling of the JPEG files: 444, or 420 as cameras write", choices=("444", "420")
    )
    quality: int = setting(90, "JPEG quality, 1 to 95", at_least=1)
    transform: TransformConfig = setting(TransformConfig, "image to sample")

    def __post_init__(self) -> None:
        if self.quality > 95:
            raise refuse("data.quality", self.quality, "must be 1 to 95", "data.quality=90")


@dataclass
class ImageFolderData(DataConfig):
    name: ClassVar[str] = "imagefolder"
    root: str = setting(MISSING, "folder with one sub-folder a class: the training samples")
    val_root: str | None = setting(None, "the same for validation; null: a seeded split of root")
    val_fraction: float = setting(0.2, "share of each class held back for validation when val_root is null", at_least=0)
    split_seed: int = setting(0, "seed of that split", at_least=0)
    transform: TransformConfig = setting(TransformConfig, "image to sample")

    def __post_init__(self) -> None:
        if not self.val_fraction < 1:
            raise refuse("data.val_fraction", self.val_fraction, "is a share: 0 to below 1", "data.val_fraction=0.2")


@dataclass
class VectorsData(DataConfig):
    name: ClassVar[str] = "vectors"
    images: ClassVar[bool] = False
    num_samples: int = setting(60_000, "training samples; validation has a sixth of that", at_least=12)
    num_features: int = setting(784, "length of a sample, float32", at_least=1)
    num_classes: int = setting(10, "number of classes", at_least=2)
    work: int = setting(0, "passes of real per-sample work in the loader (sort, then scale); 0: none", at_least=0)
    data_seed: int = setting(0, "seed of the samples themselves", at_least=0)


@dataclass
class TorchvisionData(DataConfig):
    root: str = setting("data", "folder that torchvision keeps the files in")
    download: bool = setting(True, "let torchvision download what is missing")
    transform: TransformConfig = setting(TransformConfig, "image to sample")


@dataclass
class Cifar10Data(TorchvisionData):
    name: ClassVar[str] = "cifar10"


@dataclass
class MnistData(TorchvisionData):
    name: ClassVar[str] = "mnist"


@dataclass
class CustomData(DataConfig):
    name: ClassVar[str] = "custom"
    target: str = setting(MISSING, "package.module:function that gives a dataset, or a (train, val) pair")
    options: dict[str, Any] = setting({}, "keyword arguments for the function")
    input_key: str | None = setting(None, "key of the input where items are dicts")
    target_key: str | None = setting(None, "key of the target where items are dicts")
    num_classes: int | None = setting(None, "number of classes where the dataset has no `classes`", at_least=1)
    sharded: bool = setting(
        False, "an iterable dataset that splits itself by get_worker_info: allows more than one worker"
    )


# ---- loaders ---------------------------------------------------------------------------------------------------


@dataclass
class LoaderConfig:
    """How samples reach the device."""

    name: ClassVar[str] = "loader"


@dataclass
class NativeLoader(LoaderConfig):
    name: ClassVar[str] = "native"
    num_workers: Any = setting(
        AUTO,
        kind=int,
        doc="worker processes; auto: by the cores this process may use, 0 for data in memory",
        at_least=0,
    )
    prefetch_factor: Any = setting(AUTO, kind=int, doc="batches that each worker works ahead; auto: 2", at_least=1)
    persistent_workers: Any = setting(
        AUTO, kind=bool, doc="keep the workers from epoch to epoch; auto: where there are workers"
    )
    pin_memory: Any = setting(AUTO, kind=bool, doc="page-locked batches for the copy to the GPU; auto: on CUDA")
    non_blocking: Any = setting(AUTO, kind=bool, doc="do not wait for that copy; auto: where memory is pinned")
    start_method: str = setting(
        AUTO, "how workers start; auto: the platform's own way", choices=("fork", "spawn", "forkserver")
    )
    in_order: bool = setting(True, "batches come in the plan's order; false: as they get ready")
    decoder: str = setting("torchcodec", "image decoder", choices=("torchcodec", "pillow"))
    batched: bool = setting(True, "a worker builds a whole batch at once; false: sample by sample, then collated")

    def __post_init__(self) -> None:
        if self.num_workers != 0:
            return
        if self.persistent_workers is True:
            raise refuse(
                "loader.persistent_workers", "true", "with loader.num_workers=0 there are no workers to keep",
                "loader.persistent_workers=auto, or loader.num_workers=2",
            )  # fmt: skip
        if self.prefetch_factor != AUTO:
            raise refuse(
                "loader.prefetch_factor", self.prefetch_factor, "with loader.num_workers=0 nobody works ahead",
                "loader.prefetch_factor=auto, or loader.num_workers=2",
            )  # fmt: skip
        if self.start_method != AUTO:
            raise refuse(
                "loader.start_method", self.start_method, "with loader.num_workers=0 nothing is started",
                "loader.start_method=auto, or loader.num_workers=2",
            )  # fmt: skip


@dataclass
class DaliLoader(LoaderConfig):
    name: ClassVar[str] = "dali"
    num_threads: Any = setting(
        AUTO, kind=int, doc="CPU threads of the pipeline; auto: by the cores this process may use", at_least=1
    )
    prefetch_queue_depth: int = setting(2, "batches that the pipeline works ahead", at_least=1)
    decode: str = setting(
        AUTO, "where JPEGs are decoded; auto: mixed (CPU and GPU) on CUDA, else cpu", choices=("cpu", "mixed")
    )
    hw_decoder_load: float = setting(
        0.65, "mixed: share of the decoding given to the GPU's JPEG engine, 0 to 1", at_least=0
    )
    pipeline_seed: int | None = setting(None, "seed of the random crops and flips; null: the run's seed", at_least=0)

    def __post_init__(self) -> None:
        if self.hw_decoder_load > 1:
            raise refuse(
                "loader.hw_decoder_load",
                self.hw_decoder_load,
                "is a share: 0 to 1",
                "loader.hw_decoder_load=0.65",
            )


@dataclass
class ReplayLoader(LoaderConfig):
    name: ClassVar[str] = "replay"
    num_batches: int = setting(
        4, "real batches that are loaded once, kept on the device and served again and again", at_least=1
    )


# ---- models, precision, optimizers -----------------------------------------------------------------------------


@dataclass
class ModelConfig:
    channels_last: bool = setting(False, "keep images and weights channels-last in memory (images only)")
    compile: bool = setting(False, "run the model through torch.compile")


@dataclass
class FeedForwardModel(ModelConfig):
    name: ClassVar[str] = "feedforward"
    hidden: list[int] = setting([512, 512], "widths of the hidden layers")

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise refuse("model.hidden", self.hidden, "widths must be at least 1", "'model.hidden=[512,512]'")


@dataclass
class CnnModel(ModelConfig):
    name: ClassVar[str] = "cnn"
    channels_last: bool = setting(True, "keep images and weights channels-last in memory")
    width: int = setting(8, "channels of the first stage; each of the three further ones doubles it", at_least=1)


@dataclass
class TimmModel(ModelConfig):
    name: str = setting(MISSING, "a model of timm, for example resnet50")
    pretrained: bool = setting(False, "start from published weights (downloads them)")


@dataclass
class CustomModel(ModelConfig):
    name: ClassVar[str] = "custom"
    target: str = setting(MISSING, "package.module:function that gives a torch.nn.Module")
    options: dict[str, Any] = setting({}, "keyword arguments for the function")


@dataclass
class PrecisionConfig:
    name: str = setting(MISSING, "arithmetic of the step", choices=("fp32", "tf32", "bf16", "fp16"))


@dataclass
class OptimizerConfig:
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
    name: ClassVar[str] = "sgd"
    momentum: float = setting(0.9, "momentum", at_least=0)
    nesterov: bool = setting(False, "Nesterov momentum")

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise refuse("optimizer.nesterov", "true", "needs a momentum above 0", "optimizer.momentum=0.9")


@dataclass
class AdamWOptimizer(OptimizerConfig):
    name: ClassVar[str] = "adamw"
    betas: list[float] = setting([0.9, 0.999], "decay rates of the two moments")

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise refuse(
                "optimizer.betas",
                self.betas,
                "must be two numbers, 0 to below 1",
                "'optimizer.betas=[0.9,0.999]'",
            )


# ---- what is recorded ------------------------------------------------------------------------------------------


@dataclass
class MeasureConfig:
    warmup_steps: Any = setting(
        AUTO,
        kind=int,
        doc="steps before the measured window opens; auto: 5, or the loader's work-ahead if that is more",
        at_least=0,
    )


@dataclass
class TrackingConfig:
    uri: str = setting(AUTO, "MLflow store: auto for mlruns/mlflow.db of this project, else sqlite:///… or http://…")
    experiment: str = setting("loaderlab", "MLflow experiment")
    log_every: int = setting(10, "steps whose mean loss makes one point of train/loss", at_least=1)


@dataclass
class CheckpointConfig:
    every_minutes: float | None = setting(
        5.0,
        "a checkpoint at the first end of an epoch this long after the last; 0: every epoch; null: never",
        at_least=0,
    )
    keep: bool = setting(False, "keep the checkpoint of a run that finished")
    dir: str = setting("outputs", "folder under which each run keeps its checkpoint")


@dataclass
class TrainConfig:
    """One run: what it is composed of, how long it goes, where it runs."""

    data: DataConfig = setting(MISSING, "what the samples are")
    model: ModelConfig = setting(MISSING, "what is trained")
    loader: LoaderConfig = setting(MISSING, "how samples reach the device")
    precision: PrecisionConfig = setting(MISSING, "arithmetic of the step")
    optimizer: OptimizerConfig = setting(MISSING, "how the weights are updated")
    measure: MeasureConfig = setting(MISSING, "what is measured")
    tracking: TrackingConfig = setting(MISSING, "where it is recorded")
    checkpoint: CheckpointConfig = setting(CheckpointConfig, "when a long run is saved")
    batch_size: int = setting(64, "samples a step", at_least=1)
    epochs: Any = setting(
        AUTO, kind=int, doc="passes over the training samples; auto: 20 unless steps is set", at_least=1
    )
    steps: int | None = setting(None, "end after this many steps instead", at_least=1)
    accumulate: int = setting(1, "steps whose gradients make one update of the weights", at_least=1)
    drop_last: bool = setting(True, "leave out the last training batch of an epoch where it is short")
    evaluate: bool = setting(True, "loss and accuracy on the validation samples after each epoch")
    seed: int = setting(0, "seed of the weights, the order and the augmentations", at_least=0)
    repeat: int = setting(0, "number of the repetition; the seed in force is seed + repeat", at_least=0)
    deterministic: bool = setting(False, "deterministic algorithms only; slower, and refused where one has none")
    device: str = setting(AUTO, "auto: CUDA where there is one, else the CPU; or cpu, cuda, cuda:1")
    torch_threads: Any = setting(
        AUTO, kind=int, doc="threads of the step on a CPU; auto: the cores that the loader leaves", at_least=1
    )
    resume: str | None = setting(
        None, "go on from a checkpoint: latest, or the path of a checkpoint file or its folder"
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.steps is not None and self.epochs != AUTO:
            raise refuse(
                "steps",
                self.steps,
                f"and epochs={self.epochs} are two ways to end a run",
                f"steps={self.steps}, without epochs",
            )
        if isinstance(self.model, CnnModel) and not self.data.images:
            raise refuse("model", "cnn", f"needs images, and data={self.data.name} gives vectors", "model=feedforward")
        if isinstance(self.model, TimmModel) and not self.data.images:
            raise refuse(
                "model",
                self.model.name,
                f"needs images, and data={self.data.name} gives vectors",
                "model=feedforward",
            )
        if self.model.channels_last and not self.data.images:
            raise refuse("model.channels_last", "true", f"is for images, and data={self.data.name} gives vectors",
                         "model.channels_last=false")  # fmt: skip

    @property
    def seed_in_force(self) -> int:
        return self.seed + self.repeat

    @property
    def num_epochs(self) -> int | None:
        """Epochs to go through; None where `steps` ends the run."""
        if self.steps is not None:
            return None
        return 20 if self.epochs == AUTO else int(self.epochs)


def choice(config: Any) -> str:
    """The name of the choice that a group's dataclass stands for: ``native``, ``resnet50``, ``bf16``."""
    return str(config.name)


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting as (dotted name, value), the choice of each group as ``group.name`` among them."""
    if prefix and hasattr(config, "name") and "name" not in {entry.name for entry in fields(config)}:
        yield f"{prefix}name", choice(config)
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_group(value):
            yield from flatten(value, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}", value
