"""The verdicts on a watched program, from its events: on its training as a whole, and on each of its loaders. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from loaderlab import metrics
from loaderlab.attach.events import Events, Kind, LoaderFacts, Program, Row, Usage, outermost
from loaderlab.attach.notebook import LoopHtml
from loaderlab.attach.optimizer_steps import StepsOfProgram, steps_of
from loaderlab.attach.roles import EVALUATION, TRAINING, Roles, is_ahead, roles_of
from loaderlab.attach.torch_terms import LEAST_WARMUP, in_terms, in_torch_terms, of_torch
from loaderlab.device.capabilities import CPU, DeviceCapabilities
from loaderlab.diagnosis.evidence import FED, INCONCLUSIVE, Setup
from loaderlab.diagnosis.figures import NO_PROBES, LoopRecord, evidence_of, figures_of, profiled_of
from loaderlab.diagnosis.verdict import Verdict, judge, lost_pct
from loaderlab.loaders.capabilities import LoaderCapabilities

if TYPE_CHECKING:
    from loaderlab.attach.rank_results import RanksReading
    from loaderlab.lines.control import Profiled

Places = dict[int, str]  # loader: where it was made
GPU = DeviceCapabilities(
    asynchronous=True, uses_host_cores=False, takes_copies=True, decodes_images=True, fast_bf16=False
)
HIDDEN = (
    "{} is read by another thread, and the wait of the training for that thread is not visible (visible are waits in queue.Queue, "
    "concurrent.futures, threading.Event and Thread.join, but not in a loop that sleeps)"
)
RESTARTED = (
    "the loader's iterator was created anew for every {}, so the start of each is part of its steps: create the "
    "iterator once per pass"
)
UNCLEAR = "{} steps contain an evaluation whose end is not visible, and were not measured"
MIXED = (
    "{} of {} steps contain a part of an evaluation whose end is not visible. Run the evaluation between two training steps, or read its "
    "loader to the end"
)
UNSEEN = "copies to the device count as work"


@dataclass(frozen=True)
class JudgedLoader:
    """The verdict on a loader, or on several objects that the same line of the program created for the same purpose.

    Attributes:
        title: ``DataLoader (train.py:41)``.
        made_at: the line of the user's code that created it, ``train.py:41``; of a function that creates several, with the line
            that called it: ``train.py:13 called at train.py:41``. Empty if it is not known.
        role: training or evaluation.
        facts: of the newest object.
        num_objects: how many there were.
        setup: of the loader and the device; None without a verdict.
        num_exchanging: number of steps in which an exchange of gradients with other ranks was measured.
        figures: metric name to value, as in `loaderlab.metrics`; of an evaluation only its wait share.
    """

    title: str
    made_at: str
    role: str
    facts: LoaderFacts
    verdict: Verdict
    figures: dict[str, float]
    loop: LoopRecord
    num_objects: int = 1
    setup: Setup | None = None
    num_exchanging: int = 0


@dataclass(frozen=True)
class Reading:
    """The result of watching a program.

    Attributes:
        job: over all training loaders together.
        loaders: each training loader, the one that is waited for most first.
        others: the evaluations.
        notes: what limits the results.
        device: ``cuda:0 NVIDIA H200``.
        program: facts about the program.
        ranks: the verdict over all ranks of the job, on its first rank; None on the others, and without other ranks.
    """

    job: JudgedLoader
    loaders: tuple[JudgedLoader, ...] = ()
    others: tuple[JudgedLoader, ...] = ()
    notes: tuple[str, ...] = ()
    device: str = ""
    program: Program = field(default_factory=Program)
    ranks: RanksReading | None = None

    @cached_property
    def slow(self) -> Profiled | None:
        """The slow lines of the loader that was profiled, or why there are none; None if no profile was asked for."""
        return next(
            (slow for entry in (self.job, *self.loaders) if (slow := profiled_of(entry.loop)) is not None), None
        )

    @property
    def lost_pct(self) -> float | None:
        """The share of the training's time in which it waited for data, between epochs too, percent; None without a verdict."""
        return lost_pct(evidence_of(self.job.loop, NO_PROBES)) if self.can_judge else None

    @property
    def can_judge(self) -> bool:
        """Whether there is a verdict on the training."""
        return self.job.verdict.grade != INCONCLUSIVE


