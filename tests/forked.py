"""Starts functions in processes that are forked from a server, which has imported torch and MLflow once.

A job of two ranks starts three processes, and each would import for 5 to 10 s. The server has no threads, so it may be forked.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from select import select
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
PRELOADED = (
    "loaderlab.cli.train",
    "loaderlab.config",
    "loaderlab.loaders",
    "loaderlab.report.rank_charts",
    "loaderlab.report.step_picture",
    "loaderlab.runs.elastic",
    "loaderlab.runs.rank_rows",
    "loaderlab.runs.run",
    "loaderlab.runs.utilization_gate",
    "loaderlab.tracking.tracked_run",
    "tests.conftest",
)


@dataclass(frozen=True)
class Call:
    """A call of a function, ``package.module:name``, in a process of its own.

    Attributes:
        output: a file for stdout and stderr.
        environment: variables that it gets in addition; those of the test are not its own.
    """

    function: str
    output: Path
    arguments: Sequence[Any] = ()
    environment: dict[str, str] = field(default_factory=dict)


class Forked:
    """The processes of some calls that run at the same time."""

    def __init__(self, server: Server, calls: Sequence[Call]) -> None:
        self._server = server
        server.send([asdict(call) | {"output": str(call.output)} for call in calls])
        self.pids: list[int] = server.receive(60)
        self.outputs = [call.output for call in calls]

    def exit_codes(self, seconds: float) -> list[int]:
        """Their exit codes (negative: a signal), after waiting for all of them.

        Raises:
            TimeoutError: one has not ended; all of them are killed, with their children.
        """
        try:
            return list(self._server.receive(seconds))
        except TimeoutError:
            for process in self.processes():
                process.kill()
            self._server.receive(60)
            raise

    def processes(self) -> list[psutil.Process]:
        """Those that still run, with all their children."""
        running = []
        for pid in self.pids:
            try:
                process = psutil.Process(pid)
                running += [process, *process.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
        return running

    def text(self, index: int = 0) -> str:
        """What a process has printed so far."""
        return self.outputs[index].read_text(encoding="utf-8")


class Server:
    """The process from which the others are forked."""

    def __init__(self) -> None:
        paths = [str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment,
        )
        self.receive(120)  # it has imported

    def start(self, *calls: Call) -> Forked:
        """Starts the calls at the same time. Those before must have ended."""
        return Forked(self, calls)

    def send(self, request: Any) -> None:
        """Sends a request."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()

    def receive(self, seconds: float) -> Any:
        """The next answer."""
        assert self._process.stdout is not None
        if not select([self._process.stdout], [], [], seconds)[0]:
            raise TimeoutError(f"no answer within {seconds} s")
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """Ends the server."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def _serve() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    _answer("ready")
    for line in sys.stdin:
        pids = [_fork(request) for request in json.loads(line)]
        _answer(pids)
        _answer([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])


def _answer(content: Any) -> None:
    os.write(1, json.dumps(content).encode() + b"\n")


def _fork(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()  # a process group of its own, as in a terminal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(request["environment"])
        module, _, name = request["function"].partition(":")
        code = getattr(importlib.import_module(module), name)(*request["arguments"]) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def train(*arguments: str) -> int:
    """``loaderlab train``, whose ranks are forked too."""
    import functools

    from torch.distributed.launcher import api

    from loaderlab.cli.train import start

    vars(api)["LaunchConfig"] = functools.partial(_forking, api.LaunchConfig)
    return start(arguments)


def _forking(original: Any, **settings: Any) -> Any:
    return original(**settings | {"start_method": "fork"})


if __name__ == "__main__":
    _serve()
