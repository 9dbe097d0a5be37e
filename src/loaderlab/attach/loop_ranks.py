"""Compares the ranks of a job whose loop is measured with `loaderlab.watch`, as `loaderlab watch` compares them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from loaderlab.attach.events import LoaderFacts, Program
from loaderlab.attach.loader_facts import facts_of
from loaderlab.attach.loop_collectives import LoopCollectives, with_collectives
from loaderlab.attach.measuring_callback import harmless
from loaderlab.attach.publish import say
from loaderlab.attach.rank_exchange import joined
from loaderlab.attach.rank_results import RanksReading, not_compared
from loaderlab.attach.reading import JudgedLoader, Reading
from loaderlab.attach.roles import TRAINING
from loaderlab.attach.termination import Termination
from loaderlab.device.base import Device
from loaderlab.diagnosis.evidence import Setup
from loaderlab.diagnosis.figures import LoopRecord
from loaderlab.diagnosis.verdict import Verdict
from loaderlab.system.machine import rank_cores
from loaderlab.system.ranks import Ranks, node_name

LOOP = "training loop"
NO_GROUP = (
    "torch.distributed was not initialised when the loop began: call torch.distributed.init_process_group() first"
)
RUNNING = "this is rank {} of {} alone: the ranks are compared when the block of watch ends"
SYNC = "sync=True waits for the device at every mark"


@dataclass(frozen=True)
class OwnResults:
    """What this rank measured of its loop."""

    loop: LoopRecord
    setup: Setup | None
    verdict: Callable[[LoopRecord], Verdict]
    figures: Callable[[LoopRecord], dict[str, float]]


class LoopRanks:
    """The place of a loop among the ranks of its job.

    Args:
        title: of the loop, in messages.
        name: of the loop; the same on all ranks.
        sync: the meter waits for the device at every mark.

    Attributes:
        place: this rank, as far as it is known; a job of one rank without torch.distributed and without torchrun.
        reading: the result, on the first rank that of the whole job; None before the end, and without other ranks.
    """

    def __init__(self, device: Device, title: str, name: str, *, sync: bool) -> None:
        self._device, self._title, self._name, self._sync = device, title, name, sync
        self.place = _place()
        self.reading: Reading | None = None
        self._has_group = _has_group()
        self._collectives: LoopCollectives | None = None
        self._facts = LoaderFacts(0, "", LOOP)

    def begin(self, loader: object) -> None:
        """A loop over a loader begins."""
        if self._collectives is None:
            self._has_group, self.place = _has_group(), _place()
            if self.place.is_alone:
                return
            self._collectives = LoopCollectives(self._device)
        self._facts = facts_of(loader, 0)

    def stepped(self) -> None:
        """A step has ended."""
        if self._collectives is not None:
            self._collectives.stepped()

    @property
    def note(self) -> str:
        """What limits the verdict while the loop runs; empty if nothing does."""
        return (
            ""
            if self.place.is_alone or self.reading is not None
            else RUNNING.format(self.place.rank, self.place.world_size)
        )

    @property
    def ranks(self) -> RanksReading | None:
        """The verdict over all ranks, on the first rank after the end."""
        return None if self.reading is None else self.reading.ranks

    def end(self, own: OwnResults, *, failed: bool) -> None:
        """Brings the results together; the first rank waits for those of the others, and prints the verdict.

        Args:
            failed: the loop ended with an error.
        """
        if self.place.is_alone:
            return
        termination = Termination()
        termination.defer()
        with harmless("the ranks could not be compared"):
            reading = self._own_reading(own)
            if not self._has_group:
                self.reading = reading if self.place.rank else not_compared(reading, NO_GROUP)
            else:
                self.reading = joined(reading, self._name, hurry=lambda: failed or termination.arrived)
            if self.place.is_first:
                from loaderlab.attach.outputs import (
                    text,  # imports the reports, which a loop without other ranks does not need
                )

                say(text(self.reading, self._title))
        termination.release()

    def _own_reading(self, own: OwnResults) -> Reading:
        rows, unseparated = ([], "") if self._collectives is None else self._collectives.ended()
        self._collectives = None
        steps, exchanging = with_collectives(own.loop.steps, own.loop.epochs_ns, rows)
        loop = replace(own.loop, steps=steps, cores=rank_cores())
        is_timed = self._device.capabilities.asynchronous and not self._sync
        if self._sync and self._device.capabilities.asynchronous:
            unseparated = SYNC
        job = JudgedLoader(
            self._title,
            "",
            TRAINING,
            self._facts,
            own.verdict(loop),
            own.figures(loop),
            loop,
            setup=own.setup,
            num_exchanging=exchanging,
        )
        program = Program(
            device=str(self._device.torch_device),
            device_title=self._device.title,
            asynchronous=self._device.capabilities.asynchronous,
            timed=is_timed,
            cores=rank_cores(),
            threads=torch.get_num_threads(),
            rank=self.place.rank,
            num_ranks=self.place.world_size,
            node=self.place.node,
            unseparated=unseparated,
        )
        return Reading(job, device=self._device.title, program=program)


def _has_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _place() -> Ranks:
    """This rank, from the process group, or else from the environment that torchrun has set."""
    if _has_group():
        return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), node=node_name())
    try:
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return Ranks()
    return Ranks(rank, world_size, node=node_name()) if 0 <= rank < world_size else Ranks()
