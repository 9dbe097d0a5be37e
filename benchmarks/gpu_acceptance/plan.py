"""The order in which a command runs the stages of the parts, and how long each may take."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.gpu_acceptance import catalog, running
from benchmarks.gpu_acceptance.parts import Part, Setting
from benchmarks.gpu_acceptance.sittings import SITTING_S, SITTINGS
from loaderlab.config import UserError
from loaderlab.system.processes import Terminated, sigterm_raises


@dataclass(frozen=True)
class Planned:
    """A stage of a part, and the most minutes that it may take.

    Attributes:
        if_time: the command is complete without it.
    """

    part: Part
    stage: int
    minutes: float
    if_time: bool = False

    def name(self, setting: Setting) -> str:
        """The part, and the stage if it has several."""
        num_stages = len(self.part.sweeps(setting))
        return self.part.name + (f" (stage {self.stage + 1} of {num_stages})" if num_stages > 1 else "")


def requested(setting: Setting, chosen: argparse.Namespace) -> tuple[list[Planned], float | None]:
    """The stages that a command's options request, and the most minutes for all of them."""
    if chosen.sitting is None:
        return list(of_parts(setting, chosen.parts, chosen.minutes)), chosen.total
    return list(of_sitting(setting, chosen.sitting)), chosen.total or SITTING_S / 60


def of_parts(setting: Setting, names: Iterable[str], minutes: float) -> Iterator[Planned]:
    """All stages of these parts, the machine first."""
    chosen = {"environment", *names}
    for part in catalog.PARTS:
        if part.name in chosen:
            yield from (Planned(part, stage, minutes) for stage in range(len(part.sweeps(setting))))


def of_sitting(setting: Setting, number: int) -> Iterator[Planned]:
    """The stages of a sitting. Earlier stages of the same part come first, in case another sitting did not finish them."""
    seen: set[tuple[str, int]] = set()
    for item in SITTINGS[number]:
        part = catalog.BY_NAME[item.part]
        last = min(item.stage, len(part.sweeps(setting)) - 1)  # a trial run may have fewer stages
        for stage in range(last + 1):
            if (part.name, stage) not in seen:
                seen.add((part.name, stage))
                yield Planned(part, stage, item.estimate.limit_s / 60, item.if_time)


def undone(setting: Setting, planned: Sequence[Planned]) -> list[str]:
    """The names of the stages that are not done and do not depend on the time that is left."""
    return [
        entry.name(setting)
        for entry in planned
        if not entry.if_time and running.state_of(setting, entry.part).stage_status(entry.stage) != "done"
    ]


def _not_started(state: running.State, stage: int, minutes_left: float) -> str:
    """Why a stage is not started; empty if it is."""
    if state.stage_status(stage) == "done":
        return "already done"
    if "cut" in map(state.stage_status, range(stage)):  # with more arms, its missing repeats would not come first
        return "not started: the stage before it was cut"
    return "not started: no time is left" if minutes_left <= 0 else ""


def run_planned(
    setting: Setting, planned: Sequence[Planned], total: float | None, after_each: Callable[[], object] | None = None
) -> int | None:
    """Runs the stages that are not done yet, and the machine each time: without it, no other part runs.

    Args:
        total: minutes for all of them; None: no limit.
        after_each: called after every stage.

    Returns:
        The exit code after Ctrl-C or SIGTERM; None if no signal came.

    Raises:
        UserError: the folder's results are of another machine.
    """
    deadline = math.inf if total is None else time.monotonic() + 60 * total
    for entry in planned:
        name, is_machine = entry.name(setting), entry.part.name == "environment"
        minutes_left = (deadline - time.monotonic()) / 60
        if not is_machine and (why := _not_started(running.state_of(setting, entry.part), entry.stage, minutes_left)):
            print(f"{name:<20} {why}", flush=True)
            continue
        print(f"{name:<20} {entry.part.title} ...", flush=True)
        try:
            with sigterm_raises():
                turn = running.run(setting, entry.part, min(entry.minutes, minutes_left), entry.stage).turns[-1]
        except KeyboardInterrupt as interrupt:
            print(f"{'':<20} interrupted; its results so far are kept", flush=True)
            return interrupt.exit_code if isinstance(interrupt, Terminated) else 130
        finally:
            if after_each is not None:
                after_each()
        output = setting.folder / entry.part.name / "output.txt"
        hint = f": see {output}" if turn.status == "failed" else ""
        print(f"{'':<20} {turn.status} after {turn.seconds} s{hint}", flush=True)
        if is_machine and turn.status != "done":
            last = output.read_text(encoding="utf-8").rstrip("\n").rpartition("\n")[2]
            if last.startswith("error: "):
                raise UserError(last.removeprefix("error: "))
            break
    return None
