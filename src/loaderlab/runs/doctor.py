"""Reads the state of the machine, the store and the folders before a long run; `loaderlab.system.doctor` judges it."""

from __future__ import annotations

import locale
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from loaderlab.config import (
    AUTO,
    DataConfig,
    DigitsData,
    Failed,
    ImageFolderData,
    NativeLoader,
    PhotosData,
    ReplayLoader,
    SpdlLoader,
    TorchvisionData,
    TrackingConfig,
    TrainConfig,
    UserError,
    VectorsData,
    store_root,
)
from loaderlab.data import digits, photos, treecache
from loaderlab.system import doctor, machine
from loaderlab.system.doctor import Check
from loaderlab.system.nvml import gpus, query
from loaderlab.system.terminal import Terminal
from loaderlab.system.user import home, user_name
from loaderlab.tracking.uri import store_uri


def examine(config: TrainConfig, terminal: Terminal) -> None:
    """Prints one line for each check, the fastest checks first.

    Raises:
        Failed: a run with this configuration would fail.
    """
    failed_checks = []
    for check in checks(config):
        terminal.say(str(check))
        if check.state == "fails":
            failed_checks.append(check.name)
    if failed_checks:
        raise Failed(f"a run would fail: {', '.join(failed_checks)}")


def checks(config: TrainConfig) -> Iterator[Check]:
    """Yields every check; torch is imported only for the last one."""
    yield doctor.clock(time.time())
    yield doctor.encoding(str(sys.stdout.encoding), locale.getpreferredencoding(False))
    folder = home()
    temporary = folder.name.startswith("loaderlab-home-")
    yield doctor.user(user_name(), str(folder), temporary=temporary, writable=os.access(folder, os.W_OK))
    yield doctor.working_folders()
    yield doctor.cores(*machine.core_limits())
    yield doctor.memory(psutil.virtual_memory().available, machine.memory_limit())
    required_files = doctor.SPDL_FILES if isinstance(config.loader, SpdlLoader) else doctor.RUN_FILES
    num_workers = _num_workers(config)
    yield doctor.descriptors(_soft_limit(), num_workers, required_files)
    if num_workers:
        yield _shm()
    yield from _data(config.data)
    for name, path in (("temporary files", Path(tempfile.gettempdir())), ("outputs", Path(config.checkpoint.dir))):
        yield doctor.disk(name, str(path), _free(path))
    yield from _store(config.tracking)
    yield _driver(emulated=config.accelerator.is_emulated)
    yield _device(config)


def _soft_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _num_workers(config: TrainConfig) -> int:
    """The number of worker processes for training and validation. A user's own stream may get fewer."""
    loader, num_val_loaders = config.loader, int(config.evaluates)
    if isinstance(loader, ReplayLoader):  # validation uses the native loader
        return _auto_workers(config) * num_val_loaders
    if not isinstance(loader, NativeLoader):
        return 0
    num_workers = _auto_workers(config) if loader.num_workers == AUTO else int(loader.num_workers)
    return num_workers * (1 + num_val_loaders)


def _auto_workers(config: TrainConfig) -> int:
    """The number of workers that `auto` becomes: 0 for samples in memory that need no work per sample."""
    data = config.data
    if isinstance(data, TorchvisionData) or (isinstance(data, VectorsData) and not data.work):
        return 0
    with gpus() as handles:
        on_cpu = config.device == "cpu" or (config.device == AUTO and not handles)
    on_cpu &= not config.accelerator.is_emulated
    return machine.worker_share(uses_host_cores=on_cpu)


def _data(config: DataConfig) -> Iterator[Check]:
    """Checks the folders that a run with these settings would write samples or file lists to."""
    if (folder := _generated(config)) is not None and not folder.exists():
        yield doctor.disk("data.root", str(folder.parent), _free(folder.parent))
    if isinstance(config, TorchvisionData) and config.download:
        yield doctor.disk("data.root", str(config.root), _free(Path(config.root)))
    if isinstance(config, (DigitsData, PhotosData, ImageFolderData)):
        cache_folder = treecache.folder()
        yield doctor.cache(str(cache_folder), writable=_free(cache_folder) is not None)


def _generated(config: DataConfig) -> Path | None:
    """The folder of a generated dataset; None for other datasets."""
    match config:
        case DigitsData():
            return digits.folder(config)
        case PhotosData():
            return photos.folder(config)
    return None


def _shm() -> Check:
    path = Path("/dev/shm")
    if not path.is_dir():
        return doctor.shm(None, 0, writable=False)
    usage = shutil.disk_usage(path)
    return doctor.shm(usage.total, usage.free, writable=_writable(path))


def _free(path: Path) -> int | None:
    """The free bytes where a folder is or would be created; None if it cannot be written."""
    folder = next(entry for entry in (path.absolute(), *path.absolute().parents) if entry.exists())
    return shutil.disk_usage(folder).free if _writable(folder) else None


def _writable(folder: Path) -> bool:
    """Whether a file can be created. Permissions are not enough: the file system may be read-only."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _store(config: TrackingConfig) -> Iterator[Check]:
    uri = store_uri(config, store_root())
    try:
        from loaderlab.tracking import open_store
        from loaderlab.tracking.sqlite_store import sqlite_file

        open_store(config, store_root())
        file = sqlite_file(uri)
    except UserError as error:
        yield doctor.store(uri, str(error))
        return
    yield doctor.store(uri, "")
    if file is not None:
        yield doctor.disk("store's disk", str(file.parent), _free(file.parent))


def _driver(*, emulated: bool) -> Check:
    with gpus() as handles:
        names = [str(query(gpu, lambda nvml, gpu: nvml.nvmlDeviceGetName(gpu)) or "a GPU") for gpu in handles]
        version = query(handles[0], lambda nvml, _: nvml.nvmlSystemGetDriverVersion()) if handles else None
    return doctor.driver(names, str(version or "unknown version"), emulated=emulated)


def _device(config: TrainConfig) -> Check:
    try:
        from loaderlab.device.resolve import device_of

        return doctor.device(device_of(config).title, "")
    except UserError as error:
        return doctor.device("", str(error))
