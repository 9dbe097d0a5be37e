"""A simulated machine: what trials would measure, from a loader and a step of known speeds."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from loaderlab.tuning.candidate import NATIVE, Branch, Candidate
from loaderlab.tuning.limits import Machine
from loaderlab.tuning.results import Results
from loaderlab.tuning.search import Search
from loaderlab.tuning.trial import Facts, Measured, Trial, TrialFailed

BATCH = 32
GIB = 2**30


@dataclass
class Simulated:
    """Trials of a loader whose rate alone is ``alone[branch](makers)``, and of a step that takes ``demand(makers)`` samples/s.

    Attributes:
        jitter: starved share, percent, with a queue of a length, if the loader is fast enough.
        gap_ms: time lost between two epochs, measured by trials that contain the end of one.
        noise: relative deviation of rates; also the half-width of the starved interval, in percent.
        dies_from: number of makers from which a trial dies.
    """

    alone: Mapping[Branch, Callable[[int], float]]
    demand: Callable[[int], float]
    jitter: Callable[[Candidate], float] = lambda _: 0.0
    noise: float = 0.3
    dies_from: int | None = None
    worker_mib: float = 100.0
    process_mib: float | None = None
    start_s: Callable[[Candidate], float] = lambda _: 1.0
    cores_per_maker: float = 0.1
    cpu_s_per_sample: float = 1e-4
    gap_ms: Callable[[Candidate], float | None] = lambda _: None
    delivery_pct: Callable[[Candidate], float] = lambda _: 0.0
    current: Candidate = field(default_factory=lambda: Candidate(makers=0, pin_memory=True, side_stream=True))
    epoch_steps: int = 10_000
    takes_copies: bool = True
    uses_host_cores: bool = False
    machine: Machine = field(default_factory=lambda: Machine(cores=8, memory_bytes=64 * GIB))
    ran: list[Trial] = field(default_factory=list)
    seed: int = 0

    def facts(self) -> Facts:
        return Facts(
            self.current,
            list(self.alone),
            self.epoch_steps,
            BATCH,
            batch_bytes=2**20,
            samples_bytes=GIB,
            takes_copies=self.takes_copies,
            uses_host_cores=self.uses_host_cores,
            can_start=("fork", "spawn"),
        )

    def refuses(self, _branch: Branch) -> str:
        return ""

    def close(self) -> None:
        pass

    def run(self, trial: Trial) -> Measured:
        """Raises:
        TrialFailed: too many makers.
        """
        self.ran.append(trial)
        candidate = trial.candidate
        if self.dies_from is not None and candidate.makers >= self.dies_from:
            raise TrialFailed("its process was ended by SIGKILL")
        random.seed(f"{self.seed} {candidate} {trial.round}")
        made, taken = self.alone[candidate.branch](candidate.makers), self.demand(candidate.makers)
        rate = min(made, taken)
        if candidate.makers == 0 and self.uses_host_cores and candidate.branch.backend == NATIVE:
            rate = 1 / (1 / made + 1 / taken)
        lost = 100 * (1 - rate / taken)
        lost = max(lost, self.jitter(candidate) if rate >= taken else 0.0, self.delivery_pct(candidate))
        lost = min(100.0, max(0.0, lost + random.gauss(0, self.noise / 2)))
        rate = taken * (1 - lost / 100)
        crosses = trial.epoch_steps is not None or self.epoch_steps * BATCH / rate <= trial.seconds
        return Measured(
            rate=rate,
            starved_pct=lost,
            starved_interval=(lost - self.noise, lost + self.noise),
            step_ms=1e3 * BATCH / rate,
            num_steps=100,
            gap_ms=self.gap_ms(candidate) if crosses else None,
            delivery_pct=self.delivery_pct(candidate),
            ceiling=taken if trial.probes else None,
            contended=taken if trial.probes else None,
            loader_alone=made if trial.alone else None,
            loader_cores=self.cores_per_maker * max(1, candidate.makers) if trial.alone else None,
            torch_threads=max(1, self.machine.cores - candidate.makers),
            cpu_s_per_sample=self.cpu_s_per_sample,
            worker_mib=self.worker_mib if candidate.makers else None,
            host_mib=None if self.process_mib is None else self.process_mib + candidate.makers * self.worker_mib,
            start_s=self.start_s(candidate),
            total_s=4.0,
        )

    def searched(self, limit_pct: float = 5.0) -> Search:
        """A whole search on this machine."""
        search = Search(Results(self.facts(), self.machine, limit_pct), self.refuses, lambda: True)
        trials = search.trials()
        trial = next(trials, None)
        while trial is not None:
            try:
                result: Measured | TrialFailed = self.run(trial)
            except TrialFailed as error:
                result = error
            try:
                trial = trials.send(result)
            except StopIteration:
                trial = None
        return search


NATIVE_ONLY = Branch(NATIVE)


def linear(per_maker: float, most: float = 1e9) -> Callable[[int], float]:
    """The rate of a loader whose makers do not disturb each other, up to a limit."""
    return lambda makers: min(most, per_maker * max(1, makers))
