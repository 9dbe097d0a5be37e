"""A part's process, and what is kept of how it went."""

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
from typing import Any

from benchmarks.gpu_acceptance import kept
from benchmarks.gpu_acceptance.parts import Part, Setting
from loaderlab.config import PROJECT, TrackingConfig, UserError
from loaderlab.system.causes import reason
from loaderlab.system.files import atomic_file
from loaderlab.system.versions import git_commit
from loaderlab.tracking import open_store
from loaderlab.tracking.store import NothingRecorded, Store

PATIENCE_S = 60  # for a part to end after a Ctrl-C: a sweep records what it has
# asks Linux for a SIGTERM when the process that started this one is gone (prctl's PR_SET_PDEATHSIG), then becomes the program
TETHERED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"


@dataclass
class Turn:
    """One go at a part.

    Attributes:
        began: date and time with the zone.
        commit: and where there is no Git, what the code itself gives.
        status: ``done``, ``failed``, or ``cut``: out of time, or ended from outside.
        seconds: None where nobody lived to write it.
    """

    began: str
    command: str
    commit: str
    status: str = "cut"
    seconds: float | None = None
    exit_code: int | None = None


@dataclass
class State:
    """How a part went, over all turns at it; kept as its ``part.json``."""

    device: str
    typed: list[str]
    turns: list[Turn] = field(default_factory=list)

    @property
    def status(self) -> str:
        """Of the last turn; ``not run`` where there was none."""
        return self.turns[-1].status if self.turns else "not run"

    @property
    def seconds(self) -> float:
        return sum(turn.seconds or 0.0 for turn in self.turns)


def state_of(setting: Setting, part: Part) -> State:
    """What is kept of a part; of one that was another sweep then, nothing.

    Raises:
        UserError: the folder belongs to a run on another device, or what is kept there is damaged.
    """
    fresh = State(setting.device, part.typed(setting))
    file = setting.folder / part.name / "part.json"
    if not file.exists():
        return fresh
    kept = read(file)
    found = State(kept["device"], kept["typed"], [Turn(**turn) for turn in kept["turns"]])
    if found.device != fresh.device:
        raise UserError(
            f"{setting.folder} holds parts of a run on {found.device}. Type another folder: --folder {setting.folder}_{setting.device}"
        )
    return found if found.typed == fresh.typed else fresh


def run(setting: Setting, part: Part, minutes: float) -> State:
    """Runs one part, ``minutes`` at most, and keeps how it went.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM here; the part has then ended, as one that was cut.
    """
    folder = setting.folder / part.name
    folder.mkdir(parents=True, exist_ok=True)
    state = state_of(setting, part)
    command = part.command(setting, again=bool(state.turns) and sweep_of(setting, part) is not None)
    turn = Turn(datetime.now().astimezone().isoformat(timespec="seconds"), " ".join(command[1:]), commit())
    state.turns.append(turn)
    keep(folder / "part.json", state)  # whoever ends us: it was begun
    began = time.monotonic()
    with (folder / "output.txt").open("a", encoding="utf-8") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", TETHERED, *command],
            cwd=PROJECT,
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


def commit() -> str:
    return git_commit(PROJECT) or f"unknown, code {kept.code_digest()}"


def read(file: Path) -> Any:
    """What was kept as JSON.

    Raises:
        UserError: it is damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{file} is damaged: {reason(error)}. Remove its folder, and this part is measured again"
        ) from None


def keep(file: Path, state: State) -> None:
    """Whole or not at all."""
    with atomic_file(file) as partial:
        partial.write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")


def environment() -> dict[str, str]:
    """The project's source is found without an installation."""
    known: Sequence[str] = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT / "src"), str(PROJECT), *known])}


def end(process: subprocess.Popen[bytes]) -> None:
    """Asks it to end, and sees to it that it and all that it has started have."""
    with suppress(
        ProcessLookupError, subprocess.TimeoutExpired, KeyboardInterrupt
    ):  # a second Ctrl-C is out of patience
        os.killpg(process.pid, signal.SIGINT)
        process.wait(PATIENCE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def sweep_of(setting: Setting, part: Part) -> tuple[Store, str] | None:
    """Where the part's sweep is recorded, and its run's id; None where none has been begun.

    Raises:
        StoreError: the store is not one, or cannot be read.
    """
    if not part.overrides:
        return None
    try:
        store = open_store(TrackingConfig(uri=setting.store, experiment=part.name), PROJECT, create=False)
    except NothingRecorded:
        return None
    newest = store.newest_sweep()
    return None if newest is None else (store, newest.run_id)
