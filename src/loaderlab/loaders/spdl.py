"""The SPDL loader: SPDL in the order of the plan. Threads of this process build whole batches, instead of worker processes.

A thread uses the native loader's fetcher, so pixels, random draws and errors are the same. The difference is in parallelism: there
are no processes to start and no batches to send, but all threads share one interpreter lock. Decoding and resizing release the
lock; Python code and arrays in memory gain little or nothing from a second thread.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch

from loaderlab.config import SpdlLoader, refuse
from loaderlab.data.spec import Split, UserItems
from loaderlab.device.base import Device
from loaderlab.device.threads import torch_threads
from loaderlab.loaders.broken import BrokenSamples
from loaderlab.loaders.contract import Batch, EpochPlan, Loader, LoaderError
from loaderlab.loaders.copying import DeviceCopy
from loaderlab.loaders.fetch import Fetched, Request, received, requests
from loaderlab.loaders.fetchers import fetcher
from loaderlab.loaders.resolve import SpdlSettings, spdl_capabilities, spdl_settings
from loaderlab.system.causes import described, reason
from loaderlab.system.extras import how_to_install

try:
    from spdl.pipeline import Pipeline, PipelineBuilder, PipelineFailure
except ImportError as error:
    why, install = f"SPDL is not installed here ({reason(error)})", f"{how_to_install('spdl')}, or loader=native"
    raise refuse("loader", "spdl", why, install, is_example=False, error=LoaderError) from error

Built = Fetched | BaseException


class Spdl(Loader):
    """The SPDL backend. See `Loader` for the contract.

    A user's map-style dataset is read from several threads. If it is not thread-safe, use ``loader.num_threads=1``.

    Raises:
        LoaderError: an iterable dataset, or pinned memory without a GPU.
    """

    settings: SpdlSettings

    def __init__(self, config: SpdlLoader, split: Split, plan: EpochPlan, device: Device) -> None:
        if isinstance(split.source, UserItems) and split.source.iterable:
            allowed = "SPDL reads samples by id, and an iterable dataset has no ids"
            raise refuse("loader", "spdl", allowed, "loader=native", is_example=False, error=LoaderError)
        logging.getLogger("spdl").setLevel(
            logging.CRITICAL
        )  # a failure is raised here; the log would print it a second time
        self._plan, self._buffer_size = plan, config.buffer_size
        self._copy = DeviceCopy(config, device)
        self.settings = spdl_settings(config, split, device)
        self.capabilities = spdl_capabilities(self.settings)
        self._num_threads = self.settings.num_threads
        self._fetcher = fetcher(split, True, config.decoder)
        self._skipped = BrokenSamples(split.on_error, plan.num_samples)
        self.broken = self._skipped.reasons
        self._builders: ThreadPoolExecutor | None = _builders(self._num_threads, device)
        self._running: Pipeline[Built] | None = None
        self._ended: Pipeline[Built] | None = None  # the pipeline of the last complete epoch

    @property
    def num_steps(self) -> int:
        return self._plan.num_steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        self._stop(self._running)  # of an epoch that was stopped early, if its iterator still exists
        if self.num_steps == 0:
            return
        pipeline = self._running = self._pipeline(epoch)
        pipeline.start()
        try:
            for _ in range(self.num_steps):
                yield received(_built(pipeline), self._skipped)
        except BaseException:  # stopped early or failed: the batches in the pipeline are not needed
            pipeline.stop()
            raise
        # its threads take up to 0.1 s to end, which would delay the next epoch: they are joined at the end of that epoch
        self._stop(self._ended)
        self._running, self._ended = None, pipeline
        with contextlib.suppress(TimeoutError):
            pipeline.stop(timeout=0)

    def _pipeline(self, epoch: int) -> Pipeline[Built]:
        assert self._builders is not None, "closed"

        async def source() -> AsyncIterator[Request]:  # SPDL would run a plain iterator in an extra thread
            for request in requests(self._plan, epoch):
                yield request

        return (
            PipelineBuilder[Request, Built]()
            .add_source(source())
            .pipe(self._build, concurrency=self._num_threads, executor=self._builders, output_order="input")
            .add_sink(self._buffer_size)
            .build(num_threads=1, task_hook_factory=lambda _: [])
        )

    def _build(self, request: Request) -> Built:
        """The batch, or the exception that was raised. SPDL would drop the batch after an exception, and wait forever after a
        SystemExit. Runs in a builder thread."""
        try:
            fetched = self._fetcher.__getitems__(request)
            return fetched.pin_memory() if self._copy.pins and isinstance(fetched, Batch) else fetched
        except BaseException as error:
            return error

    @staticmethod
    def _stop(pipeline: Pipeline[Built] | None) -> None:
        """Joins a pipeline's threads and drops its batches. May be called again."""
        if pipeline is not None:
            pipeline.stop()

    def transfer(self, batch: Batch) -> Batch:
        return self._copy(batch)

    def stages(self, seconds: float) -> Mapping[str, float] | None:
        with torch_threads(1):  # as in a builder thread
            return self._fetcher.stages(requests(self._plan, 0), seconds)

    def close(self) -> None:
        self._stop(self._running)
        self._stop(self._ended)
        if self._builders is not None:
            self._builders.shutdown()
        self._builders = None


def _builders(num_threads: int, device: Device) -> ThreadPoolExecutor:
    """Threads in which torch's operators use one core each, independent of the training thread."""

    def begin() -> None:
        torch.get_num_threads()  # the first call in a thread copies the process's number, so it must precede the next line
        torch.set_num_threads(1)
        device.bind_thread()  # memory is pinned for the current device

    torch_threads = torch.get_num_threads()
    builders = ThreadPoolExecutor(num_threads, "spdl_builder", begin)
    all_started = threading.Barrier(num_threads)
    list(builders.map(lambda _: all_started.wait(), range(num_threads)))
    torch.set_num_threads(torch_threads)  # otherwise later threads would inherit the builders' number
    return builders


def _built(pipeline: Pipeline[Built]) -> Fetched:
    try:
        built = pipeline.get_item()
    except PipelineFailure as failure:
        cause = failure.exceptions[0]
        raise LoaderError(f"loader=spdl: the pipeline failed: {described(cause)}") from cause
    if isinstance(built, BaseException):
        raise LoaderError(f"loader=spdl: a thread failed: {described(built)}") from built
    return built
