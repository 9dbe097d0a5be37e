"""Registers with Hydra the dataclass of each choice, the resolvers that studies use, and our launcher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from loaderlab import config as schema
from loaderlab.runs.ladder_precision import ladder_precision
from loaderlab.system import machine
from loaderlab.system.user import private_folder

CONF = schema.CONF
SCHEMAS: dict[str, dict[str, type]] = {
    "data": {
        "digits": schema.DigitsData,
        "photos": schema.PhotosData,
        "imagefolder": schema.ImageFolderData,
        "webdataset": schema.WebDatasetData,
        "vectors": schema.VectorsData,
        "cifar10": schema.Cifar10Data,
        "mnist": schema.MnistData,
        "custom": schema.CustomData,
    },
    "model": {
        "feedforward": schema.FeedForwardModel,
        "cnn": schema.CnnModel,
        "timm": schema.TimmModel,
        "custom": schema.CustomModel,
    },
    "loader": {
        "native": schema.NativeLoader,
        "spdl": schema.SpdlLoader,
        "dali": schema.DaliLoader,
        "resident": schema.ResidentLoader,
        "replay": schema.ReplayLoader,
    },
    "precision": {"precision": schema.PrecisionConfig},
    "optimizer": {"sgd": schema.SgdOptimizer, "adamw": schema.AdamWOptimizer},
    "accelerator": {"accelerator": schema.AcceleratorConfig},
    "launch": {
        "none": schema.LaunchConfig,
        "local": schema.LocalLaunch,
        "nodes": schema.NodesLaunch,
        "slurm": schema.SlurmLaunch,
    },
    "measure": {"measure": schema.MeasureConfig},
    "tracking": {"tracking": schema.TrackingConfig},
    "train": {"train": schema.TrainConfig},
    "tune": {"tune": schema.TunedTrainConfig},
    "compare": {"compare": schema.CompareConfig},
}
RESOLVERS: dict[str, Callable[..., Any]] = {  # values that depend on the machine, used as ``${worker_counts:}``
    "worker_counts": lambda: ",".join(map(str, machine.worker_counts(machine.available_cores()))),
    "thread_counts": lambda: ",".join(map(str, machine.worker_counts(machine.available_cores())[1:])),
    "ladder_workers": lambda: min(8, machine.available_cores()),
    "ladder_precision": ladder_precision,  # its arguments are the settings ``device`` and ``accelerator.name``
    # Hydra writes a multirun.yaml there, which nothing reads; the checkout may be read-only
    "hydra_folder": lambda: str(private_folder("hydra")),
    "tuned_folder": lambda: str(tuned_folder()),
}


def tuned_folder() -> Path:
    """The folder that contains ``tuned/NAME.yaml``; without it, one that exists, because Hydra warns of a missing folder."""
    folder = schema.store_root() / "mlruns"
    return folder if folder.is_dir() else CONF


def register() -> None:
    """Registers the schemas, the resolvers and the sweep's launcher with Hydra; a second call changes nothing."""
    store = ConfigStore.instance()
    for group, choices in SCHEMAS.items():
        for name, node in choices.items():
            store.store(group=f"schema/{group}", name=name, node=node)
    for name, resolve in RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolve, replace=True)
    launcher = {"_target_": "hydra_plugins.loaderlab_launcher.LoaderlabLauncher"}
    store.store(group="hydra/launcher", name="loaderlab", node=launcher)
