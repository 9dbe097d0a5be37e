"""Arithmetic of time intervals, by the ends of all of them; slow and simple."""

from __future__ import annotations

Spans = list[tuple[int, int]]


def union(spans: Spans) -> Spans:
    """The same times as disjoint intervals in order."""
    merged: Spans = []
    for start, stop in sorted(span for span in spans if span[1] > span[0]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    return merged


def overlap(first: Spans, second: Spans) -> Spans:
    """The times that are in both."""
    both = [(max(a, c), min(b, d)) for a, b in union(first) for c, d in union(second) if max(a, c) < min(b, d)]
    return union(both)


def without(window: Spans, taken: Spans) -> Spans:
    """The times of the window that are not taken."""
    left: Spans = []
    for start, stop in union(window):
        at = start
        for begin, end in union(taken):
            if end <= at or begin >= stop:
                continue
            if begin > at:
                left.append((at, begin))
            at = max(at, end)
        if at < stop:
            left.append((at, stop))
    return left


def length(spans: Spans) -> int:
    """The total time."""
    return sum(stop - start for start, stop in union(spans))
