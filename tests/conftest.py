"""Fixtures of several tests: small image folders, a store, a silent terminal, and no access to the network."""

from __future__ import annotations

import copy
import functools
import gc
import os
import shutil
import socket
import tarfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share two cores; torch reads this once, at import

import hypothesis
import numpy as np
import pytest
import torch
from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from rich.console import Console

from loaderlab import config
from loaderlab.cli.compose import compose as hydra_compose
from loaderlab.cli.compose import typed
from loaderlab.cli.schemas import CONF, register
from loaderlab.system.terminal import Terminal

# 200 examples for each property in CI; for more: HYPOTHESIS_PROFILE=many pytest -n0 -k property
hypothesis.settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
hypothesis.settings.register_profile("many", max_examples=20_000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

pytest_plugins = ["pytester", "tests.cuda_double.gpu_tests"]  # pytester: for a test of our own plugin

LOCAL = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that uses the network fails at once with a clear message."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in LOCAL:
            raise OSError(f"the tests are offline: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(scope="session", autouse=True)
def registered_schemas() -> None:
    register()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tests and their subprocesses cache file lists in a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def terminal() -> Terminal:
    """A silent terminal; its lines are in ``said``."""
    return Terminal(Console(file=StringIO(), width=120))


@pytest.fixture(scope="session")
def image_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 13 and 10 JPEG files with different sizes and pictures."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for label, count in (("ant", 13), ("bee", 10)):
        (root / label).mkdir()
        for index in range(count):
            height, width = rng.integers(40, 160, 2)
            Image.fromarray(picture(height, width, index)).save(
                root / label / f"{index:02d}.jpg", quality=92, subsampling=index % 3
            )
    return root


def picture(height: int, width: int, index: int) -> np.ndarray:
    """A smooth picture (height, width, 3) uint8; each index gives a different one."""
    y, x = np.mgrid[0:height, 0:width]
    red = 127 + 120 * np.sin(x / 9 + index)
    return np.stack([red, y * 255 / height, (x + 2 * y + 31 * index) % 256 / 2 + 60], -1).astype(np.uint8)


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    """A tar file of (name, content)."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, BytesIO(content))


def tick(folder: Path) -> None:
    """Waits until the file system's clock has advanced."""
    probe = folder / "clock"
    probe.touch()
    before = probe.stat().st_mtime_ns
    while probe.stat().st_mtime_ns == before:
        time.sleep(0.0005)
        probe.touch()


@pytest.fixture
def own_tree(image_tree: Path, tmp_path: Path) -> Path:
    """A copy of `image_tree` that a test may change."""
    return Path(shutil.copytree(image_tree, tmp_path / "images"))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A store with its tables. Creating them takes seconds, so this is done once and the tests copy it."""
    from loaderlab.tracking import open_store

    base = tmp_path_factory.getbasetemp()
    path = (base if worker_id == "master" else base.parent) / "empty" / "mlflow.db"
    path.parent.mkdir(exist_ok=True)
    with FileLock(path.parent / "made.lock"):
        if not path.exists():
            open_store(config.TrackingConfig(uri=f"sqlite:///{path}", experiment="empty"), path.parent)
    return path


@pytest.fixture
def store_uri(empty_store: Path, tmp_path: Path) -> str:
    folder = tmp_path / "mlruns"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.fixture
def make_config(store_uri: str, image_tree: Path, tmp_path: Path) -> Callable[..., config.TrainConfig]:
    """Makes a typed configuration from overrides, with the small image folder and the test's own store."""

    def make(*overrides: str) -> config.TrainConfig:
        base = [
            f"tracking.uri={store_uri}",
            f"checkpoint.dir={tmp_path / 'outputs'}",
            "batch_size=4",
            "torch_threads=1",
            "measure.probe_s=0.05",
        ]
        if not any(text.startswith("measure=") for text in overrides):
            base += ["measure=bare"]  # probes take seconds, so only tests of the probes use measure=default
        if not any(text.startswith("data=") for text in overrides):
            base += [
                "data=imagefolder",
                f"data.root={image_tree}",
                "data.transform.image_size=16",
                "data.transform.resize=16",
            ]
        return compose([*base, *overrides])

    return make


def compose(overrides: list[str]) -> config.TrainConfig:
    """The configuration that the command line would compose, with the same errors; see `composed`."""
    return typed(composed(overrides), config.TrainConfig)


def composed(overrides: list[str]) -> DictConfig:
    """The configuration that Hydra would compose.

    Hydra takes a quarter of a second, so it composes each set of choices once, and changed settings are applied to a copy.
    Everything else, including errors, is left to Hydra.
    """
    chosen = [text for text in overrides if (CONF / text.partition("=")[0]).is_dir()]
    try:
        settings = OverridesParser.create().parse_overrides([text for text in overrides if text not in chosen])
        if any(
            entry.type is not OverrideType.CHANGE or entry.is_sweep_override() or entry.package for entry in settings
        ):
            return hydra_compose("train", overrides)
        cfg = copy.deepcopy(_chosen(tuple(chosen)))
        for entry in settings:
            OmegaConf.update(cfg, entry.key_or_group, entry.value())
        return cfg
    except (HydraException, OmegaConfBaseException):
        return hydra_compose("train", overrides)


@functools.cache
def _chosen(choices: tuple[str, ...]) -> DictConfig:
    return hydra_compose("train", choices)


@pytest.fixture(autouse=True)
def restored_torch_settings() -> Iterator[None]:
    """Restores the process-wide settings of torch that a run may change."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)


SLOW = (
    "test_sweep.py",
    "test_ui.py",
    "test_readme.py",
    "test_installed.py",
    "test_sweep_jobs.py",
    "test_launch.py",
)  # these run first, so that no process is idle at the end


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in SLOW)


@pytest.fixture(scope="module", autouse=True)
def frozen_imports() -> None:
    """Freezes what earlier modules have imported and cached.

    A DALI loader collects garbage when it ends. With everything that all tests import, each time takes a second.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # otherwise triton's bindings report false leaks at exit