def read_events(events: Events) -> Reading:
    """The verdicts."""
    events = replace(events, rows=outermost(events.rows))
    reading = _reading(events)
    if events.profile is None or reading.slow is not None:
        return reading
    # it never began, or is of a loader without a verdict
    return replace(reading, job=replace(reading.job, loop=replace(reading.job.loop, profiled=events.profile.record)))


def _reading(events: Events) -> Reading:
    roles = roles_of(events)
    places = _places(events.loaders)
    others = tuple(_evaluation(events, places, group) for group in _groups(events.loaders, roles.evaluation))
    if reason := _cannot_judge(events, places, roles):
        return Reading(_unjudged(events, places, reason), (), others, (), events.program.device_title, events.program)
    groups = _groups(events.loaders, roles.training)
    judged = [_judged(events, places, roles, frozenset(facts.number for facts in group), group) for group in groups]
    judged.sort(key=lambda entry: -_total_wait(entry.loop))
    job, notes = judged[0], []
    if len(judged) > 1:
        job = _judged(events, places, roles, roles.training, [entry.facts for entry in judged], one_loader=False)
        job = replace(job, title=f"{len(judged)} loaders", made_at=judged[0].made_at, facts=judged[0].facts)
    if roles.other_threads:
        notes.append(f"{roles.other_threads} other threads have optimizers that step; only one thread was measured")
    return Reading(job, tuple(judged), others, tuple(notes), events.program.device_title, events.program)


# ---- what cannot be judged ---------------------------------------------------------------------------------------------


def _cannot_judge(events: Events, places: Places, roles: Roles) -> str:
    """Why there is no verdict on the training; empty if there is one."""
    program = events.program
    if not any(row.kind == Kind.BATCH for row in events.rows):
        if program.children:
            others = (
                "another process, which was"
                if program.children == 1
                else f"{program.children} other processes, which were"
            )
            return (
                f"no loader was read in this process; it started {others} not measured. "
                "Start the ranks with torchrun: torchrun --nproc-per-node=N -m loaderlab watch script.py"
            )
        return "no torch DataLoader and no DALI iterator was read in this process"
    if roles.thread is None:
        return (
            "no torch optimizer made a visible step in this process, so no loader is known to feed a training (a step inside a function "
            "that torch.compile compiled is not visible)"
        )
    if not roles.training:
        if roles.trains_without_loader:
            return (
                f"{roles.idle_steps} of {roles.num_steps} steps of the optimizer followed no batch of a loader: the training data does not "
                "come from one"
            )
        return (
            "no loader was read for the steps of the optimizer: all of them look like evaluations (read from start to end between two "
            "steps, or with gradients switched off)"
        )
    if roles.hidden:
        titles = [_title(facts, places) for facts in events.loaders if facts.number in roles.hidden]
        lines = " and ".join(dict.fromkeys(titles))
        return HIDDEN.format(lines)
    if not program.readable:
        return (
            f"the program trains on {program.device}, whose clock cannot be read: whether it ran out of work is unknown"
        )
    return ""


def _unjudged(events: Events, places: Places, reason: str) -> JudgedLoader:
    facts = events.loaders[0] if events.loaders else LoaderFacts(0, "torch", "no loader")
    verdict = Verdict(INCONCLUSIVE, None, None, f"cannot judge: {reason}", render=in_torch_terms)
    loop = _no_loop(events.program)
    return JudgedLoader(_title(facts, places), places.get(facts.number, ""), TRAINING, facts, verdict, {}, loop)


def _no_loop(program: Program) -> LoopRecord:
    return LoopRecord([], 0, 1, [], [], {}, max(1, program.cores))


