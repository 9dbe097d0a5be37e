"""The step of a model whose gradients are averaged over the ranks: torch's DistributedDataParallel."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from loaderlab.config import UserError
from loaderlab.device.base import Device
from loaderlab.loaders.contract import Batch
from loaderlab.training.rank_group import RankGroup
from loaderlab.training.step import ModelStep


@dataclass
class DataParallelStep(ModelStep):
    """The step of one rank.

    Attributes:
        network: the wrapped ``model``.
        group: of the ranks.
        is_called: whether this step has called the network.
    """

    network: DistributedDataParallel
    group: RankGroup
    is_called: bool = False

    def called(self, *_: object) -> None:
        """Is called before the network's forward."""
        self.is_called = True

    def begin_epoch(self) -> None:
        self.network.train()

    def forward(self, batch: Batch, *, updates: bool = True) -> torch.Tensor:
        """Without an update, the gradients stay on this rank and add up."""
        self.is_called = False
        with nullcontext() if updates else self.network.no_sync(), self.precision.autocast():
            loss = self.task.loss(self.network, batch)
        if not self.is_called:
            raise UserError(
                "model.step: with several ranks it must call model(...) itself, not model.module or a part of it, since otherwise the "
                "gradients are not averaged"
            )
        return loss

    def correct(self, factor: float) -> None:
        """The steps of this group did not know that they were its last, so their gradients are averaged here."""
        super().correct(factor)
        self.group.average([parameter.grad for parameter in self.model.parameters() if parameter.grad is not None])

    def before_evaluation(self) -> None:
        self.group.share_buffers(self.model)


def wrapped(step: ModelStep, group: RankGroup, device: Device) -> DataParallelStep:
    """The step with its model wrapped, so that backward averages the gradients. All ranks get the weights of rank 0."""
    exchange = group.for_gradients(device)
    ids = None if device.capabilities.uses_host_cores else [device.torch_device]
    network = DistributedDataParallel(step.model, device_ids=ids, process_group=exchange)
    parallel = DataParallelStep(
        step.model, step.optimizer, step.schedule, step.precision, network, group, task=step.task
    )
    network.register_forward_pre_hook(parallel.called)
    # a lambda, since torch compares the annotations of a function, which are texts in this file
    network.register_comm_hook(exchange, lambda group, bucket: _averaged(parallel, group, bucket))
    if any(True for _ in step.model.buffers()):
        # torch broadcasts the buffers after the network's hooks and before the model's
        step.model.register_forward_pre_hook(lambda *_: parallel.collectives_ended())
    return parallel


def _averaged(step: DataParallelStep, group: dist.ProcessGroup | None, bucket: GradBucket) -> Future[torch.Tensor]:
    """Averages a bucket of gradients. Backward calls this as soon as its gradients are complete; the last call is the end of this
    rank's own work."""
    future = allreduce_hook(group, bucket)  # type: ignore[arg-type]
    step.collectives_begin()
    return future
