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
    """A sweep of ``overrides`` (or, where there are none, the function of this name in `measured`).

    Attributes:
        title: its heading on the page.
        small: overrides that a dry run adds: of an axis, the later one holds.
    """

    name: str
    title: str
    overrides: tuple[str, ...] = ()
    small: tuple[str, ...] = ()

    def command(self, setting: Setting, again: bool) -> list[str]:
        """``again``: this sweep was begun before and is to be gone on with."""
        if self.name == "tests":
            found = setting.folder / self.name / "junit.xml"
            return [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={found}"]
        if not self.overrides:
            where = str(setting.folder / self.name)
            return [sys.executable, "-m", "benchmarks.gpu_acceptance.measured", self.name, setting.device, where]
        train = [sys.executable, "-m", "experiments.train", "-m"]
        kept = [f"tracking.uri={setting.store}", f"tracking.experiment={self.name}"]
        if again:
            return [*train, "resume=latest", *kept]
        roots = [f"data.root={setting.folder}/photos"] if "data=photos" in self.overrides else []
        typed = [*COMMON, *self.overrides, *roots, *(self.small if setting.dry else ())]
        chosen = {text.partition("=")[0]: text for text in typed}  # the last of each
        return [*train, *chosen.values(), f"device={setting.device}", *kept]


COMMON = ("repeat=1,2,3", "evaluate=false")
PHOTOS = ("data=photos", "data.num_files=12000", "data.num_classes=100")
FEW = (
    "repeat=1", "steps=6", "batch_size=2", "model=cnn", "data.transform.image_size=32", "precision=fp32", "measure=bare",
    "measure.warmup_steps=1", "sweep.parity=false", "data.num_files=12", "data.num_classes=2", "data.width_px=96",
    "data.height_px=72",
)  # fmt: skip
PRECISIONS = "precision=fp32,tf32,bf16,fp16"

PARTS = (
    Part("environment", "The machine"),
    Part("tests", "The tests that need a GPU"),
    Part(
        "fed",
        "ResNet-50 from JPEG files: which loader feeds it",
        (*PHOTOS, "model=resnet50", "precision=bf16", "batch_size=128", "steps=180",
         "model.channels_last=true", "loader=native,spdl,dali,resident,replay"),
        (*FEW, "model=resnet18", "measure=default", "measure.probe_s=0.05", "loader=native,replay"),
    ),
    Part(
        "dali_decode",
        "DALI: decoding on the processor, or with the GPU's help",
        (*PHOTOS, "model=resnet50", "precision=bf16", "batch_size=128", "steps=180", "model.channels_last=true",
         "loader=dali", "loader.decode=cpu,mixed"),
        (*FEW, "loader.decode=cpu,auto"),
    ),
    Part(
        "ladder_vectors",
        "The ladder, FeedForward network on vectors",
        ("study=ladder",),
        ("repeat=1", "epochs=1", "batch_size=64", "data.num_samples=640", "measure=bare", "sweep.parity=false",
         "rung=batched,ceiling"),
    ),
    Part(
        "ladder_images",
        "The ladder, ResNet-18 on JPEG files",
        ("study=ladder", *PHOTOS, "model=resnet18", "batch_size=64", "steps=30", "epochs=auto"),
        (*FEW, "sweep.parity=true", "rung=batched,dali"),
    ),
    Part(
        "precision_resnet50",
        "Loader x precision, ResNet-50",
        (*PHOTOS, "model=resnet50", "model.channels_last=true", "batch_size=128", "steps=100", "loader=native,dali",
         PRECISIONS),
        (*FEW, "loader=native", "precision=fp32,bf16"),
    ),
    Part(
        "precision_vit",
        "Loader x precision, ViT-S",
        (*PHOTOS, "model=vit_small", "batch_size=128", "steps=100", "loader=native,dali", PRECISIONS),
        (*FEW, "model=vit_small", "data.transform.image_size=224", "loader=native,replay"),
    ),
    Part(
        "compiled",
        "channels_last and torch.compile, bf16",
        (*PHOTOS, "model=resnet50,vit_small", "model.channels_last=false,true", "model.compile=false,true",
         "precision=bf16", "batch_size=128", "steps=100", "loader=dali"),
        (*FEW, "model.compile=false"),
    ),
    Part(
        "workers",
        "How many workers",
        ("study=workers", *PHOTOS, "model=resnet50", "model.channels_last=true", "precision=bf16", "batch_size=128", "steps=120"),
        (*FEW, "loader.num_workers=0,1"),
    ),
    Part("overhead", "The meter's own cost, and the ceiling against a loop by hand"),
)  # fmt: skip
