"""The native loader: PyTorch's DataLoader in the order of the plan. Worker processes build whole batches."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from loaderlab.config import NativeLoader, refuse
from loaderlab.data.spec import Split, UserItems
from loaderlab.device.base import Device
from loaderlab.device.threads import torch_threads
from loaderlab.loaders.broken import BrokenSamples
from loaderlab.loaders.contract import Batch, Counted, EpochPlan, Loader, LoaderError, SharedBatches
from loaderlab.loaders.copying import DeviceCopy
from loaderlab.loaders.fetch import BatchFetcher, Fetched, Request, received, requests
from loaderlab.loaders.fetchers import fetcher
from loaderlab.loaders.resolve import NativeSettings, native_capabilities, native_settings
from loaderlab.loaders.slots import IN_USE, Slots
from loaderlab.loaders.torch_internals import batches_of, dead_workers, end_workers, worker_pids
from loaderlab.loaders.user_items import StreamEnd, UserStream
from loaderlab.loaders.worker import BeginWorker, as_sent
from loaderlab.loaders.worker_death import explained, start_refused
from loaderlab.system.causes import described
from loaderlab.system.processes import undisturbed


class _Requests:
    """The batch sampler: yields the plan's batches for the current ``epoch``."""

    def __init__(self, plan: EpochPlan) -> None:
        self._plan = plan
        self.epoch = 0

    def __len__(self) -> int:
        return self._plan.num_steps

    def __iter__(self) -> Iterator[Request]:
        return requests(self._plan, self.epoch)


