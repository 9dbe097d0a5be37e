"""The setup of a run, as the diagnosis needs it."""

from __future__ import annotations

import torch

from loaderlab.data.spec import EncodedImages, UserItems
from loaderlab.diagnosis.evidence import Setup
from loaderlab.runs.context import RunContext
from loaderlab.runs.prepare import Prepared
from loaderlab.system import machine


def setup_of(context: RunContext, prepared: Prepared) -> Setup:
    """The setup of a prepared run."""
    config, split = context.config, prepared.spec.train
    normalization, source = split.normalization, split.source
    return Setup(
        loader=prepared.parts.loader.capabilities,
        device=prepared.device.capabilities,
        cores=machine.available_cores(),
        threads=torch.get_num_threads(),
        batch_size=config.batch_size,
        precision=config.precision.name,
        in_memory=split.in_memory,
        fits_on_device=split.ready_in_memory,
        image_files=isinstance(source, EncodedImages),
        normalized_by_loader=normalization is not None and not normalization.on_device,
        compiled=config.model.compile,
        auto_threads=prepared.settings.threads_by_cores,
        max_makers=1 if isinstance(source, UserItems) and source.iterable and not source.sharded else None,
    )
