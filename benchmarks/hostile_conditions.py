"""Train, a sweep, compare, trace and watch under conditions that have broken runs in the field, and a table of how each ended.

    python benchmarks/hostile_conditions.py
    python benchmarks/hostile_conditions.py --conditions posix_locale full_stdout

Each must end in a complete record or in one clear line, never in a traceback and never after --limit seconds. Exit code 1 if
one does not. A condition that this machine does not permit (another uid and mounts need root) is named as not tried.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where it is started by its path

from benchmarks.harness import options

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
POSIX = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
READ_ONLY = f"mount --bind {ROOT} {ROOT} && mount -o remount,ro,bind {ROOT} && "
SMALL_SHM = "mount -t tmpfs -o size=64k tmpfs /dev/shm && "


@dataclass(frozen=True)
class Condition:
    """How a command is started.

    Attributes:
        before: shell words before the command.
        after: redirections behind it.
        mounts: shell commands that need a mount namespace of their own.
        unset: names taken out of the environment.
    """

    before: str = ""
    after: str = ""
    mounts: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    train: str = ""


NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
# it may read everything, since this Python may lie under /root, and write what anybody may
READS = "--inh-caps +dac_read_search --ambient-caps +dac_read_search"
OTHER_UID = f"setpriv --reuid=54321 --regid=54321 --clear-groups {READS} "
CONDITIONS = {
    "usual": Condition(),
    "uid_without_entry": Condition(before=OTHER_UID, unset=NAMES, environment={"HOME": "/"}),
    "no_home": Condition(before=OTHER_UID, unset=(*NAMES, "HOME")),
    "read_only_checkout": Condition(mounts=READ_ONLY),
    "posix_locale": Condition(environment=POSIX),
    "shm_64_kib": Condition(mounts=SMALL_SHM, train="loader.num_workers=2"),
    "64_open_files": Condition(before="ulimit -n 64; "),
    "closed_stderr": Condition(after="2>&-"),
    "full_stdout": Condition(after=">/dev/full"),
}


def commands(store: str, condition: Condition, trace: Path) -> dict[str, list[str]]:
    """What is run, by name."""
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
    """The command as it is started."""
    start = [] if not condition.mounts else ["unshare", "--mount"]
    run = condition.before + ("exec " if ";" in condition.before or not condition.before else "") + '"$@"'
    return [*start, "sh", "-c", f"{condition.mounts}{run} {condition.after}", "sh", *command]


def ended(condition: Condition, command: list[str], limit_s: float) -> tuple[bool, str]:
    """Whether the command ended as it must, and how, in words."""
    environment = {name: value for name, value in os.environ.items() if name not in condition.unset}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"} | condition.environment
    process = subprocess.Popen(
        shell(condition, command),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if "2>" not in condition.after else subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        out = process.communicate(timeout=limit_s)[0].decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return False, f"did not end in {limit_s:g} s"
    errors = [line for line in out.splitlines() if line.startswith("error: ")]
    if "Traceback" in out or "--- Logging error ---" in out:
        return False, f"traceback: {out.strip().splitlines()[-1][:150]}"
    if process.returncode == 0:
        return True, "complete"
    return bool(errors), errors[-1][:150] if errors else f"exit code {process.returncode} without a word"


def not_permitted(condition: Condition) -> str:
    """Why a condition cannot be tried here; empty if it can."""
    again = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    probe = shell(replace(condition, after=""), [sys.executable, "-c", again])
    done = subprocess.run(probe, capture_output=True, encoding="utf-8", errors="replace", timeout=30)
    return done.stderr.strip().splitlines()[-1] if done.returncode and done.stderr.strip() else ""


def write_trace(path: Path) -> None:
    """Ten profiler steps, half of each waiting for data."""
    events = [
        {"ph": "X", "cat": kind, "name": name, "pid": 1, "tid": 1, "ts": 1000 * step + begin, "dur": took}
        for step in range(10)
        for kind, name, begin, took in (
            ("user_annotation", f"ProfilerStep#{step}", 0, 999),
            ("user_annotation", "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 1, 500),
            ("kernel", "gemm", 501, 400),
        )
    ]
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": events}), encoding="utf-8")


def main() -> int:
    """The exit code."""
    parser = options.parser(__doc__)
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS), help="to try")
    parser.add_argument("--limit", type=options.number_above_0, default=90.0, help="seconds for each command")
    chosen = parser.parse_args()
    failed, untried = 0, []
    print(f"{'condition':<20} {'command':<8} {'as it must':<10} how it ended")
    for name in chosen.conditions:
        condition = CONDITIONS[name]
        if reason := not_permitted(condition):
            untried.append(f"{name} ({reason})")
            continue
        with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
            os.chmod(folder, 0o777)  # of another uid too
            trace = Path(folder) / "trace.json"
            write_trace(trace)
            store = f"sqlite:///{folder}/store/mlflow.db"
            for command, words in commands(store, condition, trace).items():
                good, how = ended(condition, words, chosen.limit)
                failed += not good
                print(f"{name:<20} {command:<8} {'yes' if good else 'NO':<10} {how}", flush=True)
    print(f"not tried here: {'; '.join(untried) or 'none'}")
    print(f"{failed} ended otherwise than they must" if failed else "all ended in a complete record or one clear line")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
