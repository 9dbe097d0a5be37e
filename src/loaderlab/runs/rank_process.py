"""The process of one rank: it runs its part of the job, and leaves a file that says how it ended."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from loaderlab.config import TrainConfig, UserError, WrongUsage
from loaderlab.runs.job import Job, RunResult
from loaderlab.system.files import atomic_file, write_text
from loaderlab.system.processes import end_with_parent, error_line, exit_with_parent, importing
from loaderlab.system.ranks import Ranks, ranks_of_environment
from loaderlab.system.streams import flushed
from loaderlab.tracking.records import NOT_APPLICABLE

GOOD = ("FINISHED", NOT_APPLICABLE)
INFO, END, ROWS = "info.json", "end.json", "steps.rows"
SAME_S = 2.0  # to wait for the other ranks of this node to report the same error


@dataclass(frozen=True)
class RankTask:
    """What the agent of a node gives to each of its ranks.

    Attributes:
        folder: of the agent; each rank writes into its own folder in it.
    """

    config: TrainConfig
    job: Job
    folder: str


@dataclass(frozen=True)
class RankInfo:
    """A rank that has started.

    Attributes:
        run_id: of the job's run; empty before rank 0 has started it.
        rows: the file with its steps; empty before the training.
        warmup_steps, parallel: of its loop: see `loaderlab.diagnosis.figures.LoopRecord`.
        emulated: it trains on an emulated accelerator.
    """

    rank: int
    world_size: int
    node: str
    pid: int
    run_id: str = ""
    rows: str = ""
    warmup_steps: int = 0
    parallel: int = 1
    emulated: bool = False


@dataclass(frozen=True)
class RankEnd:
    """How a rank ended.

    Attributes:
        status: as of a run.
        error: one line; empty if it finished.
        secondary: it ended because another rank had ended.
        at: time.time() of the end.
        result: of rank 0.
        wrong_usage: see `RunResult`.
    """

    rank: int
    status: str
    error: str = ""
    secondary: bool = False
    at: float = 0.0
    result: RunResult | None = None
    wrong_usage: bool = False


def work(task: RankTask) -> str:
    """Runs this rank's part of the job, and returns its status. It never raises: the agent reads from its file how it ended."""
    end_with_parent()
    _interrupt_once()
    ranks = ranks_of_environment()
    folder = rank_folder(Path(task.folder), ranks.rank)
    folder.mkdir(parents=True, exist_ok=True)
    write_info(folder, RankInfo(ranks.rank, ranks.world_size, ranks.node, os.getpid()))
    with importing():
        import torch

        from loaderlab.runs.run import run
        from loaderlab.system.terminal import Terminal, quiet_terminal
        from loaderlab.training.rank_group import RankGroup, is_broken
    torch.set_num_threads(1)  # until the run sets it: the default would be all cores for every rank
    try:
        group = RankGroup(ranks)
        result = run(task.config, task.job, Terminal() if ranks.is_first else quiet_terminal(), group, folder)
        end = RankEnd(ranks.rank, result.status, result.error, False, time.time(), result)
        with suppress(RuntimeError):
            group.close()
    except BaseException as error:
        end = _failed(ranks, error, secondary=is_broken(error))
    _write_end(folder, end)
    if end.status not in GOOD:
        with suppress(KeyboardInterrupt):
            if not end.secondary:
                _wait_for_others(folder.parent, ranks.local_world_size)
        flushed()
        os._exit(1)  # at once: the shutdown of the interpreter would wait for other ranks
    exit_with_parent()  # torch now waits until the agent has read the status, for ever if the agent was killed
    return end.status


def _wait_for_others(folder: Path, num_ranks: int) -> None:
    """Gives the other ranks of this node time to report the same error, such as a missing folder. The agent ends them as soon as this
    process has ended, and its error would look like that of one rank."""
    until = time.monotonic() + SAME_S
    while time.monotonic() < until and len(list(folder.glob(f"rank_*/{END}"))) < num_ranks:
        time.sleep(0.05)


def _failed(ranks: Ranks, error: BaseException, *, secondary: bool) -> RankEnd:
    if isinstance(error, KeyboardInterrupt):
        return RankEnd(ranks.rank, "KILLED", error_line(error), True, time.time())
    if not isinstance(error, UserError) and not secondary:
        traceback.print_exc()
    sys.stderr.flush()
    wrong_usage = isinstance(error, WrongUsage)
    return RankEnd(ranks.rank, "FAILED", error_line(error), secondary, time.time(), wrong_usage=wrong_usage)


def _interrupt_once() -> None:
    """Lets only the first Ctrl-C or SIGTERM interrupt this process, since the agent repeats a signal that the terminal also sent.

    A run installs its own handler of SIGTERM while it runs.
    """

    def ignore(number: int, frame: FrameType | None) -> None:
        """A signal that has arrived already would raise an error after SIG_IGN."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, ignore)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)


# ---- the files of a rank ---------------------------------------------------------------------------------------


def rank_folder(folder: Path, rank: int) -> Path:
    """The folder of a rank in the folder of its agent."""
    return folder / f"rank_{rank}"


def write_info(folder: Path, info: RankInfo) -> None:
    """Replaces the rank's description."""
    _replace(folder / INFO, asdict(info))


def _write_end(folder: Path, end: RankEnd) -> None:
    result = None if end.result is None else asdict(end.result) | {"figures": dict(end.result.figures)}
    _replace(folder / END, asdict(end) | {"result": result})


def _replace(path: Path, content: dict[str, Any]) -> None:
    with atomic_file(path) as partial:
        write_text(partial, json.dumps(content))


def read_infos(folder: Path) -> list[RankInfo]:
    """The ranks of this node that have started, in their order."""
    infos = [RankInfo(**json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob(f"rank_*/{INFO}")]
    return sorted(infos, key=lambda info: info.rank)


def read_ends(folder: Path) -> list[RankEnd]:
    """How the ranks of this node ended, without those that left no file."""
    ends = []
    for path in folder.glob(f"rank_*/{END}"):
        entry = json.loads(path.read_text(encoding="utf-8"))
        result = entry.pop("result")
        if result is not None:  # JSON has no tuples; nobody asks for the window of a job of several ranks
            result = RunResult(**result | {"window": None, "warnings": tuple(result["warnings"])})
        ends.append(RankEnd(**entry, result=result))
    return sorted(ends, key=lambda end: end.rank)
