"""Runs the process of a part, and stores how each run of it ended. MLflow is imported only to read the store of a sweep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_acceptance import kept
from benchmarks.gpu_acceptance.identity import Machine, identity
from benchmarks.gpu_acceptance.parts import Part, Setting
from loaderlab.config import PROJECT, TrackingConfig, UserError
from loaderlab.system.causes import reason
from loaderlab.system.files import atomic_file
from loaderlab.system.versions import git_commit

if TYPE_CHECKING:
    from loaderlab.tracking.store import Store

END_TIMEOUT_S = 25  # for a part to end after Ctrl-C: a sweep records its results
# asks Linux for SIGTERM when the parent process ends (prctl with PR_SET_PDEATHSIG), then becomes the program
TETHERED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"


@dataclass
class Turn:
    """One run of a part.

    Attributes:
        began: date and time with the time zone.
        commit: the Git commit; without Git, a digest of the code.
        status: ``done``, ``failed``, or ``cut`` if the time ran out or it was interrupted.
        seconds: None if this program was killed before it could write them.
        stage: of the part, from 0.
        machine: the `identity` of the machine; empty for the environment, which measures it.
    """

    began: str
    command: str
    commit: str
    status: str = "cut"
    seconds: float | None = None
    exit_code: int | None = None
    stage: int = 0
    machine: Machine = field(default_factory=dict)


@dataclass
class State:
    """All runs of a part; stored in its ``part.json``.

    Attributes:
        typed: the overrides of its sweep, with all stages.
        num_stages: of the sweep; 1 for a program.
    """

    device: str
    typed: list[str]
    turns: list[Turn] = field(default_factory=list)
    num_stages: int = 1

    def stage_status(self, stage: int) -> str:
        """The status of the last run of a stage; ``not run`` if there was none."""
        return next((turn.status for turn in reversed(self.turns) if turn.stage == stage), "not run")

    @property
    def num_done(self) -> int:
        """The number of stages that are done."""
        return sum(self.stage_status(stage) == "done" for stage in range(self.num_stages))

    @property
    def status(self) -> str:
        """``not run``, ``done``, ``partly`` if the last run is done but stages are missing; otherwise the last run's status."""
        if not self.turns or self.num_done == self.num_stages:
            return "done" if self.turns else "not run"
        return "partly" if self.turns[-1].status == "done" else self.turns[-1].status

    @property
    def seconds(self) -> float:
        """The duration of all runs."""
        return sum(turn.seconds or 0.0 for turn in self.turns)


def state_of(setting: Setting, part: Part) -> State:
    """The stored runs of a part; none if its sweep has changed since.

    Raises:
        UserError: the folder belongs to a run on another device, or the stored file is damaged.
    """
    sweeps = part.sweeps(setting)
    fresh = State(setting.device, sweeps[-1], num_stages=len(sweeps))
    file = setting.folder / part.name / "part.json"
    if not file.exists():
        return fresh
    content = read(file)
    turns = [Turn(**turn) for turn in content["turns"]]
    stored = State(content["device"], content["typed"], turns, len(sweeps))
    if stored.device != fresh.device:
        raise UserError(
            f"{setting.folder} contains a run on {stored.device}. Choose another folder: --folder {setting.folder}_{setting.device}"
        )
    return stored if stored.typed == fresh.typed else fresh


def run(setting: Setting, part: Part, minutes: float, stage: int = 0) -> State:
    """The state of a part after another run of a stage of at most ``minutes``, which is stored.

    Raises:
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the part was ended, with the status ``cut``.
    """
    folder = setting.folder / part.name
    folder.mkdir(parents=True, exist_ok=True)
    state = state_of(setting, part)
    again = bool(state.turns) and can_resume(setting, part)
    command = part.command(setting, stage, again=again)
    turn = Turn(datetime.now().astimezone().isoformat(timespec="seconds"), " ".join(command[1:]), commit(), stage=stage)
    turn.machine = {} if part.name == "environment" else measured_machine(setting)
    state.turns.append(turn)
    keep(folder / "part.json", state)  # stored now, in case this program is killed
    began = time.monotonic()
    with (folder / "output.txt").open("a", encoding="utf-8") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", TETHERED, *command],
            cwd=setting.folder if part.overrides else PROJECT,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment(),
        )
        try:
            turn.exit_code = process.wait(60 * minutes)
            turn.status = "failed" if turn.exit_code else "done"
        except subprocess.TimeoutExpired:
            end(process)
        except BaseException:
            end(process)
            raise
        finally:
            turn.seconds = round(time.monotonic() - began, 1)
            keep(folder / "part.json", state)
    return state


def measured_machine(setting: Setting) -> Machine:
    """The machine of the environment part, which this command has measured before every other part; empty without one."""
    file = setting.folder / "environment" / "found.json"
    return identity(read(file)["machine"]) if file.exists() else {}


def commit() -> str:
    """The Git commit; without Git, a digest of the code."""
    return git_commit(PROJECT) or f"unknown, code {kept.code_digest()}"


def read(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged: {reason(error)}. Remove its folder to measure this part again") from None


def keep(file: Path, state: State) -> None:
    """Writes the state; an interruption leaves the old file."""
    with atomic_file(file) as partial:
        partial.write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")


def environment() -> dict[str, str]:
    """The environment variables with which Python imports the project without an installation."""
    paths: Sequence[str] = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT / "src"), str(PROJECT), *paths])}


def end(process: subprocess.Popen[bytes]) -> None:
    """Asks the process to end with SIGINT, then kills it with all processes that it started."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C kills it at once
        os.killpg(process.pid, signal.SIGINT)
        process.wait(END_TIMEOUT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def sweep_of(setting: Setting, part: Part) -> tuple[Store, str] | None:
    """The store of the part's sweep and the id of its run; None if no sweep was started.

    Raises:
        StoreError: the store is not valid or cannot be read.
    """
    if not part.overrides:
        return None
    from loaderlab.tracking import open_store
    from loaderlab.tracking.store import NothingRecorded

    try:
        store = open_store(TrackingConfig(uri=setting.store, experiment=part.name), PROJECT, create=False)
    except NothingRecorded:
        return None
    newest = store.newest_sweep()
    return None if newest is None else (store, newest.run_id)


def can_resume(setting: Setting, part: Part) -> bool:
    """Whether the part has a sweep to resume. Its runs that were killed on another host are marked as KILLED.

    Only this command uses the store, because it has the lock of the folder. The store itself marks only runs of its own host.
    """
    sweep = sweep_of(setting, part)
    if sweep is None:
        return False
    store, run_id = sweep
    for run in store.runs("attributes.status = 'RUNNING'"):
        store.client.set_tag(run.run_id, "error", "its process was killed")
        store.client.set_terminated(run.run_id, "KILLED")
    return store.read(run_id, "plan.json") is not None  # it may have been killed before it wrote its jobs
