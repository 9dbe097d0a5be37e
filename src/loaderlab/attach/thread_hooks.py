"""Hooks for loaders that are read by a thread of their own: where the training thread waits for that thread. Does not import torch.

A prefetcher hands its batches over by a queue, a future or an event. All of them are made of `threading.Condition`: the reading
thread notifies it, and the training thread enters it and, if there is no batch yet, waits for it. A hand-over that is made otherwise
(`queue.SimpleQueue`, a busy loop) is not visible. The hooks are installed when the first loader is read by such a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import get_ident
from time import perf_counter_ns
from typing import Any

from loaderlab.attach.events import Kind
from loaderlab.attach.recorder import recorder
from loaderlab.attach.wrapping import wrap

SOURCE = "_loaderlab_source"  # of a condition: the loader and the pass whose batches are handed over with it, and when
_readers: dict[int, tuple[int, int]] = {}  # thread: the loader and the pass that it reads, maybe by another thread
_installed: list[bool] = []


def watch_threads(loader: int, passed: int) -> None:
    """The calling thread has read a batch of a loader."""
    _readers[get_ident()] = (loader, passed)
    if not _installed:
        _installed.append(True)
        wrap(threading.Condition, "notify", _notified)
        wrap(threading.Condition, "__enter__", _entered)
        wrap(threading.Condition, "wait", _waited)
        wrap(threading.Thread, "join", _joined)


def _notified(original: Callable[..., None]) -> Callable[..., None]:
    def notify(self: Any, *args: Any, **kwargs: Any) -> None:
        if recorder.on and (source := _readers.get(get_ident())) is not None:
            self.__dict__[SOURCE] = (*source, perf_counter_ns())
        original(self, *args, **kwargs)

    return notify


def _entered(original: Callable[..., Any]) -> Callable[..., Any]:
    def __enter__(self: Any) -> Any:
        if recorder.on and (source := self.__dict__.get(SOURCE)) is not None:
            thread = get_ident()
            if thread not in (recorder.step_thread, recorder.main_thread):
                _carries(thread, source[:2])
            elif thread == recorder.step_thread and thread not in recorder.inside:
                now = perf_counter_ns()
                loader, passed, handed_ns = source
                request = recorder.request(thread)
                recorder.add(Kind.TAKE, loader, passed, thread, now, now, request=request, ahead_ns=now - handed_ns)
        return original(self)

    return __enter__


def _carries(thread: int, source: tuple[int, int]) -> None:
    """A thread between the reader and the training thread, which copies batches for example, hands over the same loader."""
    _readers.setdefault(thread, source)


def _measured(original: Callable[..., Any], source_of: Callable[[Any], tuple[int, ...] | None]) -> Callable[..., Any]:
    """A call in which the training thread may wait for a thread that reads a loader.

    Args:
        source_of: the loader and the pass that the object of the call is for, asked after the wait; None if for none.
    """

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        thread = get_ident()
        if not recorder.on or thread != recorder.step_thread or not recorder.enter(thread):
            return original(self, *args, **kwargs)
        request = recorder.request(thread)
        begin = perf_counter_ns()
        try:
            return original(self, *args, **kwargs)
        finally:
            end = perf_counter_ns()
            recorder.leave(thread)
            if (source := source_of(self)) is not None:
                recorder.add(Kind.WAIT, source[0], source[1], thread, begin, end, request=request)

    return call


def _waited(original: Callable[..., Any]) -> Callable[..., Any]:
    return _measured(original, lambda condition: condition.__dict__.get(SOURCE))


def _joined(original: Callable[..., Any]) -> Callable[..., Any]:
    return _measured(original, lambda thread: _readers.get(thread.ident))
