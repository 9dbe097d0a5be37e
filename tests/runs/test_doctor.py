"""The doctor as a command, and its checks of runs that would fail or be slow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loaderlab.config import PROJECT, Failed, TrainConfig
from loaderlab.runs import doctor
from loaderlab.system import doctor as judgements
from loaderlab.system.doctor import Check
from loaderlab.system.terminal import Terminal


def test_the_doctor_is_a_command(store_uri: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.doctor", f"tracking.uri={store_uri}", "device=cpu"]
    command += [f"checkpoint.dir={tmp_path / 'outputs'}", f"data.root={tmp_path / 'digits'}"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    names = ["clock", "encoding", "user", "folders", "cores", "memory", "open files", "/dev/shm", "data.root"]
    names += ["listing cache", "temporary files", "outputs", "store", "store's disk", "driver", "device"]
    lines = done.stdout.splitlines()
    assert [line[9:27].strip() for line in lines] == names, done.stderr
    assert done.returncode == any(line.startswith("fails") for line in lines)


def test_a_run_that_would_fail_is_an_error(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    terminal = Terminal()
    (tmp_path / "file").write_text("", encoding="utf-8")
    config = make_config(f"tracking.uri=sqlite:///{tmp_path / 'file' / 'm.db'}", "device=cpu")
    with pytest.raises(Failed, match="a run would fail: .*store"):
        doctor.examine(config, terminal)
    (line,) = [text for text in terminal.said if text.startswith("fails    store")]
    assert "Type for example: tracking.uri=" in line


@pytest.mark.parametrize("arguments", [["-m", "seed=1,2"], ["study=ladder"]])
def test_a_sweep_is_refused(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "experiments.doctor", *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip().startswith("error: the doctor checks one run")


def checked(config: TrainConfig, *names: str) -> list[Check]:
    """The checks with these names; the store and the device are not examined."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "_store", lambda _: iter(()))
        patch.setattr(doctor, "_device", lambda _: judgements.device("cpu", ""))
        return [check for check in doctor.checks(config) if check.name in names]


@pytest.mark.parametrize(
    ("overrides", "needed"),
    [
        (["loader.num_workers=2"], True),
        ([], True),
        (["loader=replay"], True),
        (["loader=replay", "evaluate=false"], False),
        (["loader.num_workers=0"], False),
        (["loader=spdl"], False),
        (["loader=resident"], False),
        (["loader=dali"], False),
        (["data=vectors", "model=feedforward"], False),
        (["data=vectors", "model=feedforward", "data.work=1"], True),
        (["data=vectors", "model=feedforward", "loader.num_workers=1"], True),
        (["data=mnist"], False),
    ],
)
def test_shared_memory_is_checked_only_where_workers_need_it(
    overrides: list[str], needed: bool, make_config: Callable[..., TrainConfig]
) -> None:
    assert bool(checked(make_config(*overrides, "device=cpu"), "/dev/shm")) == needed


@pytest.mark.parametrize(
    ("overrides", "state"),
    [
        (["data=vectors", "model=feedforward"], "ok"),
        (["loader.num_workers=2"], "ok"),
        (["loader.num_workers=5"], "warning"),
        (["loader.num_workers=6"], "fails"),
        (["loader.num_workers=6", "evaluate=false"], "warning"),
    ],
)
def test_64_open_files_limit_the_number_of_workers(
    overrides: list[str], state: str, make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real runs failed with 6 workers at 64, and passed with 5 at 62 and with 4 at 64."""
    monkeypatch.setattr(doctor, "_soft_limit", lambda: 64)
    (check,) = checked(make_config(*overrides, "device=cpu"), "open files")
    assert check.state == state


@pytest.mark.parametrize("data", ["digits", "photos"])
def test_the_folder_of_generated_data_is_checked(
    data: str, make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    not_writable = make_config(f"data={data}", f"data.root={tmp_path / 'file' / 'below'}", "device=cpu")
    (check,) = checked(not_writable, "data.root")
    assert check.state == "fails"
    writable = make_config(f"data={data}", f"data.root={tmp_path / 'new'}", "device=cpu")
    (check,) = checked(writable, "data.root")
    assert check.state == "ok"
    assert not (tmp_path / "new").exists()


def test_generated_data_that_exists_is_not_checked(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    (tmp_path / "160px_444_q90").mkdir()
    assert checked(make_config("data=digits", f"data.root={tmp_path}", "device=cpu"), "data.root") == []


def test_a_listing_cache_that_cannot_be_written_is_a_warning(
    make_config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run itself also warns, and continues."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    config = make_config("device=cpu")
    assert [check.state for check in checked(config, "listing cache")] == ["ok"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [check.state for check in checked(config, "listing cache")] == ["warning"]
    assert checked(make_config("data=vectors", "model=feedforward", "device=cpu"), "listing cache") == []
