"""What is measured, each part by a program of its own; at full size on a GPU, at a small one in a dry run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """Where and how: ``folder`` keeps all parts, their data and their store; ``dry`` is the small size, on the CPU."""

    folder: Path
    dry: bool

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder.resolve()}/mlflow.db"


@dataclass(frozen=True)
class Part:
    """A sweep of ``overrides`` (or, where there are none, the program of this name).

    Attributes:
        title: its heading on the page.
        small: overrides that a dry run adds: of an axis, the later one holds.
    """

    name: str
    title: str
    overrides: tuple[str, ...] = ()
    small: tuple[str, ...] = ()

    def typed(self, setting: Setting) -> list[str]:
        """The overrides of its sweep; none where it is no sweep."""
        chosen = (*COMMON, *self.overrides, *(self.small if setting.dry else ())) if self.overrides else ()
        return list({text.partition("=")[0]: text for text in chosen}.values())  # the last of each

    def command(self, setting: Setting, again: bool) -> list[str]:
        """``again``: this sweep was begun before and is to be gone on with."""
        where = setting.folder / self.name
        if self.name == "tests":
            # one process: two would share the GPU, and some of these tests measure it; other versions' warnings are no failures
            asked = ["-m", "gpu", "-q", "--numprocesses=0", "-W", "default", "-p", "no:cacheprovider"]
            return [sys.executable, "-m", "pytest", *asked, "-p", "benchmarks.gpu_acceptance.kept", f"--kept={where}"]
        if not self.overrides:
            return [sys.executable, "-m", "benchmarks.gpu_acceptance.measured", self.name, setting.device, str(where)]
        train = [sys.executable, "-m", "experiments.train", "-m"]
        kept = [f"tracking.uri={setting.store}", f"tracking.experiment={self.name}"]
        if again:
            return [*train, "resume=latest", *kept]
        # a folder for each number of files: a ladder over epochs takes few
        roots = [
            f"data.root={setting.folder}/photos_{text.partition('=')[2]}"
            for text in self.typed(setting)
            if text.startswith("data.num_files=")
        ]
        return [*train, *self.typed(setting), *roots, f"device={setting.device}", *kept]


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

PARTS = (  # in the order of what they are worth, should the time end
    Part("environment", "The machine"),
    Part("tests", "The tests that need a GPU"),
    Part(
        "fed",
        "ResNet-50 from JPEG files: which loader feeds it",
        (*BF16, "steps=180", "loader=native,spdl,dali,replay"),
        (*FEW, "measure=default", "measure.probe_s=0.05", "loader=native,replay"),
    ),
    Part("overhead", "The meter's own cost, and the ceiling against a loop by hand"),
    Part(
        LADDER_VECTORS,
        "The ladder, FeedForward network on vectors",
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
        "DALI: decoding on the processor, or with the GPU's help",
        (*BF16, "steps=180", "loader=dali", "loader.decode=cpu,mixed"),
        (*FEW, "loader.decode=cpu,auto"),
    ),
    Part(
        "ladder_images",
        "The ladder, ResNet-18 on JPEG files",
        # epochs, of 60 steps: workers that are kept are kept from one to the next, and no epoch is all made ahead
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
        "How many workers",
        ("study=workers", *BF16, "batch_size=64", "steps=150"),
        (*FEW, "loader.num_workers=0,1"),
    ),
)
