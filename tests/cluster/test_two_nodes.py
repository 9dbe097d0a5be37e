"""Two nodes as network namespaces with a virtual cable between them: one is switched off, and the other one ends and records it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from loaderlab.config import PROJECT, TrackingConfig
from loaderlab.tracking import open_store
from loaderlab.tracking.records import RunRecord
from tests.engines import needs

NAMES = ("loaderlab_node1", "loaderlab_node2")
ADDRESSES = ("10.77.13.1", "10.77.13.2")
START_S, END_S = 150.0, 60.0  # limits on a busy machine
# 10 s without a sign of the other node, up to 2 s until that is noticed, 5 s until SIGKILL ends a rank in a collective, 5 s for the
# record of a rank 0 that may be gone; here 19 to 20 s
DETECTED_S = 30.0


def ip(*arguments: str) -> bool:
    """Whether the command ``ip`` succeeds."""
    return subprocess.run(["ip", *arguments], capture_output=True).returncode == 0


@pytest.fixture
def cable() -> Iterator[None]:
    """Two namespaces that reach each other."""
    needs("" if shutil.which("ip") else "not installed: ip (apt-get install iproute2)")
    if os.geteuid() != 0 or not ip("netns", "add", NAMES[0]):
        pytest.skip("needs root and network namespaces")
    try:
        assert ip("netns", "add", NAMES[1])
        assert ip("link", "add", "ll1", "netns", NAMES[0], "type", "veth", "peer", "name", "ll2", "netns", NAMES[1])
        for name, address, device in zip(NAMES, ADDRESSES, ("ll1", "ll2"), strict=True):
            assert ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            assert ip("-n", name, "link", "set", "lo", "up")
            assert ip("-n", name, "link", "set", device, "up")
        yield
    finally:
        for name in NAMES:
            switch_off(name)
            ip("netns", "del", name)


def switch_off(name: str) -> None:
    """Kills all processes of a namespace."""
    pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, encoding="utf-8").stdout.split()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def run_of(uri: str, folder: Path) -> RunRecord | None:
    runs = open_store(TrackingConfig(uri=uri), folder).runs()
    return runs[-1] if runs else None


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("off", [0, 1])
def test_a_node_that_is_switched_off_ends_the_job(off: int, cable: None, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert run_of(uri, tmp_path) is None  # creates the store before both nodes use it
    settings = [
        "model=feedforward",
        "model.hidden=[8]",
        "epochs=100000",
        "loader.num_workers=0",
        "measure=bare",
        "evaluate=false",
    ]
    settings += [
        "launch=nodes",
        f"launch.rendezvous={ADDRESSES[0]}:29513",
        f"tracking.uri={uri}",
        "checkpoint.every_minutes=0",
    ]
    nodes = []
    for number, name in enumerate(NAMES):
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "experiments.train", *settings]
        environment = {**os.environ, "SLURMD_NODENAME": name, "TMPDIR": str(tmp_path)}
        command.append(f"checkpoint.dir={tmp_path}/{number}")
        with (tmp_path / f"{name}.txt").open("wb") as output:
            nodes.append(
                subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=output, stderr=subprocess.STDOUT)
            )
    wait_until(lambda: any(tmp_path.glob("*/*/checkpoint.pt")), START_S)  # both nodes train
    off_s = time.monotonic()
    assert ip("-n", NAMES[off], "link", "set", ("ll1", "ll2")[off], "down")  # no packet says goodbye
    switch_off(NAMES[off])
    other = 1 - off
    assert nodes[other].wait(END_S) == 1
    assert time.monotonic() - off_s < DETECTED_S
    nodes[off].wait(END_S)
    text = (tmp_path / f"{NAMES[other]}.txt").read_text(encoding="utf-8")
    assert text.count("stopped answering") == 1, text
    run = run_of(uri, tmp_path)
    assert run is not None
    assert run.status == "FAILED"
    assert "stopped answering" in run.tags["error"]


def wait_until(happens: object, seconds: float) -> None:
    """Waits until a function returns something true."""
    assert callable(happens)
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.2)
