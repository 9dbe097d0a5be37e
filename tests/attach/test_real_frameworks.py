"""The callbacks with the real frameworks, if they are installed: planted waits, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from loaderlab.config import PROJECT
from tests.attach.sleeping_model import MODEL

SHARED = """
import sys, time
import torch
import torch.utils.data.dataloader as dataloader
from torch.optim.optimizer import register_optimizer_step_post_hook

WORKERS, ACCUMULATE = int(sys.argv[1]), int(sys.argv[2])
BATCH, STEPS = 4, 40
waits, ends = [0.0], []  # seconds before each optimizer step, and its time
advance = dataloader._BaseDataLoaderIter.__next__

def timed(self):
    begin = time.perf_counter()
    try:
        return advance(self)
    finally:
        waits[-1] += time.perf_counter() - begin

dataloader._BaseDataLoaderIter.__next__ = timed

def stepped(*_):
    ends.append(time.perf_counter())
    waits.append(0.0)

register_optimizer_step_post_hook(stepped)

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return BATCH * ACCUMULATE * STEPS
    def __getitem__(self, index):
        time.sleep(0.002 if WORKERS == 0 else 0.008)
        return {"inputs": torch.ones(3), "labels": torch.tensor(0)}
"""
REPORT = """
def report(callback, logged):
    # without the first 5 steps, and without the last one: transformers requests the end of the data in it, which joins the
    # workers, and the end of a pass is not part of a step
    share = 100 * sum(waits[5 : len(ends) - 1]) / (ends[-2] - ends[4])
    print("RESULT", share, callback.figures["starvation/starved_pct"], logged["starvation/starved_pct"])
"""
TRANSFORMERS = """
from transformers import Trainer, TrainerCallback, TrainingArguments
from loaderlab import TransformersCallback

logged = {}
class Integration(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **others):
        assert "end" not in logged
        logged.update(logs)
    def on_train_end(self, *args, **others):
        logged["end"] = True

callback = TransformersCallback(log=True)
arguments = TrainingArguments(
    output_dir="out", per_device_train_batch_size=BATCH, gradient_accumulation_steps=ACCUMULATE, max_steps=STEPS,
    dataloader_num_workers=WORKERS, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True)
Trainer(model=Model(), args=arguments, train_dataset=Slow(), callbacks=[Integration(), callback]).train()
report(callback, logged)
"""
LIGHTNING = """
import lightning.pytorch as lightning
from lightning.pytorch.loggers.logger import DummyLogger
from loaderlab import LightningCallback

logged = {}
class Recorded(DummyLogger):
    def log_metrics(self, metrics, step=None):
        logged.update(metrics)

class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = Model()
    def training_step(self, batch, index):
        return self.model(**batch)["loss"]
    def validation_step(self, batch, index):
        pass
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

loader = torch.utils.data.DataLoader(Slow(), batch_size=BATCH, num_workers=WORKERS)
callback = LightningCallback(log=True)
trainer = lightning.Trainer(
    max_epochs=1, accumulate_grad_batches=ACCUMULATE, accelerator="cpu", logger=Recorded(), callbacks=[callback],
    enable_progress_bar=False, enable_checkpointing=False)
trainer.validate(Module(), torch.utils.data.DataLoader(Slow(), batch_size=80), verbose=False)
assert callback.reading is None
waits[:], ends[:] = [0.0], []
trainer.fit(Module(), loader)
report(callback, logged)
"""


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed, which is optional")


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(TRANSFORMERS, marks=needs("transformers"), id="transformers"),
        pytest.param(LIGHTNING, marks=needs("lightning"), id="lightning"),
    ],
)
def test_the_starved_share_is_that_of_an_independent_clock(
    script: str, workers: int, accumulate: int, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(SHARED + MODEL + REPORT + script, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PROJECT / "src"), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "train.py", str(workers), str(accumulate)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    (result,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    truth, measured, logged = map(float, result.split()[1:])
    assert abs(measured - truth) < 3, "points"
    assert logged == measured
    assert "loaderlab: Trainer." in done.stderr
    assert "made at train.py:" in done.stderr


SLOW_RANK = """
import os, time
import torch

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 2 * 4 * 40
    def __getitem__(self, index):
        time.sleep(0.003 if os.environ["RANK"] == "1" else 0.0003)
        return {"inputs": torch.ones(3), "labels": torch.tensor(0)}
"""
TRANSFORMERS_ON_RANKS = """
from transformers import Trainer, TrainingArguments
from loaderlab import TransformersCallback

arguments = TrainingArguments(
    output_dir="out", report_to=[], use_cpu=True, max_steps=40, per_device_train_batch_size=4, save_strategy="no",
    dataloader_pin_memory=False)
Trainer(model=Model(), args=arguments, train_dataset=Slow(), callbacks=[TransformersCallback(json="result.json")]).train()
"""
LIGHTNING_ON_RANKS = """
import lightning.pytorch as lightning
from loaderlab import LightningCallback

class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = Model()
    def training_step(self, batch, index):
        return self.model(**batch)["loss"]
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

trainer = lightning.Trainer(
    max_epochs=1, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False,
    callbacks=[LightningCallback(json="result.json")])
trainer.fit(Module(), torch.utils.data.DataLoader(Slow(), batch_size=4))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(TRANSFORMERS_ON_RANKS, marks=needs("transformers"), id="transformers"),
        pytest.param(LIGHTNING_ON_RANKS, marks=needs("lightning"), id="lightning"),
    ],
)
def test_the_first_of_two_ranks_names_the_slow_one(script: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SLOW_RANK + MODEL + script, encoding="utf-8")
    paths = {"PYTHONPATH": os.pathsep.join([str(PROJECT / "src"), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | paths | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert (result["straggler"]["rank"], result["straggler"]["cause"]) == (1, "loader")
    assert result["notes"] == []
    assert done.stderr.count(" on 2 ranks: starved of data ") == 1