# ---- groups of loaders -----------------------------------------------------------------------------------------------


def _groups(loaders: Sequence[LoaderFacts], numbers: frozenset[int]) -> list[list[LoaderFacts]]:
    """Loader objects with the same role that were created by the same calls, such as one per epoch, are one loader."""
    groups: dict[object, list[LoaderFacts]] = {}
    for facts in loaders:
        if facts.number in numbers:
            groups.setdefault((facts.stack, facts.offsets) if facts.stack else facts.number, []).append(facts)
    return list(groups.values())


def _places(loaders: Sequence[LoaderFacts]) -> Places:
    """Where each loader was made; with the calling line if several stacks share the innermost line, and with the number of the call if
    several calls share all lines."""
    calls: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
    for facts in loaders:
        offsets = calls.setdefault(facts.made_at, [])
        if facts.offsets not in offsets:
            offsets.append(facts.offsets)
    shared = Counter(stack[0] for stack in calls if stack)
    places = {}
    for facts in loaders:
        stack = facts.made_at
        place = _place(stack, others=shared[stack[0]] > 1) if stack else ""
        if place and len(calls[stack]) > 1:
            place += f", call {1 + calls[stack].index(facts.offsets)}"
        places[facts.number] = place
    return places


def _place(stack: tuple[str, ...], *, others: bool) -> str:
    caller = next((line for line in stack if line != stack[0]), "") if others else ""
    return f"{stack[0]} called at {caller}" if caller else stack[0]


def _title(facts: LoaderFacts, places: Places) -> str:
    place = places.get(facts.number, "")
    return f"{facts.title} ({place})" if place else facts.title


def _evaluation(events: Events, places: Places, group: Sequence[LoaderFacts]) -> JudgedLoader:
    """The share of an evaluation's time that it waited, from its first request to its end."""
    numbers = {facts.number for facts in group}
    wait = total = 0
    last: Row | None = None
    for row in events.rows:
        if row.kind not in (Kind.START, Kind.BATCH, Kind.END):
            continue
        if last is not None and last.kind != Kind.END and last.thread == row.thread:
            total += row.begin_ns - last.end_ns
        if row.loader in numbers:
            wait += row.end_ns - row.begin_ns
            total += row.end_ns - row.begin_ns
            last = row
        else:
            last = None
    facts = group[-1]
    figures = {metrics.WAIT_PCT: 100 * wait / total} if total else {}
    verdict = Verdict(INCONCLUSIVE, None, None, "an evaluation is not judged", render=in_torch_terms)
    loop = _no_loop(events.program)
    return JudgedLoader(
        _title(facts, places), places[facts.number], EVALUATION, facts, verdict, figures, loop, len(group)
    )


# ---- the verdict -----------------------------------------------------------------------------------------------------


def _judged(
    events: Events,
    places: Places,
    roles: Roles,
    numbers: frozenset[int],
    group: Sequence[LoaderFacts],
    *,
    one_loader: bool = True,
) -> JudgedLoader:
    program, facts = events.program, group[-1]
    profiled_ns = program.profiled_from_ns, program.profiled_to_ns
    record = steps_of(events.rows, roles, events.loaders, numbers, timed=program.timed, profiled_ns=profiled_ns)
    setup = _setup(program, group)
    loop, note = _loop(record, setup, events, numbers)
    loop = replace(loop, one_loader=one_loader)
    if events.profile is not None and one_loader and events.profile.loaders & numbers:
        loop = replace(loop, profiled=events.profile.record)
    verdict = judge(evidence_of(loop, NO_PROBES), setup)
    if numbers & roles.threaded and verdict.grade == FED and not is_ahead(events.rows, roles, _step_ns(loop)):
        titles = [_title(facts, places) for facts in group]
        return _unjudged(events, places, HIDDEN.format(" and ".join(dict.fromkeys(titles))))
    if 2 * record.num_unclear > len(record.steps):
        return _unjudged(events, places, MIXED.format(record.num_unclear, len(record.steps)))
    because = [verdict.because, *([note] if note else [])]
    if record.num_unclear:
        because.append(UNCLEAR.format(record.num_unclear))
    if program.timed and verdict.bottleneck is not None:
        because.append(UNSEEN)
    title = _title(facts, places)
    verdict = replace(in_terms(verdict, in_torch_terms), because="; ".join(because), html=LoopHtml(title, loop, setup))
    figures = figures_of(loop, NO_PROBES, setup)
    if any(step.num_samples == 0 for step in loop.window):
        figures.pop(metrics.RATE, None)
    place, exchanging = places[facts.number], record.num_exchanging
    return JudgedLoader(title, place, TRAINING, facts, verdict, figures, loop, len(group), setup, exchanging)


