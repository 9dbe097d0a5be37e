"""One run from its configuration to its record: the only place where all rooms meet."""

from __future__ import annotations

import contextlib
import platform

import torch

from loaderlab.config import PROJECT, TrainConfig, UserError
from loaderlab.device import resolve
from loaderlab.loaders.header import lift_pillow_limit
from loaderlab.loaders.native import explained
from loaderlab.parity.status import PARITY
from loaderlab.runs import outputs
from loaderlab.runs.job import Job, RunResult
from loaderlab.runs.session import Session
from loaderlab.system import versions
from loaderlab.system.processes import ignore_sigterm, sigterm_raises
from loaderlab.system.terminal import Terminal
from loaderlab.tracking import open_store
from loaderlab.tracking.records import NOT_APPLICABLE
from loaderlab.training import precision


def run(config: TrainConfig, job: Job, terminal: Terminal) -> RunResult:
    """Trains as configured, on what there is, and records it.

    Raises:
        UserError: bad input, a full disk, a device out of memory: the run is FAILED and what it had is recorded.
        KeyboardInterrupt: Ctrl-C or SIGTERM: the run is KILLED, likewise.
    """
    if job.parent_id is not None and (why := _not_applicable(config)):
        return RunResult("", NOT_APPLICABLE, error=why)
    lift_pillow_limit()
    store = open_store(config.tracking, PROJECT)
    tags = {"arm": job.arm, "repeat": str(config.repeat), "versions": _versions()}
    if job.hash:
        tags["config.hash"] = job.hash
    if job.parity:
        tags[PARITY] = job.parity
    if commit := versions.git_commit(PROJECT):
        tags["git.commit"] = commit
    with contextlib.ExitStack() as stack:
        if job.parent_id is None:  # a sweep says it once, for all its jobs
            stack.callback(lambda: terminal.say(store.how_to_look()))
        stack.enter_context(sigterm_raises())
        tracked = stack.enter_context(store.start(job.name, job.parent_id, tags))
        session = Session(config, job, terminal, tracked)
        stack.callback(session.discard)
        try:
            session.prepare()
            session.train()
            session.probe()
        except BaseException as error:
            told = _told(config, error)
            ignore_sigterm()  # a second one must not spoil the record; a second Ctrl-C may
            outputs.record(session, told)
            if told is error:
                raise
            raise told from error
        finally:
            session.close()
        outputs.record(session, None)
    grade = session.verdict.grade if session.verdict is not None else ""
    return RunResult(tracked.run_id, tracked.status, session.figures, verdict=grade)


def _not_applicable(config: TrainConfig) -> str:
    """Why a job of a sweep has nothing to run on here; empty where it has. A run of its own is refused instead."""
    device = resolve.resolve_device(config.device)
    refused = precision.unable(config.precision, device)
    if refused is None and config.study is not None:
        refused = precision.unsuited(config.precision, device, ladder=config.rung is not None)
    if refused is not None:
        return str(refused)
    return config.loader.needs_gpu() if device.type != "cuda" else ""


def _versions() -> str:
    """Of what a figure depends on, as a tag by which runs of unlike stacks are told apart."""
    kept = {name: text for name, text in versions.versions().items() if name not in ("mlflow", "hydra-core")}
    return ", ".join(f"{name} {text}" for name, text in {"python": platform.python_version(), **kept}.items())


def _told(config: TrainConfig, error: BaseException) -> BaseException:
    """The error itself, or what a user can make of it."""
    if isinstance(error, torch.OutOfMemoryError):
        return _out_of_memory(config, error)
    if isinstance(error, RuntimeError) and (told := explained(error)) is not error:
        return told
    if isinstance(error, RuntimeError) and "deterministic" in str(error) and config.deterministic:
        return UserError(f"deterministic=true: {str(error).splitlines()[0]} Type: deterministic=false")
    return error


def _out_of_memory(config: TrainConfig, error: torch.OutOfMemoryError) -> UserError:
    detail = str(error).split(". ")[:2]
    lower = max(1, config.batch_size // 2)
    same = f" (with accumulate={2 * config.accumulate} the weights are updated as before)"
    return UserError(
        f"CUDA out of memory with batch_size={config.batch_size}: {'. '.join(detail)}. Type batch_size={lower}{same}, "
        "or precision=bf16, a smaller model or data.transform.image_size"
    )
