"""Which settings may change when a run is resumed, and which checkpoint is the latest."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from loaderlab.config import TrainConfig, UserError, flatten
from loaderlab.loaders.contract import EpochPlan
from loaderlab.runs import job, run
from loaderlab.system.terminal import Terminal
from loaderlab.training.checkpoint import FREE, NAME, Checkpoint, _find, _plain, check_epoch, load
from loaderlab.training.step import Progress
from tests.conftest import compose


@pytest.mark.parametrize("name", FREE)
def test_every_free_name_is_a_setting_or_a_group(name: str) -> None:
    """No other setting begins with it, because `load` uses these names as prefixes."""
    settings = [setting for setting, _ in flatten(compose([])) if setting.startswith(name)]
    assert settings if name.endswith(".") else settings == [name]


def test_a_run_resumes_with_another_number_of_threads(
    make_config: Callable[..., TrainConfig], terminal: Terminal
) -> None:
    common = ["checkpoint.every_minutes=0", "checkpoint.keep=true"]
    for overrides in (["epochs=1", "torch_threads=1"], ["epochs=2", "torch_threads=2", "resume=latest"]):
        config = make_config(*common, *overrides)
        result = run.run(config, job.single(config, overrides), terminal)
        assert result.status == "FINISHED"
        assert "train/loss" in result.figures
    assert any(text.startswith("resumed from") and "1 epochs" in text for text in terminal.said)


def write(folder: Path, name: str, written_ns: int | None, step: int, mtime_ns: int) -> Path:
    path = folder / name / NAME
    path.parent.mkdir()
    content = {"trained": {"epoch": 1, "step": step, "updates": step}, "state": {}, "config": {}, "run_id": name}
    torch.save(content if written_ns is None else content | {"written_ns": written_ns}, path)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


@given(st.permutations(range(3)), st.permutations(range(3)), st.booleans(), st.booleans())
def test_property_the_latest_checkpoint_was_written_last(
    written: list[int], mtimes: list[int], is_equal: bool, has_old: bool
) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        for index, (order, mtime) in enumerate(zip(written, mtimes, strict=True)):
            write(folder, f"run{index}", 10**18 + order, 100 - order, 10**18 + (0 if is_equal else mtime))
        if has_old:  # of an earlier version, with the newest modification time
            write(folder, "old", None, 1000, 2 * 10**18)
        assert _find("latest", folder).parent.name == f"run{written.index(2)}"


def test_copies_of_one_checkpoint_are_the_same_latest(tmp_path: Path) -> None:
    first = write(tmp_path, "b", 10**18, 5, 10**18)
    shutil.copytree(first.parent, tmp_path / "a")
    write(tmp_path, "c", 10**18 - 1, 5, 2 * 10**18)
    assert _find("latest", tmp_path).parent.name == "a"


def test_an_unknown_latest_checkpoint_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", None, 5, 1)
    assert _find("latest", tmp_path).parent.name == "a"  # the only one
    write(tmp_path, "b", None, 5, 2)
    with pytest.raises(
        UserError, match=r"resume=latest: 2 checkpoints are from an earlier .*example: resume=.*a/check"
    ):
        _find("latest", tmp_path)
    newest = write(tmp_path, "c", 10**18, 5, 3)
    assert _find("latest", tmp_path) == newest
    (tmp_path / "b" / NAME).write_bytes(b"cut off")
    with pytest.raises(
        UserError,
        match=r"resume=latest: .*b/checkpoint.pt cannot be read, .*Type: resume=/path/checkpoint.pt, or remove",
    ) as error:
        _find("latest", tmp_path)
    assert "\n" not in str(error.value)


def test_a_checkpoint_records_when_it_was_written(make_config: Callable[..., TrainConfig], terminal: Terminal) -> None:
    for epochs in (1, 2):
        config = make_config("checkpoint.every_minutes=0", "checkpoint.keep=true", f"epochs={epochs}")
        run_id = run.run(config, job.single(config, []), terminal).run_id
        os.utime(Path(config.checkpoint.dir) / run_id / NAME, ns=(0, 0))
    assert _find("latest", Path(config.checkpoint.dir)).parent.name == run_id


def checkpoint_of(config: TrainConfig, world_size: int | None) -> Path:
    """A checkpoint of so many ranks after one epoch; None: of a version without ranks."""
    path = Path(config.checkpoint.dir) / "an id" / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "state": {},
        "trained": {"epoch": 1, "step": 3, "updates": 3},
        "config": {name: _plain(value) for name, value in config.recorded()},
        "run_id": "an id",
    }
    torch.save(content if world_size is None else content | {"world_size": world_size}, path)
    return path


@pytest.mark.parametrize(
    ("before", "batch_before", "now", "batch_now"),
    [(2, 8, 2, 8), (2, 8, 4, 4), (4, 4, 2, 8), (2, 8, 1, 16), (1, 16, 2, 8), (None, 16, 2, 8), (None, 8, 1, 8)],
)
def test_another_number_of_ranks_resumes_with_the_same_global_batch(
    before: int | None, batch_before: int, now: int, batch_now: int, make_config: Callable[..., TrainConfig]
) -> None:
    checkpoint_of(make_config("epochs=1", f"batch_size={batch_before}"), before)
    loaded = load(make_config("epochs=2", f"batch_size={batch_now}", "resume=latest"), now)
    assert (loaded.run_id, loaded.progress.step) == ("an id", 3)


@pytest.mark.parametrize(
    ("before", "batch_before", "now", "batch_now", "message"),
    [
        (
            2,
            8,
            4,
            8,
            r"written by 2 ranks with a global batch of 16, and now 4 ranks would have 32.*Type: batch_size=4,",
        ),
        (2, 8, 1, 8, r"by 2 ranks with a global batch of 16, and now 1 ranks would have 8.*Type: batch_size=16, or"),
        (
            2,
            8,
            3,
            8,
            r"and now 3 ranks would have 24, so an epoch would have other steps. Type: the same number of ranks",
        ),
        (None, 8, 2, 8, r"written by 1 ranks with a global batch of 8, and now 2 ranks would have 16"),
        (2, 8, 2, 4, r"this config differs from that of the checkpoint .*: batch_size \(was 8, is 4\)"),
    ],
)
def test_another_global_batch_is_refused(
    before: int | None,
    batch_before: int,
    now: int,
    batch_now: int,
    message: str,
    make_config: Callable[..., TrainConfig],
) -> None:
    checkpoint_of(make_config("epochs=1", f"batch_size={batch_before}"), before)
    with pytest.raises(UserError, match=message):
        load(make_config("epochs=2", f"batch_size={batch_now}", "resume=latest"), now)


@pytest.mark.parametrize(
    ("num_samples", "before", "now", "drop_last", "steps"),
    [
        (21, (2, 1), (1, 2), False, (10, 11)),
        (21, (1, 2), (2, 1), False, (11, 10)),
        (22, (3, 1), (1, 3), False, (7, 8)),
        (21, (2, 1), (1, 2), True, None),
        (20, (2, 1), (1, 2), False, None),
        (21, (2, 2), (4, 1), False, (6, 5)),
        (21, (2, 2), (1, 4), False, None),
    ],
)
def test_a_resumed_epoch_has_as_many_steps(
    num_samples: int,
    before: tuple[int, int],
    now: tuple[int, int],
    drop_last: bool,
    steps: tuple[int, int] | None,
    make_config: Callable[..., TrainConfig],
) -> None:
    """``before`` and ``now``: the number of ranks, and the batch of each."""
    saved = Checkpoint(Path("file.pt"), {}, Progress(), "an id", *before)
    plan = EpochPlan(num_samples, now[1], True, drop_last, world_size=now[0])
    config = make_config("resume=latest", f"batch_size={now[1]}")
    if steps is None:
        check_epoch(saved, plan, config)
        return
    message = (
        f"written by {before[0]} ranks with {steps[0]} steps in an epoch, and now {now[0]} ranks would have {steps[1]},"
    )
    with pytest.raises(UserError, match=message):
        check_epoch(saved, plan, config)


def test_a_run_with_other_steps_in_an_epoch_does_not_start(
    make_config: Callable[..., TrainConfig], terminal: Terminal
) -> None:
    data = ["data=custom", "data.target=tests.training.rank_data:vectors", "model=feedforward", "drop_last=false"]
    data += ["+data.options={num_train: 21, num_val: 4}", "evaluate=false"]
    checkpoint_of(make_config(*data, "epochs=1", "batch_size=1"), 2)
    config = make_config(*data, "epochs=2", "batch_size=2", "resume=latest")
    with pytest.raises(UserError, match=r"^resume=latest: .*10 steps in an epoch.*Type: the same number of ranks"):
        run.run(config, job.single(config, []), terminal)


def test_the_same_global_batch_does_not_hide_other_differences(make_config: Callable[..., TrainConfig]) -> None:
    checkpoint_of(make_config("epochs=1", "batch_size=8", "seed=1"), 2)
    with pytest.raises(UserError, match=r"differs from that of the checkpoint .*: seed \(was 1, is 2\)$"):
        load(make_config("epochs=2", "batch_size=4", "seed=2", "resume=latest"), 4)
