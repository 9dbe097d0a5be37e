"""The exit codes of all commands; `loaderlab.cli.exit_table` prints them."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended."""

    SUCCESS = 0
    FAILED = 1
    WRONG_USAGE = 2
    GATE_NOT_PASSED = 3
    INTERRUPTED = 130
    TERMINATED = 143


MEANINGS = {
    ExitCode.SUCCESS: "everything finished",
    ExitCode.FAILED: "the command started, and a run, a job of a sweep or a check failed",
    ExitCode.WRONG_USAGE: "what was typed is wrong: an unknown setting, a value that is not allowed; nothing was trained",
    ExitCode.GATE_NOT_PASSED: "a gate (fail_if) was not passed, or could not be judged",
    ExitCode.INTERRUPTED: "ended by Ctrl-C; what was measured before is recorded",
    ExitCode.TERMINATED: "ended by SIGTERM; what was measured before is recorded",
}
