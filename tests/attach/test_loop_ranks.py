"""`watch` in a user's own loop on several ranks: the collectives joined with the loop's steps, and real ranks under torchrun."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow.artifacts
import pytest
import torch
from mlflow.tracking import MlflowClient
from torch.utils.data import DataLoader, TensorDataset

from loaderlab import watch
from loaderlab.attach.events import GRADIENTS, UNKNOWN, Kind, Row
from loaderlab.attach.loop_collectives import OTHER, LoopCollectives, with_collectives
from loaderlab.attach.loop_ranks import NO_GROUP
from loaderlab.attach.recorder import recorder
from loaderlab.attach.session import Session
from loaderlab.attach.watch import _setup
from loaderlab.device.resolve import resolve_device
from loaderlab.device.step_times import DeviceStep
from loaderlab.meter.step import Step
from loaderlab.system.machine import available_cores

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
PATIENCE_S = 120
MS = 1_000_000
LOOP = """
import os, signal, sys, time
from pathlib import Path
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from loaderlab import watch

what, rank = sys.argv[1], int(os.environ["RANK"])
if rank == 0:
    Path("first.pid").write_text(str(os.getpid()))
if what != "no group":
    distributed.init_process_group("gloo")

def catches_sigterm(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = [line.split()[1] for line in lines if line.startswith("SigCgt:")]
    return bool(int(caught, 16) >> signal.SIGTERM - 1 & 1)

class Samples(Dataset):
    def __len__(self):
        return 60
    def __getitem__(self, index):
        time.sleep(0.009 if rank == 1 else 0.001)
        return torch.ones(4)

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
    def forward(self, inputs):
        time.sleep(0.010)
        return self.layer(inputs)

model = Model() if what == "no group" else DistributedDataParallel(Model())
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
record = {"record": "a run", "uri": "sqlite:///" + os.path.abspath("mlflow.db")} if what == "record" else {}
with watch("cpu", **record) as meter:
    for step, inputs in enumerate(meter.batches(DataLoader(Samples()))):
        if what == "dies" and step == 40:
            if rank == 0:
                break
            while not catches_sigterm(Path("first.pid").read_text()):  # until rank 0 waits for this result
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        model(inputs).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        meter.step(num_samples=1)
    alone = meter.verdict()
if rank == 0:
    straggler = meter.ranks.verdict.straggler
    print(straggler and (straggler.rank, straggler.cause))
    print(meter.verdict())
else:
    print("other", meter.ranks, str(meter.verdict()) in str(alone).replace("; this is rank 1 of 2 alone", ""))
"""


def ranks(folder: Path, what: str) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(LOOP, encoding="utf-8")
    return subprocess.run(
        [*TORCHRUN, "train.py", what],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def in_one_line(text: str) -> str:
    return " ".join(text.split())


# ---- real ranks ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # it judges sleeps, which take longer on a busy machine
def test_the_first_rank_prints_the_straggler(tmp_path: Path) -> None:
    done = ranks(tmp_path, "record")
    assert done.returncode == 0, done.stderr
    assert "(1, 'loader')" in done.stdout
    assert done.stdout.count("rank 1 (node ") == 1, "in the verdict of the first rank"
    assert in_one_line(done.stderr).count("is the straggler") == 1
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([entry.experiment_id for entry in client.search_experiments()])
    assert (run.data.tags["straggler.rank"], run.data.tags["straggler.cause"]) == ("1", "loader")


def test_the_first_rank_records_one_run(tmp_path: Path) -> None:
    done = ranks(tmp_path, "record")
    assert done.returncode == 0, done.stderr
    assert "other None" in done.stdout
    printed = in_one_line(done.stderr)
    assert printed.count("loaderlab: a run on 2 ranks: ") == 1
    assert "Note" not in printed, "the exchange of gradients was separated"
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiments = [entry.experiment_id for entry in client.search_experiments()]
    (run,) = client.search_runs(experiments)
    files = tmp_path / "files"
    mlflow.artifacts.download_artifacts(
        artifact_uri=run.info.artifact_uri, dst_path=str(files), tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}"
    )
    (steps,) = files.rglob("steps.csv")
    with steps.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [sum(row["rank"] == rank for row in rows) for rank in ("0", "1")] == [60, 60]
    assert all(float(row["collective_ms"]) > 0 for row in rows)
    (nodes,) = files.rglob("nodes.json")
    (node,) = json.loads(nodes.read_text(encoding="utf-8")).values()
    assert node["ranks"] == [0, 1]
    assert node["cores_available"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("what", ["no group", "dies"])
def test_without_the_others_the_first_rank_has_its_own_verdict(what: str, tmp_path: Path) -> None:
    done = ranks(tmp_path, what)
    printed = in_one_line(done.stderr)
    assert "loaderlab: training loop, rank 0 of 2: " in printed
    assert (NO_GROUP if what == "no group" else "rank 1: it sent no result") in printed
    assert (done.returncode == 0) == (what == "no group")
    if what == "no group":
        assert NO_GROUP in done.stdout
        assert "other None" in done.stdout


# ---- in one process ------------------------------------------------------------------------------------------------------


def test_a_loop_without_other_ranks_records_no_collectives(capsys: pytest.CaptureFixture[str]) -> None:
    with watch("cpu") as meter:
        for inputs in meter.batches(DataLoader(TensorDataset(torch.ones(4, 2)))):
            assert not recorder.collecting
            meter.step(num_samples=len(inputs))
    assert meter.ranks is None
    assert capsys.readouterr().err == ""


def test_the_cores_are_those_of_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(available_cores()))
    assert _setup(DataLoader(TensorDataset(torch.ones(4, 2))), resolve_device("cpu")).cores == 1


def test_collectives_end_with_the_last_loop_that_needs_them() -> None:
    device = resolve_device("cpu")
    first, second = LoopCollectives(device), LoopCollectives(device)
    recorder.add_collective(1, 3, GRADIENTS, None)
    assert first.ended()[0][0].end_ns == 3
    assert recorder.collecting
    assert len(second.ended()[0]) == 1
    assert not recorder.collecting


def test_a_measurement_inside_the_loop_takes_the_collectives() -> None:
    loop, session = LoopCollectives(resolve_device("cpu")), Session()
    session.start()
    session.stop()
    assert recorder.collecting, "the loop has not ended"
    assert loop.ended() == ([], OTHER)


def collective(begin_ms: float, end_ms: float, flags: int = GRADIENTS, idle_ms: float | None = None) -> Row:
    idle = UNKNOWN if idle_ms is None else round(idle_ms * MS)
    return Row(
        Kind.COLLECTIVE, UNKNOWN, UNKNOWN, 1, round(begin_ms * MS), round(end_ms * MS), flags=flags, idle_ns=idle
    )


def step(number: int, epoch: int, ms: float, device: DeviceStep | None = None) -> Step:
    return Step(epoch, number, 0, 8, (MS, 0, round((ms - 1) * MS), 0, 0), device=device)


def test_collectives_belong_to_the_step_in_which_they_begin() -> None:
    """Epochs from 100 to 120 and from 200 to 210 ms, with an evaluation between them."""
    steps = [step(0, 0, 10), step(1, 0, 10), step(2, 1, 10)]
    rows = [
        collective(101, 102, flags=0),
        collective(106, 109),
        collective(150, 155),
        collective(204, 208),
    ]
    joined, exchanging = with_collectives(steps, [(100 * MS, 120 * MS), (200 * MS, 210 * MS)], rows)
    assert [entry.collective_ms for entry in joined] == [4.0, 0.0, 4.0]
    assert exchanging == 2


def test_a_device_has_its_own_times_in_collectives() -> None:
    device = DeviceStep(2.0, 0.0, 8.0, 0.0, 0.0, 0.5)
    steps = [step(number, 0, 10, device) for number in range(3)]
    rows = [collective(5, 6, idle_ms=3.0), collective(15, 16, idle_ms=30.0), collective(25, 26)]
    joined, _ = with_collectives(steps, [(0, 30 * MS)], rows)
    assert [entry.collective_ms for entry in joined] == [3.0, 8.0, 0.0]
