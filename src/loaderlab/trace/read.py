"""Reads a trace file and prints its results: file -> events -> intervals -> verdict."""

from __future__ import annotations

import sys

from rich.console import Console

from loaderlab.config import TraceConfig
from loaderlab.system.terminal import Terminal
from loaderlab.system.user import expanded
from loaderlab.trace.analysis import Reading, analyse
from loaderlab.trace.collect import collect
from loaderlab.trace.output import as_json, show
from loaderlab.trace.reader import events


def read_trace(config: TraceConfig, progress: Terminal) -> Reading:
    """The results of a trace; ``progress`` shows how much of a large file is read.

    Raises:
        UserError: there is no such file, it is not a complete trace, or a setting does not fit it.
    """
    path = expanded(config.trace)
    size = path.stat().st_size if path.is_file() else 0
    with progress.progress("reading, %:", 100) as bar:

        def on_read(done: int) -> None:
            percent = 100 * done // max(1, size)
            if percent < 100 and bar.due(percent):  # a small file is read at once, and needs no line
                bar.update(percent)

        trace = collect(events(path, on_read), config.wait)
    return analyse(trace, config)


def report(config: TraceConfig, terminal: Terminal) -> None:
    """Reads the trace and prints its results to stdout, as a table or as JSON only; progress goes to stderr."""
    reading = read_trace(config, Terminal(Console(file=sys.stderr, highlight=False)))
    if config.format == "json":
        print(as_json(reading, config.trace))
    else:
        show(reading, config.trace, terminal)