class Native(Loader):
    """The native backend. See `Loader` for the contract."""

    settings: NativeSettings

    def __init__(self, config: NativeLoader, split: Split, plan: EpochPlan, device: Device) -> None:
        source = split.source
        self._iterable = isinstance(source, UserItems) and source.iterable
        self.settings = native_settings(config, split, device)
        self.capabilities = native_capabilities(self.settings, batched=config.batched)
        num_workers = self.settings.num_workers
        if isinstance(source, UserItems) and self._iterable and num_workers > 1 and not source.sharded:
            raise refuse(
                "loader.num_workers",
                num_workers,
                "each worker would yield the whole iterable dataset",
                "loader.num_workers=1, or data.sharded=true if the dataset splits itself by torch.utils.data.get_worker_info",
                is_example=False,
                error=LoaderError,
            )
        self._copy = DeviceCopy(config, device)
        self._skipped = BrokenSamples(split.on_error, plan.num_samples)
        self.broken = self._skipped.reasons
        self._requests, self._max_steps = _Requests(plan), plan.max_steps
        self._begin_worker = BeginWorker(self.settings.start_method)
        self._running: Iterator[Any] | None = None
        self._slots = self._first_slots()
        common: dict[str, Any] = {
            "num_workers": num_workers,
            "prefetch_factor": self.settings.prefetch_factor,
            "persistent_workers": self.settings.persistent_workers,
            "pin_memory": self._copy.pins,
            "in_order": config.in_order,
            "multiprocessing_context": self.settings.start_method,
            "collate_fn": as_sent,
            "worker_init_fn": self._begin_worker,
        }
        self._loader: DataLoader[Any] | None
        self._in_process: BatchFetcher | None = None
        self._fetcher: BatchFetcher | None = None
        self.knows_length = not self._iterable
        if self._iterable:
            assert isinstance(source, UserItems)
            stream = UserStream(source, plan.batch_size, plan.drop_last, plan.max_steps)
            self._num_steps = None
            if source.length is not None and not source.sharded:
                rounded = math.floor if plan.drop_last else math.ceil
                all_steps = rounded(source.length / plan.batch_size)
                self._num_steps = all_steps if plan.max_steps is None else min(all_steps, plan.max_steps)
            self._loader = DataLoader(stream, batch_size=None, **common)
        else:
            self._num_steps = plan.num_steps
            self._fetcher = fetcher(split, config.batched, config.decoder)
            self._in_process = self._fetcher if num_workers == 0 and config.batched else None
            self._loader = DataLoader(self._fetcher, batch_sampler=self._requests, **common)  # type: ignore[arg-type]

    @property
    def num_steps(self) -> int | None:
        return self._num_steps

    @property
    def worker_pids(self) -> tuple[int, ...]:
        return () if self._loader is None else worker_pids(self._loader, self._running)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        assert self._loader is not None, "closed"
        self._requests.epoch = epoch
        num_steps = num_samples = 0
        try:
            for fetched in self._fetched() if self._in_process is None else self._fetched_in_process(self._in_process):
                if isinstance(fetched, StreamEnd):
                    num_samples += fetched.num_dropped
                    continue
                batches = [received(fetched, self._skipped)]
                if self._iterable:
                    num_steps, num_samples = num_steps + 1, num_samples + batches[0].num_items
                    self.counted = Counted(num_samples, whole=False)
                del fetched
                yield batches.pop()  # without a reference here, its memory is released by the consumer, not in the next wait
        except GeneratorExit:  # stopped early: workers that are not persistent end with their iterator
            self._running = None
            raise
        except (RuntimeError, OSError, EOFError) as error:
            if (explanation := self._explain_and_stop(error)) is error:
                raise
            raise explanation from error
        if self._iterable:
            whole = num_steps != self._max_steps  # otherwise the dataset may have more samples
            self._num_steps, self.counted = num_steps, Counted(num_samples, whole=whole)

    def _fetched(self) -> Iterator[Fetched | StreamEnd]:
        assert self._loader is not None, "closed"
        self._begin_worker.note_thread()
        try:
            self._try_queue()
            self._prepare_slots()
            with self._begin_worker.starting():
                self._running = iter(self._loader)
        except Exception as error:
            if self.settings.num_workers == 0 or self._explained(error) is not error:
                raise
            raise start_refused(self.settings.num_workers, error) from error
        yield from batches_of(self._running)
        self._running = None

    def _try_queue(self) -> None:
        """Creates and closes one queue of the kind that the workers need.

        If this fails, torch's iterator is not created. A half-created one would print a traceback when it is garbage-collected.
        """
        if self.settings.num_workers:
            queue = multiprocessing.get_context(self.settings.start_method).Queue()
            queue.close()
            queue.join_thread()

    def _first_slots(self) -> Slots | None:
        """The slots of the first workers; None without workers, or if the system refuses them."""
        num_workers, prefetch_factor = self.settings.num_workers, self.settings.prefetch_factor
        if prefetch_factor is None:
            return None
        try:
            slots = Slots(num_workers, prefetch_factor)
        except (OSError, AttributeError) as error:  # not on Linux: no memfd_create
            self.notes = (
                f"loader=native: batches are sent through new shared memory, which takes longer: {described(error)}",
            )
            self.shared_batches = SharedBatches(self.lookahead + IN_USE, in_dev_shm=True)
            return None
        self.shared_batches = SharedBatches(slots.num_slots, in_dev_shm=False)
        return slots

    def _prepare_slots(self) -> None:
        """Gives slots to workers that are about to start: the first ones, then new ones each time."""
        if self._slots is None:
            return
        self._slots.release_unused()  # workers fill their queues before the first batch is received
        if self.settings.persistent_workers and self._begin_worker.slots is not None:
            return
        if self._begin_worker.slots is not None:
            self._slots.close()
            self._slots = self._first_slots()
        self._begin_worker.use(self._slots)

    def _explain_and_stop(self, error: BaseException) -> BaseException:
        """The error to raise instead. If it is an explanation, the workers have been ended, so that PyTorch's SIGCHLD handler
        does not report their deaths later somewhere else in the training process."""
        assert self._loader is not None, "closed"
        try:
            with undisturbed():
                if (explanation := self._explained(error)) is not error:
                    end_workers(self._loader, self._running)
                return explanation
        except RuntimeError as death:  # the handler ran just before signals were deferred
            return explained(death)

    def _explained(self, error: BaseException) -> BaseException:
        """The error, or the death of the worker that caused an error of its pipe."""
        pipe_broke = isinstance(error, (OSError, EOFError))
        deaths = dead_workers(self._running, patience_s=1.0 if pipe_broke else 0.0)
        if self._iterable:  # a worker that has no more samples has ended normally
            deaths = [(pid, code) for pid, code in deaths if code != 0]
        return explained(error, deaths)

    def _fetched_in_process(self, fetch: BatchFetcher) -> Iterator[Fetched]:
        """Batches without workers and without DataLoader, which would take as long for a small batch as building it."""
        for request in self._requests:
            yield self._pinned(fetch.__getitems__(request))

    def _pinned(self, fetched: Fetched) -> Fetched:
        return fetched.pin_memory() if self._copy.pins and isinstance(fetched, Batch) else fetched

    def transfer(self, batch: Batch) -> Batch:
        return self._copy(batch)

    def stages(self, seconds: float) -> Mapping[str, float] | None:
        if self._fetcher is None:
            return None
        if self.settings.num_workers == 0:  # this process builds the batches, with its own number of threads
            return self._fetcher.stages(self._requests, seconds)
        with torch_threads(1):  # as in a worker
            return self._fetcher.stages(self._requests, seconds)

    def call_in_workers(self, begin: Callable[[int], None]) -> None:
        self._begin_worker.then(begin)

    def close(self) -> None:
        if self._loader is not None:
            end_workers(self._loader, self._running)
        if self._slots is not None:
            self._slots.close()
            self._begin_worker.use(None)
        self._loader = self._running = self._slots = None
