"""The parts of the measurements, each with its own program; full size on a GPU, small in a trial run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """Place and size of the measurements.

    Attributes:
        folder: contains all parts, their data and their store.
        trial: the small size, on the CPU.
    """

    folder: Path
    trial: bool

    @property
    def device(self) -> str:
        return "cpu" if self.trial else "cuda"

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder.resolve()}/mlflow.db"


@dataclass(frozen=True)
class Part:
    """A sweep of ``overrides``, or the program of this name if there are none.

    Attributes:
        title: its heading on the page.
        small: overrides that a trial run adds; they replace earlier ones of the same setting.
    """

    name: str
    title: str
    overrides: tuple[str, ...] = ()
    small: tuple[str, ...] = ()

    def sweep_overrides(self, setting: Setting) -> list[str]:
        """The overrides of its sweep; none if it is not a sweep."""
        chosen = (*COMMON, *self.overrides, *(self.small if setting.trial else ())) if self.overrides else ()
        return list({text.partition("=")[0]: text for text in chosen}.values())  # the last override of each setting

    def command(self, setting: Setting, again: bool) -> list[str]:
        """The command line of the part; with ``again`` it resumes a sweep that was started before."""
        part_folder = setting.folder / self.name
        if self.name == "tests":
            # one process, because some of these tests measure the GPU; warnings of other versions are not failures
            options = ["-m", "gpu", "-q", "--numprocesses=0", "-W", "default", "-p", "no:cacheprovider"]
            return [
                sys.executable,
                "-m",
                "pytest",
                *options,
                "-p",
                "benchmarks.gpu_acceptance.kept",
                f"--kept={part_folder}",
            ]
        if not self.overrides:
            return [
                sys.executable,
                "-m",
                "benchmarks.gpu_acceptance.measured",
                self.name,
                setting.device,
                str(part_folder),
            ]
        train = [sys.executable, "-m", "experiments.train", "-m"]
        tracking = [f"tracking.uri={setting.store}", f"tracking.experiment={self.name}"]
        if again:
            return [*train, "resume=latest", *tracking]
        # a separate folder for each number of files: a ladder over epochs uses few
        roots = [
            f"data.root={setting.folder}/photos_{text.partition('=')[2]}"
            for text in self.sweep_overrides(setting)
            if text.startswith("data.num_files=")
        ]
        return [*train, *self.sweep_overrides(setting), *roots, f"device={setting.device}", *tracking]


COMMON = ("repeat=1,2,3", "evaluate=false")
PHOTOS = ("data=photos", "data.num_files=12000", "data.num_classes=100")
BF16 = (*PHOTOS, "model=resnet50", "model.channels_last=true", "precision=bf16", "batch_size=128")
CROSSED = (
    *PHOTOS,
    "model.channels_last=true",
    "batch_size=128",
    "steps=100",
    "loader=native,dali",
    "precision=fp32,tf32,bf16,fp16",
    "model.compile=false,true",
    "measure.probe_s=1",
)
FEW = (
    "repeat=1",
    "steps=6",
    "batch_size=2",
    "model=cnn",
    "data.transform.image_size=32",
    "precision=fp32",
    "measure=bare",
    "measure.warmup_steps=1",
    "sweep.parity=false",
    "data.num_files=12",
    "data.num_classes=2",
    "data.width_px=96",
    "data.height_px=72",
)
LADDER_VECTORS = "ladder_vectors"

PARTS = (  # the most valuable first, in case the time runs out
    Part("environment", "The machine"),
    Part("tests", "The tests that need a GPU"),
    Part(
        "fed",
        "ResNet-50 from JPEG files: which loader is fast enough",
        (*BF16, "steps=180", "loader=native,spdl,dali,replay"),
        (*FEW, "measure=default", "measure.probe_s=0.05", "loader=native,replay"),
    ),
    Part("overhead", "The meter's own cost, and the ceiling compared with a loop written by hand"),
    Part(
        LADDER_VECTORS,
        "The ladder: FeedForward network on vectors",
        ("study=ladder",),
        (
            "repeat=1",
            "epochs=1",
            "batch_size=64",
            "data.num_samples=640",
            "measure=bare",
            "sweep.parity=false",
            "rung=batched,ceiling",
        ),
    ),
    Part(
        "dali_decode",
        "DALI: decoding on the processor or with the GPU",
        (*BF16, "steps=180", "loader=dali", "loader.decode=cpu,mixed"),
        (*FEW, "loader.decode=cpu,auto"),
    ),
    Part(
        "ladder_images",
        "The ladder: ResNet-18 on JPEG files",
        # two epochs of 60 steps: persistent workers continue from one to the next, and no epoch is made ahead as a whole
        (
            "study=ladder",
            *PHOTOS,
            "data.num_files=3840",
            "model=resnet18",
            "batch_size=64",
            "epochs=2",
            "measure.probe_s=1",
        ),
        (
            *(text for text in FEW if not text.startswith("steps=")),
            "epochs=2",
            "sweep.parity=true",
            "rung=batched,dali",
        ),
    ),
    Part(
        "precision_resnet50",
        "Loader x precision x compile, ResNet-50",
        (*CROSSED, "model=resnet50"),
        (*FEW, "loader=native", "precision=fp32,bf16", "model.compile=false"),
    ),
    Part(
        "precision_vit",
        "Loader x precision x compile, ViT-S",
        (*CROSSED, "model=vit_small"),
        (*FEW, "model=vit_small", "data.transform.image_size=224", "loader=native,replay", "model.compile=false"),
    ),
    Part(
        "workers",
        "Number of workers",
        ("study=workers", *BF16, "batch_size=64", "steps=150"),
        (*FEW, "loader.num_workers=0,1"),
    ),
)
