"""Starts the processes of a sweep's jobs: spawned, or forked from a template that has imported what runs need."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from loaderlab.config import SPAWN, TEMPLATE
from loaderlab.system.forked import was_forked
from loaderlab.system.job_process import JobProcess
from loaderlab.system.template import Template, refresh_forked

PRELOAD = "loaderlab.runs.preload"
ABANDONED_S = 60.0  # for a job to end whose template died while it started

Target = Callable[..., None]


class JobStarter:
    """Starts processes, one at a time.

    Args:
        warn: is called with a sentence if a process is not started as requested.
        preload: the module that the template imports.
    """

    def __init__(self, warn: Callable[[str], None], preload: str = PRELOAD) -> None:
        self._warn = warn
        self._template = Template(preload)
        self._served: list[Hashable] = []  # the arms that the current template has served

    def method_for(self, arms: Sequence[Hashable], requested: str) -> str:
        """How the next job should start: TEMPLATE or SPAWN. Ends the current template if the job needs another one.

        Args:
            arms: the arms of the jobs that are left, in order.
            requested: the setting ``sweep.start``.
        """
        method, is_new = planned_start(arms, self._served, requested)
        if is_new and self._served:
            self.renew()
        if method == TEMPLATE:
            self._served.append(arms[0])
        return method

    @property
    def template_pid(self) -> int | None:
        """None if no template runs."""
        return self._template.pid

    def start(self, method: str, target: Target, args: tuple[Any, ...], name: str) -> tuple[JobProcess, Connection]:
        """Starts ``target(connection, *args)`` in a process, and returns it with the connection on which it sends.

        Args:
            method: TEMPLATE or SPAWN. If the template dies, the process is spawned, and a warning says so.

        Raises:
            KeyboardInterrupt: no process is left.
        """
        if method == TEMPLATE and (started := self._forked(target, args, name)) is not None:
            return started
        receiving, sending = multiprocessing.Pipe(duplex=False)
        return JobProcess(_started("spawn", sending, target, args, name)), receiving

    def renew(self) -> None:
        """Ends the template, if there is one. The next job that needs one gets a new one, with another hash seed."""
        self._template.stop()
        self._served.clear()

    def _forked(self, target: Target, args: tuple[Any, ...], name: str) -> tuple[JobProcess, Connection] | None:
        """A process forked from the template; None if the template died meanwhile."""
        self._template.ensure_running()
        receiving, sending = multiprocessing.Pipe(duplex=False)
        with suppress(EOFError, OSError):
            try:
                return JobProcess(_started("forkserver", sending, target, args, name), self._template), receiving
            except KeyboardInterrupt:
                self._template.stop(with_forked=True)
                raise
        # if the template had already forked the process, that process ends now, because the error and its pipe are gone
        self._template.stop()
        with suppress(EOFError, OSError):
            while receiving.poll(ABANDONED_S):
                receiving.recv_bytes()
        receiving.close()
        self._warn("the template process ended while it started this job, so the job gets a new process")
        return None


def planned_start(arms: Sequence[Hashable], served: Sequence[Hashable], requested: str) -> tuple[str, bool]:
    """How the next job starts, and whether it needs a new template.

    A template never serves two runs of an arm: they would share its hash seed and its memory layout, which differ between
    processes that start by themselves, and the runs of the arm would differ less than they should. A template for only one job
    would save nothing.

    Args:
        arms: the arms of the jobs that are left, in order.
        served: the arms that the current template has served.
        requested: the setting ``sweep.start``.

    >>> planned_start(["a", "b", "a", "b"], [], "template")
    ('template', True)
    >>> planned_start(["b", "a", "b"], ["a"], "template")
    ('template', False)
    >>> planned_start(["a", "a"], [], "template")
    ('spawn', True)
    """
    if requested == SPAWN:
        return SPAWN, False
    if served and arms[0] not in served:
        return TEMPLATE, False
    distinct = next((index for index, arm in enumerate(arms) if arm in arms[:index]), len(arms))
    return (TEMPLATE if distinct > 1 else SPAWN), True


def _started(method: str, sending: Connection, target: Target, args: tuple[Any, ...], name: str) -> BaseProcess:
    """The process, after it has started. ``sending`` is closed here."""
    with sending:
        process: BaseProcess = multiprocessing.get_context(method).Process(  # type: ignore[attr-defined]
            target=_entry, args=(target, sending, args), name=name
        )
        process.start()
    return process


def _entry(target: Target, sending: Connection, args: tuple[Any, ...]) -> None:
    """The start of the new process."""
    try:
        if was_forked():
            refresh_forked()
        target(sending, *args)
    except KeyboardInterrupt:
        os._exit(130)


def start_method() -> str:
    """How the process of this job was started: TEMPLATE or SPAWN."""
    return TEMPLATE if was_forked() else SPAWN


def start_note() -> str:
    """Why this process could not use the imports of its template; empty if it could, or if it has none."""
    if not was_forked():
        return ""
    module = sys.modules.get(PRELOAD)
    failures = [f"{PRELOAD}: not found"] if module is None else module.FAILURES
    return f"the template process could not import {'; '.join(failures)}" if failures else ""
