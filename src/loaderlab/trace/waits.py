"""When the loop waits for data, by the ranges on its own thread; and what to say where no range tells."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Set

from loaderlab.config import AUTO, TraceConfig, refuse
from loaderlab.trace.collect import Thread, TraceEvents
from loaderlab.trace.intervals import Union, join
from loaderlab.trace.steps import StepSpans

SUGGESTED = 6  # names of ranges that a message lists


def waiting(found: TraceEvents, threads: Set[Thread], steps: StepSpans, config: TraceConfig) -> Union | None:
    """When the threads of the steps wait; None where no range in the steps tells.

    Raises:
        UserError: a pattern that was typed matches nothing there.
    """
    own = [found.waits[thread].union() for thread in threads if thread in found.waits]
    waits = join(*own) if own else None
    if waits is not None and steps.touch(waits):
        return waits
    if config.wait == AUTO:
        return None
    why = "no range of a name like this lies in the steps, on the thread that calls prof.step()"
    if set(found.waits) - threads:
        why += "; other threads have some, but the loop does not wait there"
    names = _most_frequent(found, threads)
    raise refuse("wait", config.wait, f"{why}. {_there(names)}", _typed([*names, "next_batch"][0]))


def matched(found: TraceEvents, threads: Set[Thread]) -> tuple[tuple[str, int], ...]:
    """The names of the ranges that were taken for waiting, and how many of each the trace holds."""
    return tuple(_count(found.wait_names, threads).most_common())


def untold(found: TraceEvents, threads: Set[Thread]) -> str:
    """Why the wait is not known, and how to tell it."""
    reader = (
        "another thread reads PyTorch's DataLoader"
        if set(found.waits) - threads
        else "no DataLoader of PyTorch is read"
    )
    return (
        f"no range in the steps says when the loop waits for data: {reader} there, and the profiler sees no other loader. "
        f"{_there(_most_frequent(found, threads))}. Type wait=NAME, a part of the name is enough; or record the trace "
        'again with the fetch of a batch in torch.profiler.record_function("loaderlab/wait")'
    )


def _there(names: list[str]) -> str:
    return f"The most frequent ranges there: {', '.join(names)}" if names else "No range of your own is there"


def _typed(name: str) -> str:
    """The override to type; Hydra wants quotes about some characters, and the shell must leave them in place."""
    return f"wait={name}" if re.fullmatch(r"[\w./:*?-]+", name) else f"""'wait="{name}"'"""


def _most_frequent(found: TraceEvents, threads: Set[Thread]) -> list[str]:
    counted = _count(found.user_ranges, threads) or _count(found.plain_ranges, threads)
    return [name for name, _ in counted.most_common(SUGGESTED)]


def _count(ranges: Mapping[Thread, Counter[str]], threads: Set[Thread]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for thread in threads & ranges.keys():
        counted.update(ranges[thread])
    return counted
