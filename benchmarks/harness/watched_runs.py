"""Runs a script with planted waits under a tool, and reads the true and the reported share."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.harness.watched_cases import BY_NAME, Case, Truth, all_steps_pct, truth_of
from benchmarks.harness.watched_packages import ROOT, Pythons, environment
from loaderlab import metrics

SCRIPTS = ROOT / "benchmarks" / "watched"
LOADERLAB, TRACEML, MARKED = TOOLS = ("loaderlab", "traceml", "traceml with trace_step")
UNMARKED_BY_TRACEML = ("plain_loop", "accelerate_loop")  # their steps have to be marked with trace_step
LIMIT_S = 120.0


@dataclass(frozen=True)
class Result:
    """One run.

    Attributes:
        cycles: the script's own times of each optimizer step; see `benchmarks.watched.planted.Cycle`.
        measured_pct: the share that the tool reported; NaN if it reported none.
        num_steps: for which the tool reported it.
        grade: the tool's verdict.
        wall_s: of the whole command.
    """

    case: str
    repeat: int
    tool: str
    cycles: list[dict[str, float]]
    measured_pct: float
    num_steps: int
    grade: str
    wall_s: float

    @property
    def key(self) -> tuple[str, int, str]:
        return self.case, self.repeat, self.tool

    @property
    def truth(self) -> Truth:
        """After the warm-up for loaderlab, over all steps for TraceML: each tool is compared with the steps that it counts."""
        case = BY_NAME[self.case]
        truth = truth_of(case, self.cycles)
        if self.tool == LOADERLAB:
            return truth
        return replace(truth, share_pct=all_steps_pct(case, self.cycles), num_steps=len(self.cycles))

    @property
    def error(self) -> float:
        """In points."""
        return self.measured_pct - self.truth.share_pct


def tools_of(case: Case, *, traceml: bool) -> list[str]:
    """The tools that run a case."""
    if not traceml:
        return [LOADERLAB]
    return [LOADERLAB, TRACEML, *([MARKED] if case.framework in UNMARKED_BY_TRACEML else [])]


def run(case: Case, repeat: int, tool: str, pythons: Pythons) -> Result:
    """Runs a case once.

    Raises:
        SystemExit: the script or the tool failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = [*case.arguments, f"--truth={folder / 'truth.json'}", *(["--trace-step"] if tool == MARKED else [])]
        command = command_of(tool, SCRIPTS / case.script, arguments, folder, pythons)
        began = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, env=environment(), capture_output=True, encoding="utf-8", timeout=LIMIT_S
        )
        wall_s = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(
                f"error: {case.name} under {tool} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}"
            )
        cycles: list[dict[str, float]] = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        path = folder / ("result.json" if tool == LOADERLAB else "logs/run/final_summary.json")
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    reported = _of_loaderlab(content) if tool == LOADERLAB else _of_traceml(content)
    rounded = [{name: round(value, 3) for name, value in cycle.items()} for cycle in cycles]
    return Result(case.name, repeat, tool, rounded, *reported, wall_s)


def command_of(tool: str, script: Path, arguments: Sequence[str], folder: Path, pythons: Pythons) -> list[str]:
    """The command that runs a script under a tool, which writes its result into a folder."""
    if tool == LOADERLAB:
        result = str(folder / "result.json")
        return [str(pythons.frameworks), "-m", "loaderlab", "watch", "--json", result, str(script), *arguments]
    program = str(pythons.traceml.parent / "traceml")
    ports = [f"--aggregator-port={_free_port()}", f"--master-port={_free_port()}"]
    place = ["--logs-dir", str(folder / "logs"), "--run-name", "run", *ports]
    return [program, "run", *place, str(script), "--args", *arguments]


def _free_port() -> int:
    """Two runs at the same time need two ports."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _of_loaderlab(content: dict[str, Any]) -> tuple[float, int, str]:
    """The starved share, the number of measured steps, and the grade."""
    figures = content["figures"]
    if metrics.STARVED_PCT not in figures:
        return math.nan, 0, content["verdict"]
    num_steps = round(1e3 * figures[metrics.WINDOW_S] / figures[metrics.STEP_MS])
    return figures[metrics.STARVED_PCT], num_steps, content["verdict"]


def _of_traceml(content: dict[str, Any]) -> tuple[float, int, str]:
    """The same from TraceML's summary."""
    step_time = content["step_time"]["global"]
    wait_ms, step_ms = (step_time["average"].get(name) for name in ("input_wait_ms", "step_time_ms"))
    share = 100 * wait_ms / step_ms if wait_ms is not None and step_ms else math.nan
    return share, step_time["window"]["steps_analyzed"] or 0, content["primary_diagnosis"]["kind"]


# ---- the file of results ---------------------------------------------------------------------------------------------------


def append(path: Path, result: Result) -> None:
    """Appends a line with a result."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def read(path: Path) -> list[Result]:
    """The results in a file, which may not exist yet."""
    if not path.exists():
        return []
    return [Result(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
