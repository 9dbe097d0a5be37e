"""Changes of the code, each in one place, that the tests on the double of CUDA must notice."""

from __future__ import annotations

from benchmarks.harness.mutants import copies, events, loaders, loop, metering, probes
from benchmarks.harness.mutants.mutant import Mutant

BY_TOPIC = {
    "the ring of events": events.MUTANTS,
    "the meter and its arithmetic": metering.MUTANTS,
    "copies to the device": copies.MUTANTS,
    "loaders": loaders.MUTANTS,
    "the training loop": loop.MUTANTS,
    "probes, first step, failures and watch": probes.MUTANTS,
}
ALL: list[Mutant] = [mutant for mutants in BY_TOPIC.values() for mutant in mutants]
