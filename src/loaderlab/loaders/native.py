"""PyTorch's own DataLoader, driven by the plan: worker processes build whole batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info

from loaderlab.config import NativeLoader, refuse
from loaderlab.data.spec import Split, UserItems
from loaderlab.loaders.broken import BrokenSamples
from loaderlab.loaders.contract import Batch, EpochPlan, Loader, LoaderError
from loaderlab.loaders.copying import DeviceCopy
from loaderlab.loaders.fetch import BatchFetcher, Fetched, Request, requests, taken
from loaderlab.loaders.fetchers import fetcher
from loaderlab.loaders.header import lift_pillow_limit
from loaderlab.loaders.resolve import NativeSettings, native_capabilities, native_settings
from loaderlab.loaders.torch_internals import end_workers
from loaderlab.loaders.user_items import UserStream
from loaderlab.system import doctor


def explained(error: RuntimeError) -> RuntimeError | LoaderError:
    """What a user can make of a worker's death; any other error as it is. PyTorch tells of it in a signal handler: the
    error comes up wherever the training process happens to be."""
    if why := doctor.cause(error):
        return LoaderError(f"{why} ({str(error).strip().splitlines()[-1]})")
    if "DataLoader worker" not in str(error):
        return error
    return LoaderError(
        f"{str(error).splitlines()[0].rstrip('. ')}. A worker that is killed has as a rule run out of memory: "
        "loader.num_workers=1 or a smaller batch_size needs less; a full /dev/shm does the same"
    )


class _Requests:
    """The batch sampler: the plan's batches of the epoch that was last set."""

    def __init__(self, plan: EpochPlan) -> None:
        self._plan = plan
        self.epoch = 0

    def __len__(self) -> int:
        return self._plan.num_steps

    def __iter__(self) -> Iterator[Request]:
        return requests(self._plan, self.epoch)


def _begin_worker(_: int) -> None:
    """In a worker before its first batch: one that was spawned has none of what the training process has set."""
    lift_pillow_limit()


def _as_it_is(fetched: Any) -> Any:
    """In a worker: puts the inputs into shared memory here, where an error reaches the training process. The thread that
    sends batches would only print it, and the training process would wait for ever."""
    if isinstance(fetched, Batch) and get_worker_info() is not None:
        fetched.inputs.share_memory_()
    return fetched


class Native(Loader):
    """The native backend. See `Loader` for the contract."""

    settings: NativeSettings

    def __init__(self, config: NativeLoader, split: Split, plan: EpochPlan, device: torch.device) -> None:
        source = split.source
        self._iterable = isinstance(source, UserItems) and source.iterable
        self.settings = native_settings(config, split, device)
        self.capabilities = native_capabilities(self.settings, batched=config.batched)
        num_workers = self.settings.num_workers
        if isinstance(source, UserItems) and self._iterable and num_workers > 1 and not source.sharded:
            raise refuse(
                "loader.num_workers",
                num_workers,
                "every worker would yield the whole of an iterable dataset",
                "loader.num_workers=1, or data.sharded=true if it splits itself by torch.utils.data.get_worker_info",
                is_example=False,
                error=LoaderError,
            )
        self._copy = DeviceCopy(config, device)
        self._skipped = BrokenSamples(split.on_error, plan.num_samples)
        self.broken = self._skipped.reasons
        self._requests = _Requests(plan)
        common: dict[str, Any] = {
            "num_workers": num_workers,
            "prefetch_factor": self.settings.prefetch_factor,
            "persistent_workers": self.settings.persistent_workers,
            "pin_memory": self._copy.pinned,
            "in_order": config.in_order,
            "multiprocessing_context": self.settings.start_method,
            "collate_fn": _as_it_is,
            "worker_init_fn": _begin_worker,
        }
        self._loader: DataLoader[Any] | None
        self._in_process: BatchFetcher | None = None
        self._fetcher: BatchFetcher | None = None
        if self._iterable:
            assert isinstance(source, UserItems)
            stream = UserStream(source, plan.batch_size, plan.drop_last)
            self._num_steps = None
            if source.length is not None and not source.sharded:
                cut = math.floor if plan.drop_last else math.ceil
                self._num_steps = cut(source.length / plan.batch_size)
            self._loader = DataLoader(stream, batch_size=None, **common)
        else:
            self._num_steps = plan.num_steps
            self._fetcher = fetcher(split, config.batched, config.decoder)
            self._in_process = self._fetcher if num_workers == 0 and config.batched else None
            self._loader = DataLoader(self._fetcher, batch_sampler=self._requests, **common)  # type: ignore[arg-type]

    @property
    def num_steps(self) -> int | None:
        return self._num_steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        assert self._loader is not None, "closed"
        self._requests.epoch = epoch
        try:
            for fetched in self._loader if self._in_process is None else self._fetched_here(self._in_process):
                yield taken(fetched, self._skipped)
        except RuntimeError as error:
            if (told := explained(error)) is error:
                raise
            raise told from error

    def _fetched_here(self, fetch: BatchFetcher) -> Iterator[Fetched]:
        """Without workers whole batches need no DataLoader, which takes as long for a small one as making it does."""
        for request in self._requests:
            fetched = fetch.__getitems__(request)
            yield fetched.pin_memory() if self._copy.pinned and isinstance(fetched, Batch) else fetched

    def transfer(self, batch: Batch) -> Batch:
        return self._copy(batch)

    def stages(self, seconds: float) -> Mapping[str, float] | None:
        if self._fetcher is None:
            return None
        return self._fetcher.stages(self._requests, seconds)

    def close(self) -> None:
        if self._loader is not None:
            end_workers(self._loader)
        self._loader = None
