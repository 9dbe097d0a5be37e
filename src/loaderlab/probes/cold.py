"""The cold-cache probe: the loop with its files out of the page cache, and then with them in it."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from loaderlab.data.spec import EncodedImages
from loaderlab.meter import filecache
from loaderlab.meter.phases import StepMeter
from loaderlab.meter.rates import Rate
from loaderlab.meter.summary import measured
from loaderlab.probes.ceiling import Unmeasurable, rate_of
from loaderlab.probes.inputs import ProbeInputs
from loaderlab.training.loop import Observers, train
from loaderlab.training.step import Progress


def cold_and_warm(inputs: ProbeInputs, images: EncodedImages, num_steps: int) -> tuple[Rate, Rate]:
    """The loop's rates over the first steps of an epoch, first with none of their files in the page cache, then with all.

    The difference between cold and warm is the fetch stall, that between warm and the ceiling the prep stall (Mohan et
    al., Analyzing and Mitigating Data Stalls in DNN Training, VLDB 2021).

    Raises:
        Unmeasurable: the kernel keeps the files in memory, or there were too few steps to measure.
    """
    if not hasattr(os, "posix_fadvise"):
        raise Unmeasurable("this system cannot drop files from its cache")
    ids = np.concatenate(inputs.plan.batches(inputs.epoch)[:num_steps])
    paths = images.files(ids)
    inputs.parts.loader.close()
    filecache.drop(paths)
    if (share := filecache.resident_share(paths)) > filecache.STILL_RESIDENT:
        raise Unmeasurable(
            f"the kernel keeps {100 * share:.0f} % of the files in memory (an in-memory file system, or files in use)"
        )
    rates = []
    for _ in range(2):
        loader, meter = inputs.rebuild(), StepMeter(inputs.parts.device, sync=inputs.settings.sync)
        try:
            train(
                replace(inputs.parts, loader=loader, val_loader=None),
                meter,
                Progress(epoch=inputs.epoch),
                Observers(lambda *_: None, lambda *_: None),
                epochs=None,
                steps=num_steps,
                accumulate=inputs.accumulate,
            )
        finally:
            loader.close()
        rate = rate_of(measured(meter.steps, 0, loader.parallel), loader.parallel)
        if rate is None:
            raise Unmeasurable(f"an epoch has {num_steps} steps: too few to measure")
        rates.append(rate)
    return rates[0], rates[1]
