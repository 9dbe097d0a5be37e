"""The schema of all settings: type, default, one line of documentation, and checks for contradictions.

YAML under ``conf/`` chooses values; these plain dataclasses define everything else, with one file per config group. The
code below the entry points uses `TrainConfig`, never a ``DictConfig``. Only the standard library is imported here, so that
``--help`` stays fast and `loaderlab.watch` does not need OmegaConf.
"""

from loaderlab.config.accelerator import EMULATED, AcceleratorConfig
from loaderlab.config.base import (
    AUTO,
    Failed,
    GateFailed,
    GateNotJudged,
    TooFewSamples,
    UserError,
    WrongUsage,
    check_bounds,
    choice,
    flatten,
    is_group,
    refuse,
    setting,
)
from loaderlab.config.batch_share import check_batch_share
from loaderlab.config.compare import CompareConfig
from loaderlab.config.data import (
    MAX_PIXELS,
    Cifar10Data,
    CustomData,
    DataConfig,
    DigitsData,
    EncodedData,
    ImageFolderData,
    MnistData,
    PhotosData,
    TorchvisionData,
    TransformConfig,
    VectorsData,
    WebDatasetData,
)
from loaderlab.config.emulated import refuse_single, refuse_typed
from loaderlab.config.exit_codes import ExitCode
from loaderlab.config.gates import FailIfConfig, RunFailIfConfig
from loaderlab.config.launch import JOIN_S, LaunchConfig, LocalLaunch, NodesLaunch, SlurmLaunch
from loaderlab.config.loader import (
    DaliLoader,
    HostLoader,
    LoaderConfig,
    NativeLoader,
    ReplayLoader,
    ResidentLoader,
    SpdlLoader,
)
from loaderlab.config.measure import CheckpointConfig, MeasureConfig, TrackingConfig
from loaderlab.config.model import (
    AdamWOptimizer,
    CnnModel,
    CustomModel,
    FeedForwardModel,
    ModelConfig,
    OptimizerConfig,
    PrecisionConfig,
    SgdOptimizer,
    TimmModel,
)
from loaderlab.config.places import CONF, INSTALLED, PROJECT, store_root
from loaderlab.config.slurm import SlurmConfig, SweepSlurmConfig
from loaderlab.config.trace import TraceConfig
from loaderlab.config.train import LOCAL, SLURM, SPAWN, TEMPLATE, SweepConfig, TrainConfig
from loaderlab.config.tune import TuneConfig
from loaderlab.config.tuned_train import TunedTrainConfig, refuse_untunable

__all__ = [
    "AUTO",
    "CONF",
    "EMULATED",
    "INSTALLED",
    "JOIN_S",
    "LOCAL",
    "MAX_PIXELS",
    "PROJECT",
    "SLURM",
    "SPAWN",
    "TEMPLATE",
    "AcceleratorConfig",
    "AdamWOptimizer",
    "CheckpointConfig",
    "Cifar10Data",
    "CnnModel",
    "CompareConfig",
    "CustomData",
    "CustomModel",
    "DaliLoader",
    "DataConfig",
    "DigitsData",
    "EncodedData",
    "ExitCode",
    "FailIfConfig",
    "Failed",
    "FeedForwardModel",
    "GateFailed",
    "GateNotJudged",
    "HostLoader",
    "ImageFolderData",
    "LaunchConfig",
    "LoaderConfig",
    "LocalLaunch",
    "MeasureConfig",
    "MnistData",
    "ModelConfig",
    "NativeLoader",
    "NodesLaunch",
    "OptimizerConfig",
    "PhotosData",
    "PrecisionConfig",
    "ReplayLoader",
    "ResidentLoader",
    "RunFailIfConfig",
    "SgdOptimizer",
    "SlurmConfig",
    "SlurmLaunch",
    "SpdlLoader",
    "SweepConfig",
    "SweepSlurmConfig",
    "TimmModel",
    "TooFewSamples",
    "TorchvisionData",
    "TraceConfig",
    "TrackingConfig",
    "TrainConfig",
    "TransformConfig",
    "TuneConfig",
    "TunedTrainConfig",
    "UserError",
    "VectorsData",
    "WebDatasetData",
    "WrongUsage",
    "check_batch_share",
    "check_bounds",
    "choice",
    "flatten",
    "is_group",
    "refuse",
    "refuse_single",
    "refuse_typed",
    "refuse_untunable",
    "setting",
    "store_root",
]
