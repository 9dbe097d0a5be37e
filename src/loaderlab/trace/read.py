"""Starvation read from a trace of PyTorch's profiler, of anybody's program: file -> events -> intervals -> verdict."""

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
    """What the trace says; `progress` shows how far a large file is read.

    Raises:
        UserError: no such file, no trace, cut off, or a choice that it cannot serve.
    """
    path = expanded(config.trace)
    size = path.stat().st_size if path.is_file() else 0
    with progress.progress("reading, %:", 100) as bar:

        def on_read(done: int) -> None:
            percent = 100 * done // max(1, size)
            if bar.due(percent):
                bar.update(percent)

        found = collect(events(path, on_read), config.wait)
    return analyse(found, config)


def report(config: TraceConfig, terminal: Terminal) -> None:
    """Reads the trace and says it on stdout, as a table or as JSON alone; progress goes to stderr."""
    reading = read_trace(config, Terminal(Console(file=sys.stderr, highlight=False)))
    if config.format == "json":
        print(as_json(reading, config.trace))
    else:
        show(reading, config.trace, terminal)
