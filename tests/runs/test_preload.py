"""What a template imports leaves a process that can be forked: no CUDA, no thread without a fork handler, nothing random used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from loaderlab import tracking
from loaderlab.config import PROJECT
from loaderlab.runs import preload

# loads the template's modules in a process in which every call into CUDA's driver and NVML raises, and describes the process
LOAD = """
import json, os, sys, types
opened = []

def hook(event, arguments):
    if event == "ctypes.dlopen":
        opened.append(str(arguments[0]))
    elif event == "socket.connect":
        opened.append(event)

sys.addaudithook(hook)
import numpy, pynvml, torch
opened.clear()

def queried(*_, **__):
    raise RuntimeError("CUDA or NVML was queried")

calls = [name for name in dir(torch._C) if name.startswith("_cuda_")]
calls = [name for name in calls if isinstance(getattr(torch._C, name), types.BuiltinFunctionType)]
for name in calls:
    setattr(torch._C, name, queried)
pynvml.nvmlInit = pynvml.nvmlInitWithFlags = queried
environment, states = dict(os.environ), (numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
import psutil, threading
from loaderlab.runs import preload
failures = preload.load(json.loads(sys.argv[1]) or preload.MODULES)
print(json.dumps({
    "failures": failures,
    "calls": len(calls),
    "opened": opened,
    "changed": [name for name, value in os.environ.items() if environment.get(name) != value],
    "same_states": states == (numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
    "python_threads": [thread.name for thread in threading.enumerate()],
    "threads": [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")],
    "children": [child.pid for child in psutil.Process().children()],
    "modules": list(sys.modules),
    "drivers": [line.split("/")[-1] for line in open("/proc/self/maps") if "libcuda.so" in line or "libnvidia" in line],
}))
"""
# the pools that exist after the imports, used before a fork and in the forked process
FORKED = """
import os, signal, sys
import numpy
numpy.ones((600, 600)) @ numpy.ones((600, 600))  # its pool works
from loaderlab.runs import preload
assert not preload.load()
if os.fork() == 0:
    signal.alarm(60)  # a pool without a fork handler waits for threads that do not exist
    import pyarrow, scipy.linalg, torch
    assert (numpy.ones((600, 600)) @ numpy.ones((600, 600)))[0, 0] == 600
    scipy.linalg.inv(numpy.eye(400) * 2)
    torch.set_num_threads(2)
    weight = torch.nn.Parameter(torch.ones(600, 600))
    optimizer = torch.optim.AdamW([weight])
    (torch.ones(600, 600) @ weight).sum().backward()
    optimizer.step()
    pyarrow.array(range(1_000_000))
    print("works", flush=True)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@cache
def loaded(*modules: str, one_blas_thread: bool = False) -> dict[str, Any]:
    """A fresh process after it has imported modules (none: those of a template)."""
    environment = dict(os.environ) | {"OPENBLAS_NUM_THREADS": "1" if one_blas_thread else "4"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(modules)],
        cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def test_the_preload_queries_neither_cuda_nor_nvml() -> None:
    facts = loaded()
    assert facts["failures"] == []
    assert facts["calls"] > 50
    assert facts["drivers"] == []
    assert not [name for name in facts["opened"] if "libcuda.so" in name or "nvidia-ml" in name]


@pytest.mark.parametrize("module", ["tests.runs.preloads.cuda", "tests.runs.preloads.nvml"])
def test_a_query_in_the_preload_is_detected(module: str) -> None:
    assert loaded(module)["failures"] == [f"{module}: RuntimeError: CUDA or NVML was queried"]


def test_the_preload_leaves_no_process_and_opens_no_connection() -> None:
    assert loaded()["children"] == []
    assert "socket.connect" not in loaded()["opened"]


def test_the_threads_after_the_preload_are_pools_with_fork_handlers() -> None:
    """Without OpenBLAS's pool, only jemalloc's thread is left (of pyarrow, which MLflow imports). Both have fork handlers."""
    facts = loaded(one_blas_thread=True)
    assert facts["python_threads"] == ["MainThread"]
    assert len(facts["threads"]) - facts["threads"].count("jemalloc_bg_thd") == 1
    assert len(loaded()["threads"]) > len(facts["threads"])  # the pool exists otherwise


def test_the_pools_work_in_a_forked_process() -> None:
    environment = dict(os.environ) | {"OPENBLAS_NUM_THREADS": "4", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED],
        cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "works\n"), done.stderr


def test_the_preload_uses_no_random_number_and_changes_no_setting_of_the_user() -> None:
    facts = loaded()
    assert facts["same_states"]
    ours = {"TORCHINDUCTOR_CACHE_DIR", "_MLFLOW_TELEMETRY_SESSION_ID", *tracking.QUIET}
    assert set(facts["changed"]) <= ours


def test_the_preload_has_what_a_first_step_needs_and_no_more() -> None:
    modules = set(loaded()["modules"])
    assert {"torch._dynamo", "sqlalchemy.orm", "loaderlab.runs.run", "loaderlab.tracking.store"} <= modules
    assert not modules & {"matplotlib", "hydra", "nvidia.dali", "spdl", "timm", "torchcodec", "torchvision", "sklearn"}


def test_a_module_that_cannot_be_imported_is_reported_and_the_others_are_imported() -> None:
    facts = loaded("no_such_module", "colorsys")
    assert facts["failures"] == ["no_such_module: ModuleNotFoundError: No module named 'no_such_module'"]
    assert "colorsys" in facts["modules"]


def test_importing_the_module_elsewhere_does_nothing() -> None:
    assert preload.FAILURES == []
    code = "import sys, loaderlab.runs.preload; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
