"""Runs train, a sweep, compare, trace and watch under difficult conditions, and prints how each ended.

    python benchmarks/hostile_conditions.py
    python benchmarks/hostile_conditions.py --conditions posix_locale full_stdout

Each must end within --limit seconds, either in a complete record (the store is opened to check it) or in one clear line on
stderr, never in a traceback. Exit code 1 if one does not. A condition that this machine does not permit (another uid and
mounts need root) is listed as not tried.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a start by the path of this file

from benchmarks.harness import options
from benchmarks.harness.record_check import StoredRun, missing_in_command, stored_runs

ROOT = Path(__file__).resolve().parents[1]
TINY = "data=vectors data.num_samples=600 model=feedforward model.hidden=[32] steps=20 measure=bare device=cpu torch_threads=1"
WATCH = """
import sys, torch
from loaderlab import watch
with watch("cpu", record="hostile", uri=sys.argv[1]) as meter:
    for epoch in range(2):
        for _ in meter.batches(torch.zeros(20, 4)):
            meter.step(num_samples=1)
"""
HARMLESS_LINES = re.compile(r"$^")  # lines on stderr that are not errors: none so far
POSIX = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
READ_ONLY = f"mount --bind {ROOT} {ROOT} && mount -o remount,ro,bind {ROOT} && "
SMALL_SHM = "mount -t tmpfs -o size=64k tmpfs /dev/shm && "
READ_ONLY_SHM = "mount -t tmpfs -o ro tmpfs /dev/shm && "


@dataclass(frozen=True)
class Condition:
    """How a command is started.

    Attributes:
        before: shell words before the command.
        after: redirections after it.
        mounts: shell commands that need their own mount namespace.
        unset: names of environment variables that are removed.
        train: further overrides of the training run.
    """

    before: str = ""
    after: str = ""
    mounts: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    train: str = ""

    @property
    def loses_stdout(self) -> bool:
        """The run must be recorded, and a line on stderr says that stdout could not be written."""
        return "/dev/full" in self.after


NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
# it may read everything, because this Python may be under /root, but write only what every user may
READS = "--inh-caps +dac_read_search --ambient-caps +dac_read_search"
OTHER_UID = f"setpriv --reuid=54321 --regid=54321 --clear-groups {READS} "
CONDITIONS = {
    "usual": Condition(),
    "uid_without_entry": Condition(before=OTHER_UID, unset=NAMES, environment={"HOME": "/"}),
    "no_home": Condition(before=OTHER_UID, unset=(*NAMES, "HOME")),
    "read_only_checkout": Condition(mounts=READ_ONLY),
    "posix_locale": Condition(environment=POSIX),
    "shm_64_kib": Condition(mounts=SMALL_SHM, train="loader.num_workers=2"),
    "shm_read_only": Condition(mounts=READ_ONLY_SHM, train="loader.num_workers=2"),
    "64_open_files": Condition(before="ulimit -n 64; "),
    "closed_stderr": Condition(after="2>&-"),
    "full_stdout": Condition(after=">/dev/full"),
}


def commands(store: str, condition: Condition, trace: Path) -> dict[str, list[str]]:
    """Each command by its name."""
    uri = f"tracking.uri={store}"
    train = [sys.executable, "-m", "experiments.train", *TINY.split(), uri, *condition.train.split()]
    return {
        "train": train,
        "sweep": [*train, "-m", "seed=1,2"],
        "compare": [sys.executable, "-m", "experiments.compare", uri],
        "trace": [sys.executable, "-m", "experiments.trace", f"trace={trace}"],
        "watch": [sys.executable, "-c", WATCH, store],
    }


def shell(condition: Condition, command: list[str]) -> list[str]:
    """The command line that starts the command under the condition."""
    start = [] if not condition.mounts else ["unshare", "--mount"]
    run = condition.before + ("exec " if ";" in condition.before or not condition.before else "") + '"$@"'
    return [*start, "sh", "-c", f"{condition.mounts}{run} {condition.after}", "sh", *command]


@dataclass(frozen=True)
class Ended:
    """How a command ended; ``code`` is None if it took too long."""

    code: int | None
    stdout: str
    stderr: str


def run(condition: Condition, command: list[str], limit_s: float) -> Ended:
    """How the command ended, or that it did not within ``limit_s`` seconds."""
    environment = {name: value for name, value in os.environ.items() if name not in condition.unset}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"} | condition.environment
    process = subprocess.Popen(
        shell(condition, command),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        streams = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return Ended(None, "", "")
    return Ended(process.returncode, *(text.decode("utf-8", "replace") for text in streams))


def problem_in(condition: Condition, command: str, ended: Ended, runs: Sequence[StoredRun]) -> str:
    """Why this is neither a complete record nor one clear line; empty if it is one of them."""
    if ended.code is None:
        return "did not end in time"
    if "Traceback" in ended.stdout + ended.stderr or "--- Logging error ---" in ended.stderr:
        return "a traceback was printed"
    lines = [line for line in ended.stderr.splitlines() if line.strip() and not HARMLESS_LINES.match(line)]
    if ended.code == 0:
        if lines:
            return f"exit code 0, and on stderr: {lines[0][:150]}"
        if not ended.stdout.strip() and command != "watch" and not condition.loses_stdout:
            return "exit code 0, and nothing on stdout"
        return missing_in_command(command, runs)
    # one line for each failed job, and one for the sweep
    num_lines = range(1, 4 if command == "sweep" and not condition.loses_stdout else 2)
    if len(lines) not in num_lines or not all(line.startswith("error: ") for line in lines):
        return f"exit code {ended.code}, and {len(lines)} lines on stderr: {' / '.join(lines)[:150]}"
    if condition.loses_stdout:
        return missing_in_command(command, runs)
    unfinished = [stored.run_id for stored in runs if stored.status == "RUNNING"]
    return "a run is still RUNNING in the store" if unfinished else ""


def outcome_of(condition: Condition, command: str, ended: Ended, runs: Sequence[StoredRun]) -> str:
    """Describes a correct end: what is recorded, and the error line."""
    complete = command in ("train", "sweep", "watch") and not missing_in_command(command, runs)
    record = "complete record" if complete else "result printed" if ended.code == 0 else ""
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    return "; ".join([record] * bool(record) + lines)


def not_permitted(condition: Condition) -> str:
    """Why a condition cannot be tried here; empty if it can."""
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    probe = shell(replace(condition, after=""), [sys.executable, "-c", nested])
    done = subprocess.run(probe, capture_output=True, encoding="utf-8", errors="replace", timeout=30)
    return done.stderr.strip().splitlines()[-1] if done.returncode and done.stderr.strip() else ""


def write_trace(path: Path) -> None:
    """Writes a trace of ten profiler steps; half of each step waits for data."""
    events = [
        {"ph": "X", "cat": kind, "name": name, "pid": 1, "tid": 1, "ts": 1000 * step + begin, "dur": duration}
        for step in range(10)
        for kind, name, begin, duration in (
            ("user_annotation", f"ProfilerStep#{step}", 0, 999),
            ("user_annotation", "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 1, 500),
            ("kernel", "gemm", 501, 400),
        )
    ]
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": events}), encoding="utf-8")


def num_failed(name: str, limit_s: float) -> int:
    """The number of commands that end wrongly under one condition; prints a row for each command."""
    condition, failed, known = CONDITIONS[name], 0, set[str]()
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        os.chmod(folder, 0o777)  # another uid writes there as well
        trace, file = Path(folder) / "trace.json", Path(folder) / "store" / "mlflow.db"
        write_trace(trace)
        for command, words in commands(f"sqlite:///{file}", condition, trace).items():
            began = time.monotonic()
            ended = run(condition, words, limit_s)
            seconds = time.monotonic() - began
            runs = stored_runs(file, known)
            known |= {stored.run_id for stored in runs}
            problem = problem_in(condition, command, ended, runs)
            failed += bool(problem)
            how = problem or outcome_of(condition, command, ended, runs)
            row = (name, command, "NO" if problem else "yes", how.replace(folder, "FOLDER"), f"{seconds:.0f}")
            print(f"| {' | '.join(row)} |", flush=True)
    return failed


def main() -> int:
    """The exit code."""
    parser = options.parser(__doc__)
    parser.add_argument(
        "--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS), help="conditions to try"
    )
    parser.add_argument("--limit", type=options.number_above_0, default=90.0, help="seconds that each command may take")
    chosen = parser.parse_args()
    failed, untried = 0, []
    print("| condition | command | correct | how it ended | s |\n|---|---|---|---|---|")
    for name in chosen.conditions:
        if reason := not_permitted(CONDITIONS[name]):
            untried.append(f"{name} ({reason})")
            continue
        failed += num_failed(name, chosen.limit)
    print(f"not tried: {'; '.join(untried) or 'none'}")
    print(f"{failed} ended wrongly" if failed else "all ended in a complete record or one clear line")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
