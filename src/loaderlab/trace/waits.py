"""The time in which the loop waits for data, from the ranges on its own thread, and the message if there are none."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Set

from loaderlab.config import AUTO, TraceConfig, refuse
from loaderlab.trace.collect import Thread, TraceEvents
from loaderlab.trace.intervals import Union, join
from loaderlab.trace.steps import StepSpans

SUGGESTED = 6  # range names listed in a message


def waiting(trace: TraceEvents, threads: Set[Thread], steps: StepSpans, config: TraceConfig) -> Union | None:
    """The time in which the threads of the steps wait; None if there is no wait range in the steps.

    Raises:
        UserError: a pattern that the user gave matches no range in the steps.
    """
    own = [trace.waits[thread].union() for thread in threads if thread in trace.waits]
    waits = join(*own) if own else None
    if waits is not None and steps.touch(waits):
        return waits
    if config.wait == AUTO:
        return None
    why = "no range in the steps has such a name, on the thread that calls prof.step()"
    if set(trace.waits) - threads:
        why += "; other threads have some, but the loop does not wait in them"
    names = _most_frequent(trace, threads)
    raise refuse("wait", config.wait, f"{why}. {_there(names)}", _typed([*names, "next_batch"][0]))


def wait_names(trace: TraceEvents, threads: Set[Thread]) -> tuple[tuple[str, int], ...]:
    """The names of the ranges that count as waiting, with the number of each in the trace."""
    return tuple(_count(trace.wait_names, threads).most_common())


def wait_unknown(trace: TraceEvents, threads: Set[Thread]) -> str:
    """Why the wait is not known, and how to mark it."""
    reader = (
        "another thread reads PyTorch's DataLoader"
        if set(trace.waits) - threads
        else "they do not read PyTorch's DataLoader"
    )
    return (
        f"no range in the steps shows when the loop waits for data: {reader}, and the profiler does not mark other loaders. "
        f"{_there(_most_frequent(trace, threads))}. Type wait=NAME (a part of the name is enough), or record the trace "
        'again with the fetch of a batch in torch.profiler.record_function("loaderlab/wait")'
    )


def _there(names: list[str]) -> str:
    return f"Most frequent ranges in the steps: {', '.join(names)}" if names else "The steps have no ranges of your own"


def _typed(name: str) -> str:
    """The override to type in a shell."""
    return shlex.quote(f"wait={name}")


def _most_frequent(trace: TraceEvents, threads: Set[Thread]) -> list[str]:
    counted = _count(trace.user_ranges, threads) or _count(trace.plain_ranges, threads)
    return [name for name, _ in counted.most_common(SUGGESTED)]


def _count(ranges: Mapping[Thread, Counter[str]], threads: Set[Thread]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for thread in threads & ranges.keys():
        counted.update(ranges[thread])
    return counted
