"""Importing loaderlab changes no process-wide state; only entry points do."""

from __future__ import annotations

import json
import subprocess
import sys

from loaderlab.config import PROJECT

CODE = """
import gc, importlib, json, locale, logging, os, pkgutil, signal, sys, warnings
import matplotlib, mlflow, mlflow.data.meta_dataset, mlflow.tracking, numpy, nvidia.dali, psutil, scipy.special, scipy.stats
import hydra, hydra.core.config_store, hydra._internal.utils, jinja2, omegaconf, PIL.Image, PIL.ImageOps, pynvml, rich
import sklearn.datasets, spdl.pipeline, timm, torch, torchcodec.decoders, torchvision.datasets, yaml
import torch.utils.data, torch.utils.flop_counter, torch.profiler


def snapshot():
    loggers = {name: logger for name, logger in logging.root.manager.loggerDict.items() if hasattr(logger, "level")}
    states = {name: (logger.level, logger.disabled, len(logger.handlers)) for name, logger in loggers.items()}
    return {
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "Pillow's limit": PIL.Image.MAX_IMAGE_PIXELS,
        "loggers": {name: state for name, state in states.items() if state != (logging.NOTSET, False, 0)},
        "root logger": (logging.root.level, len(logging.root.handlers), logging.root.manager.disable),
        "warnings": [str(entry) for entry in warnings.filters],
        "garbage collection": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "threads of torch": torch.get_num_threads(),
        "default dtype": str(torch.get_default_dtype()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "sharing strategy": torch.multiprocessing.get_sharing_strategy(),
        "signals": {number.name: str(signal.getsignal(number)) for number in signal.valid_signals() if hasattr(number, "name")},
        "locale": locale.setlocale(locale.LC_ALL),
        "hooks": (str(sys.excepthook), str(sys.unraisablehook)),
    }


def differences(before, after):
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


before = snapshot()
package = importlib.import_module("loaderlab")
names = [module.name for module in pkgutil.walk_packages(package.__path__, "loaderlab.")]
for name in names:
    importlib.import_module(name)
after = snapshot()
PIL.Image.MAX_IMAGE_PIXELS = 7
logging.getLogger("spdl").setLevel(50)
os.environ["PLANTED"] = "1"
print(json.dumps({"modules": names, "changed": differences(before, after), "planted": list(differences(after, snapshot()))}))
"""


def test_importing_every_module_changes_no_global_state() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=PROJECT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["changed"] == {}
    assert len(report["modules"]) > 100
    assert set(report["planted"]) == {"Pillow's limit", "loggers", "environment"}  # the snapshot detects changes
