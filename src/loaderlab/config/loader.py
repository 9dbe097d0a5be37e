"""Settings of the loaders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from loaderlab.config.base import AUTO, LARGEST_SEED, refuse, setting


@dataclass
class LoaderConfig:
    """How samples reach the device."""

    name: ClassVar[str] = "loader"

    def needs_gpu(self, *, emulated: bool = False) -> str:
        """Why these settings cannot be used without a GPU, and what to type; empty if they can.

        Args:
            emulated: on an emulated accelerator, which takes copies but cannot decode; otherwise on a CPU.
        """
        return ""


@dataclass
class HostLoader(LoaderConfig):
    """A loader that builds its batches in host memory."""

    pin_memory: Any = setting(
        AUTO, kind=bool, doc="batches in pinned memory, for a faster copy to the GPU; auto: on CUDA"
    )
    non_blocking: Any = setting(AUTO, kind=bool, doc="do not wait for that copy; auto: if memory is pinned")
    side_stream: Any = setting(
        AUTO, kind=bool, doc="copy on a separate CUDA stream; auto: if memory is pinned and copies are non-blocking"
    )
    decoder: str = setting("torchcodec", "image decoder", choices=("torchcodec", "pillow"))

    def __post_init__(self) -> None:
        if self.side_stream is True and self.non_blocking is False:
            raise refuse(
                "loader.side_stream",
                "true",
                "has no effect if the host waits for each copy (loader.non_blocking=false)",
                "loader.side_stream=auto, or loader.non_blocking=true",
            )

    def needs_gpu(self, *, emulated: bool = False) -> str:
        if emulated:
            return ""
        for name, why in (
            ("pin_memory", "pinned memory is for copies to a GPU"),
            ("side_stream", "streams need a GPU"),
        ):
            if getattr(self, name) is True:
                allowed = f"{why}, and this run is on the CPU"
                return str(refuse(f"loader.{name}", "true", allowed, f"loader.{name}=auto", is_example=False))
        return ""


@dataclass
class NativeLoader(HostLoader):
    """PyTorch's DataLoader."""

    name: ClassVar[str] = "native"
    num_workers: Any = setting(
        AUTO,
        kind=int,
        doc="worker processes; auto: the usable cores that the step does not need, at most 16; 0 for data in memory",
        at_least=0,
        at_most=4096,
    )
    prefetch_factor: Any = setting(AUTO, kind=int, doc="batches that each worker prepares ahead; auto: 2", at_least=1)
    persistent_workers: Any = setting(
        AUTO, kind=bool, doc="keep the workers between epochs; auto: if there are workers"
    )
    start_method: str = setting(
        AUTO, "how workers start; auto: the platform's default", choices=("fork", "spawn", "forkserver")
    )
    in_order: bool = setting(True, "deliver batches in the planned order; false: in the order in which they are ready")
    batched: bool = setting(True, "a worker builds a whole batch at once; false: one sample at a time, then collate")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_workers != 0:
            return
        if self.persistent_workers is True:
            raise refuse(
                "loader.persistent_workers",
                "true",
                "with loader.num_workers=0 there are no workers to keep",
                "loader.persistent_workers=auto, or loader.num_workers=2",
            )
        if self.prefetch_factor != AUTO:
            raise refuse(
                "loader.prefetch_factor",
                self.prefetch_factor,
                "with loader.num_workers=0 no batches are prepared ahead",
                "loader.prefetch_factor=auto, or loader.num_workers=2",
            )
        if self.start_method != AUTO:
            raise refuse(
                "loader.start_method",
                self.start_method,
                "with loader.num_workers=0 no worker is started",
                "loader.start_method=auto, or loader.num_workers=2",
            )


@dataclass
class SpdlLoader(HostLoader):
    """SPDL: threads instead of worker processes."""

    name: ClassVar[str] = "spdl"
    num_threads: Any = setting(
        AUTO,
        kind=int,
        doc="threads that build batches; auto: for encoded images, the usable cores that the step does not need, at most 16; "
        "otherwise 1",
        at_least=1,
        at_most=4096,
    )
    buffer_size: int = setting(3, "finished batches that wait for the step; SPDL prepares up to 5 more", at_least=1)


@dataclass
class DaliLoader(LoaderConfig):
    """An NVIDIA DALI pipeline."""

    name: ClassVar[str] = "dali"
    num_threads: Any = setting(
        AUTO,
        kind=int,
        doc="CPU threads of the pipeline; auto: the usable cores that the step does not need, at most 16",
        at_least=1,
        at_most=4096,
    )
    prefetch_queue_depth: int = setting(2, "batches that the pipeline prepares ahead", at_least=1)
    decode: str = setting(
        AUTO, "where JPEGs are decoded; auto: mixed (CPU and GPU) on CUDA, otherwise cpu", choices=("cpu", "mixed")
    )
    hw_decoder_load: float = setting(
        0.65, "mixed: share of the images that the GPU's JPEG engine decodes, 0 to 1", at_least=0
    )
    pipeline_seed: int | None = setting(
        None, "seed of the random crops and flips; null: the run's seed", at_least=0, at_most=LARGEST_SEED, example=0
    )

    def __post_init__(self) -> None:
        if self.hw_decoder_load > 1:
            raise refuse(
                "loader.hw_decoder_load",
                self.hw_decoder_load,
                "is a share and must be 0 to 1",
                "loader.hw_decoder_load=0.65",
            )

    def needs_gpu(self, *, emulated: bool = False) -> str:
        if self.decode == "mixed":
            place = "an emulated accelerator cannot decode" if emulated else "this run is on the CPU"
            allowed = f"decoding on the GPU needs a GPU, and {place}"
            return str(refuse("loader.decode", "mixed", allowed, "loader.decode=cpu", is_example=False))
        return ""


@dataclass
class ResidentLoader(LoaderConfig):
    """The whole data set in device memory."""

    name: ClassVar[str] = "resident"
    decoder: str = setting("torchcodec", "image decoder, used once at the start", choices=("torchcodec", "pillow"))


@dataclass
class ReplayLoader(LoaderConfig):
    """A few batches on the device, repeated: the ceiling."""

    name: ClassVar[str] = "replay"
    num_batches: int = setting(
        4, "number of real batches that are loaded once, kept on the device and repeated", at_least=1
    )