def _setup(program: Program, group: Sequence[LoaderFacts]) -> Setup:
    facts = max(group, key=lambda entry: entry.num_workers)
    return Setup(
        loader=of_torch(facts) if facts.kind == "torch" else LoaderCapabilities(),
        device=GPU if program.asynchronous else CPU,
        cores=program.cores,
        threads=program.threads,
        batch_size=facts.batch_size,
    )


def _loop(record: StepsOfProgram, setup: Setup, events: Events, numbers: frozenset[int]) -> tuple[LoopRecord, str]:
    """The record of the loop, and a note if its passes are so short that their starts cannot be left out."""
    batches_per_step = max(1.0, record.num_batches / max(1, len(record.steps)))
    in_steps: Callable[[int], int] = lambda batches: math.ceil(batches / batches_per_step)  # noqa: E731
    parallel, note, steps = max(1, in_steps(setup.loader.parallel)), "", record.steps
    warmup = max(LEAST_WARMUP, in_steps(setup.loader.lookahead))
    settled = [step for step in steps if step.step >= warmup]
    if settled and 2 * sum(step.position < parallel for step in settled) > len(settled):
        per_pass = len(steps) / max(1, len(record.epochs_ns))
        note = RESTARTED.format(f"{per_pass:.0f} steps" if per_pass >= 1.5 else "step")
        steps = [replace(step, epoch=0, position=step.step) for step in steps]
    epochs = record.epochs_ns if not note else [(0, sum(end - begin for begin, end in record.epochs_ns))]
    seconds = sum(end - begin for begin, end in epochs) / 1e9
    loop = LoopRecord(
        steps=steps,
        warmup_steps=warmup,
        parallel=parallel,
        lookahead=in_steps(setup.loader.lookahead),
        epochs_ns=epochs,
        epoch_ends_ns=record.epoch_ends_ns if not note else [0],
        used=_used([entry for entry in events.usage if entry.loader in numbers], seconds),
        cores=events.program.cores,
        train_s=seconds or None,
        own_cost_ns=_own_cost_ns(events, len(steps)),
        phases_marked=False,
        delivery_marked=False,
    )
    return loop, note


def _used(usage: Sequence[Usage], seconds: float) -> dict[str, float]:
    """CPU seconds and bytes of the whole loop, if all passes used as much per second as those that were counted."""
    counted_s = sum(entry.seconds for entry in usage)
    if not counted_s:
        return {}
    used = {"cpu_s": sum(entry.cpu_s for entry in usage) * seconds / counted_s}
    read = [entry.read_bytes for entry in usage if entry.read_bytes is not None]
    return used | ({"read_bytes": sum(read) * seconds / counted_s} if len(read) == len(usage) else {})


def _own_cost_ns(events: Events, num_steps: int) -> float | None:
    cost = events.program.row_cost_ns
    return cost * len(events.rows) / num_steps if cost and num_steps else None


def _step_ns(loop: LoopRecord) -> float:
    """The mean length of the measured steps."""
    lengths = [step.host_ns for step in loop.window]
    return sum(lengths) / len(lengths) if lengths else 0.0


def _total_wait(loop: LoopRecord) -> int:
    return sum(step.host[0] for step in loop.steps)
