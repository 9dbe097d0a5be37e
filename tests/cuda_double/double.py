"""A double of one CUDA device on a timeline: streams, events, memory, copies and the kernels of ordinary torch code.

Tensors are computed on the CPU, at once; what a GPU would do when is computed on the timeline. The double is strict where
CUDA is silent: see `Order` and `Allocator`. `tests.cuda_double.patches` puts it in the place of `torch.cuda`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from loaderlab.device import timeline as tl
from loaderlab.device.cuda import Cuda
from loaderlab.device.timeline import Clock, Timeline
from tests.cuda_double.memory import WHOLE, Allocator, Block, Blocks, Place, place_of, storage_of
from tests.cuda_double.order import Known, Order

DEVICE = torch.device("cuda", 0)
GPU = Cuda()
PAGEABLE_SLOWER = 2.0  # a copy from pageable memory has half of the speed
SAME_DEVICE = {"addmm", "mm", "bmm", "convolution", "native_batch_norm", "embedding", "nll_loss_forward"}
PRODUCTS = {"addmm", "mm", "bmm", "baddbmm"}
TF32_DROPS = 13  # of the 23 bits of a float32's mantissa
DEFAULT_COPY_GB_PER_S = 25.0


@dataclass
class Failure:
    """The error to raise at the ``at``-th call, counted from 1; a CUDA error repeats at every later call."""

    at: int
    error: Callable[[], Exception]
    sticky: bool
    raised: bool = False  # by now


class Double:
    """One device.

    Args:
        clock: virtual, so that every time is exact, or real.
        copy_gb_per_s: speed of copies from pinned memory; from pageable memory it is half of that.
        capacity: bytes of its memory.
        steps_ahead: see `Timeline`.

    Attributes:
        cost: host and device time of a kernel by its name, ns; 0 for all unless set.
        call_ns: host time of each call, ns.
        num_calls: calls of the device so far: kernels, copies, allocations, events, streams, waits.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        copy_gb_per_s: float = DEFAULT_COPY_GB_PER_S,
        capacity: int = 80 * 2**30,
        steps_ahead: int = 4,
    ) -> None:
        self.clock, self.timeline = clock, Timeline(clock, steps_ahead)
        self._copy_gb_per_s = copy_gb_per_s
        self.order, self.pinned = Order(), Blocks()
        self.memory = Allocator(self.order, capacity)
        self.default_stream = DoubleStream(self, self.timeline.default)
        self._streams = [self.default_stream]
        self._current = threading.local()
        self._lock = threading.RLock()
        self.cost: Callable[[str], tuple[int, int]] = lambda name: (0, 0)
        self.call_ns = 0
        self.num_calls, self.failure = 0, None  # type: int, Failure | None
        self.calls: list[str] = []
        self.closed = False

    # ---- calls -----------------------------------------------------------------------------------------------

    def call(self, name: str, allocates: bool = False) -> None:
        """Counts a call of the device, and fails if this one has to."""
        self.num_calls += 1
        self.calls.append(name)
        self.clock.spend(self.call_ns)
        failure = self.failure
        if failure is None or self.num_calls < failure.at:
            return
        if failure.sticky or allocates:  # only an allocation can run out of memory, so it is the next one
            if not failure.sticky:
                self.failure = None
            failure.raised = True
            raise failure.error()

    @property
    def current_stream(self) -> DoubleStream:
        stream: DoubleStream = getattr(self._current, "stream", self.default_stream)
        return stream

    @contextmanager
    def stream(self, stream: DoubleStream | None) -> Iterator[None]:
        before = self.current_stream
        self._current.stream = stream or before
        try:
            yield
        finally:
            self._current.stream = before

    def new_stream(self) -> DoubleStream:
        self.call("Stream")
        with self._lock:
            self._streams.append(DoubleStream(self, tl.Stream(self.timeline)))
            return self._streams[-1]

    def synchronize(self) -> None:
        self.call("synchronize")
        self.timeline.synchronize()
        self.order.seen(self.order.everything())

    # ---- work ------------------------------------------------------------------------------------------------

    def work(self, duration_ns: int, name: str, host_ns: int = 0) -> None:
        """Queues work that touches no tensor on the current stream; launching it takes the host ``host_ns``."""
        self.call(name)
        self.clock.spend(host_ns)
        self._launch(name, duration_ns, (), ())

    def _launch(
        self, name: str, duration_ns: int, reads: Sequence[tuple[Block, Place]], writes: Sequence[tuple[Block, Place]]
    ) -> tl.Busy:
        with self._lock:
            stream = self.current_stream
            access = self.order.launch(stream.number)
            known = self.order.at(stream.number)
            for block, place in reads:
                block.read(access, known, f"{name} on stream {stream.number}", place)
            for block, place in writes:
                block.write(access, known, f"{name} on stream {stream.number}", place)
            return self.timeline.queue(stream.queue, duration_ns, name)

    def take_back(self) -> None:
        """Takes back the memory of tensors that are gone."""
        with self._lock:
            self.memory.take_back({stream.number: stream.queue.busy_until_ns for stream in self._streams})
            for _ in self.pinned.freed():
                pass

    def place(self, tensor: torch.Tensor) -> Block:
        """Puts a new tensor into the device's memory."""
        with self._lock:
            self.call("allocate", allocates=True)
            return self.memory.allocate(tensor, self.current_stream.number, self.clock.now())

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Puts a new tensor into pinned memory."""
        self.call("pin", allocates=True)
        with self._lock:
            self.pinned.add(tensor, Block(tensor.untyped_storage().nbytes()))
        return tensor

    def on_device(self, tensor: torch.Tensor) -> Block | None:
        """The tensor's block in the device's memory; None if it is on the host."""
        return self.memory.blocks.get(tensor)

    def to_device(self, source: torch.Tensor, target: Block, non_blocking: bool) -> None:
        """A copy from the host: asynchronous only from pinned memory."""
        pinned = self.pinned.get(source)
        reads = [(pinned, place_of(source))] if pinned else []
        wait = not (pinned and non_blocking)
        self._copy("copy to device", source.nbytes, reads, [(target, WHOLE)], pinned=bool(pinned), wait=wait)

    def to_host(self, source: Block, target: torch.Tensor, num_bytes: int, non_blocking: bool) -> None:
        """A copy to the host: asynchronous only to pinned memory."""
        pinned = self.pinned.get(target)
        writes = [(pinned, place_of(target))] if pinned else []
        wait = not (pinned and non_blocking)
        self._copy("copy to host", num_bytes, [(source, WHOLE)], writes, pinned=bool(pinned), wait=wait)

    def _copy(
        self,
        name: str,
        num_bytes: int,
        reads: Sequence[tuple[Block, Place]],
        writes: Sequence[tuple[Block, Place]],
        *,
        pinned: bool,
        wait: bool,
    ) -> None:
        self.call(name)
        slower = 1.0 if pinned else PAGEABLE_SLOWER
        duration_ns = round(slower * num_bytes / self._copy_gb_per_s)
        self._launch(name, duration_ns, reads, writes)
        if wait:
            self.current_stream.wait_on_host()

    # ---- torch's operators -----------------------------------------------------------------------------------

    def dispatch(self, operator: Operator) -> Any:
        """Executes an operator of torch on the CPU, and accounts for it on the device if its tensors are there."""
        self.take_back()
        kwargs = operator.kwargs
        named = kwargs.get("device")
        to_cuda = named is not None and torch.device(named).type == "cuda"
        if to_cuda:
            kwargs["device"] = torch.device("cpu")
        pins = bool(kwargs.get("pin_memory"))
        if pins:
            kwargs["pin_memory"] = False
        name, args = operator.name, operator.args
        blocks = [self.on_device(tensor) for tensor in operator.tensors]
        if name == "_to_copy" and to_cuda and not any(blocks):
            result = operator.run()
            self.to_device(args[0], self.place(result), bool(kwargs.get("non_blocking")))
            return result
        if name == "copy_" and bool(blocks[0]) != bool(blocks[-1]) and len(blocks) == 2:
            return self._copy_between(operator, blocks)
        if name == "_local_scalar_dense" and blocks[0]:
            self._copy("copy to host", 8, [(blocks[0], WHOLE)], [], pinned=False, wait=True)
            return operator.run()
        if to_cuda or any(blocks):
            return self._kernel(operator, blocks)
        return self._on_host(operator, pins)

    def _copy_between(self, operator: Operator, blocks: list[Block | None]) -> Any:
        args = operator.args
        non_blocking = bool(args[2] if len(args) > 2 else operator.kwargs.get("non_blocking", False))
        if blocks[0]:
            self.to_device(args[1], blocks[0], non_blocking)
        else:
            assert blocks[1]
            self.to_host(blocks[1], args[0], args[1].nbytes, non_blocking)
        return operator.run()

    def _kernel(self, operator: Operator, blocks: list[Block | None]) -> Any:
        name = operator.name
        if name in SAME_DEVICE and any(
            block is None and tensor.dim() for tensor, block in zip(operator.tensors, blocks, strict=True)
        ):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({name})"
            )
        result = operator.run(_rounded(name, operator.args))
        if not operator.is_view:
            self.call(name)
        writes = [block for tensor in operator.written if (block := self.on_device(tensor))]
        for output in _tensors(result):
            if self.on_device(output) is None and storage_of(output) is not None:
                writes.append(self.place(output))
        host_ns, device_ns = self.cost(name)
        self.clock.spend(host_ns)
        if not operator.is_view:
            reads = [(block, WHOLE) for block in blocks if block]
            self._launch(name, device_ns, reads, [(block, WHOLE) for block in writes])
        return result

    def _on_host(self, operator: Operator, pins: bool) -> Any:
        """An operator on the host. It may read or write pinned memory only if the device is done with it."""
        if not operator.is_view:
            what = f"the host ({operator.name})"
            for tensor in operator.tensors:
                if block := self.pinned.get(tensor):
                    block.host_reads(self.order.host, what, place_of(tensor))
            for tensor in operator.written:
                if block := self.pinned.get(tensor):
                    block.host_writes(self.order.host, what, place_of(tensor))
        result = operator.run()
        return self.pin(result) if pins else result


class Operator:
    """A call of an operator of torch.

    Attributes:
        tensors: among its arguments.
        is_view: its result is a view of an argument, so it is no work of a device.
    """

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._func, self.args, self.kwargs = func, args, dict(kwargs)
        self.name: str = func.overloadpacket.__name__
        self.is_view = bool(getattr(func, "is_view", False))
        self.tensors = _tensors((args, kwargs))

    def run(self, args: tuple[Any, ...] | None = None) -> Any:
        """Its result on the CPU. ``args``: instead of its own."""
        return self._func(*(self.args if args is None else args), **self.kwargs)

    @property
    def written(self) -> list[torch.Tensor]:
        """The arguments that it changes."""
        written: list[torch.Tensor] = []
        for position, argument in enumerate(self._func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                in_place = position < len(self.args)
                written += _tensors(self.args[position] if in_place else self.kwargs.get(argument.name))
        return written


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor)]


class DoubleStream:
    """A stream of the double, with the methods of `torch.cuda.Stream`."""

    def __init__(self, double: Double, queue: tl.Stream) -> None:
        self._double, self.queue = double, queue
        self.device, self.number = DEVICE, queue.number

    def wait_stream(self, other: DoubleStream) -> None:
        self._double.call("wait_stream")
        self.queue.wait_stream(other.queue)
        self._double.order.wait(self.number, self._double.order.at(other.number))

    def wait_event(self, event: DoubleEvent) -> None:
        self._double.call("wait_event")
        self.queue.wait_event(event.event)
        self._double.order.wait(self.number, event.known)

    def record_event(self, event: DoubleEvent | None = None) -> DoubleEvent:
        event = event or DoubleEvent(self._double)
        event.record(self)
        return event

    def query(self) -> bool:
        self._double.call("query")
        done = self.queue.query()
        if done:
            self._double.order.seen(self._double.order.at(self.number))
        return done

    def synchronize(self) -> None:
        self._double.call("synchronize")
        self.wait_on_host()

    def is_capturing(self) -> bool:
        """Whether a CUDA graph is being captured; the double has none."""
        return False

    def wait_on_host(self) -> None:
        """The host waits until the stream is done."""
        self.queue.synchronize()
        self._double.order.seen(self._double.order.at(self.number))


class DoubleEvent:
    """An event of the double, with the methods of `torch.cuda.Event`."""

    def __init__(self, double: Double, enable_timing: bool = False) -> None:
        double.call("Event")
        self._double, self.event = double, tl.Event(double.timeline, enable_timing)
        self.known: Known = {}

    def record(self, stream: DoubleStream | None = None) -> None:
        self._double.call("record")
        stream = stream or self._double.current_stream
        self.event.record(stream.queue)
        self.known = self._double.order.at(stream.number)

    def wait(self, stream: DoubleStream | None = None) -> None:
        (stream or self._double.current_stream).wait_event(self)

    def query(self) -> bool:
        self._double.call("query")
        done = self.event.query()
        if done:
            self._double.order.seen(self.known)
        return done

    def synchronize(self) -> None:
        self._double.call("synchronize")
        self.event.synchronize()
        self._double.order.seen(self.known)

    def elapsed_time(self, end: DoubleEvent) -> float:
        self._double.call("elapsed_time")
        return self.event.elapsed_time(end.event)


class Traced(TorchDispatchMode):
    """Passes each operator of a thread to the double."""

    def __init__(self, double: Double) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._double = double

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self._double.closed:
            return func(*args, **(kwargs or {}))
        return self._double.dispatch(Operator(func, args, kwargs or {}))


def _rounded(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of an operator, rounded to TF32 if torch's flags allow it."""
    in_product = name in PRODUCTS and torch.get_float32_matmul_precision() != "highest"
    if not in_product and not (name == "convolution" and torch.backends.cudnn.allow_tf32):
        return args

    def rounded(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            return value
        bits = value.view(torch.int32) + (1 << TF32_DROPS - 1)
        return (bits >> TF32_DROPS << TF32_DROPS).view(torch.float32)

    changed: tuple[Any, ...] = _pytree.tree_map(rounded, args)
    return changed


def plain_copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that the double does not see."""
    with _disable_current_modes():
        return tensor.detach().clone()
