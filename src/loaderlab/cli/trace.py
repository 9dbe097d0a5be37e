"""``loaderlab trace``: measures starvation in any trace of PyTorch's profiler. Needs no extra."""

from __future__ import annotations

from collections.abc import Sequence

from loaderlab.cli.arguments import asks_for_help
from loaderlab.cli.frame import framed
from loaderlab.cli.plain import help_text, read
from loaderlab.config import TraceConfig
from loaderlab.system.streams import lossy


def start(arguments: Sequence[str]) -> int:
    """The exit code, after running the command."""

    def work() -> None:
        if asks_for_help(arguments):
            with lossy():
                print(help_text("trace", TraceConfig))
            return
        config = read("trace", TraceConfig, arguments)
        from loaderlab.system.terminal import Terminal
        from loaderlab.trace.read import report  # after --help, because it imports numpy and scipy

        report(config, Terminal())

    return framed("trace", work)
