"""Puts the double in the place of `torch.cuda`, for the whole process, until the end of a block."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._device import _device_constructors

from loaderlab.device.timeline import VirtualClock
from loaderlab.training import rounding
from tests.cuda_double.double import DEVICE, Double, DoubleEvent, DoubleStream, Traced, plain_copy

NAME = "Double of a GPU"
CAPABILITY = (8, 0)
CYCLES_PER_NS = 1.755  # of an H100
Base = torch._C.TensorBase


@contextmanager
def installed(double: Double) -> Iterator[Double]:
    """`torch.cuda`, the tensors' methods and, on a virtual clock, Python's clocks are the double's."""
    with pytest.MonkeyPatch.context() as patch:
        _patch_cuda(patch, double)
        _patch_tensors(patch, double)
        _patch_factories(patch)
        _patch_precision(patch)
        _patch_threads(patch, double)
        if isinstance(double.clock, VirtualClock):
            _patch_clocks(patch, double.clock)
        try:
            with Traced(double):
                yield double
        finally:
            double.closed = True


def _is_cuda(device: Any) -> bool:
    if device is None or isinstance(device, (int, torch.dtype, torch.Tensor)):
        return False
    return torch.device(device).type == "cuda"


def _patch_cuda(patch: pytest.MonkeyPatch, double: Double) -> None:
    cuda, memory = torch.cuda, double.memory

    class Event(DoubleEvent):
        def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
            super().__init__(double, enable_timing)

    def stream_of(device: Any = None, priority: int = 0) -> DoubleStream:
        return double.new_stream()

    def current_stream(device: Any = None) -> DoubleStream:  # torch does not ask the device for it
        return double.current_stream

    def allocated(device: Any = None) -> int:
        double.take_back()
        return memory.blocks.num_bytes

    def reset_peak(device: Any = None) -> None:
        memory.peak = allocated()

    def limit_memory(fraction: float, device: Any = None) -> None:
        memory.limit = int(fraction * memory.capacity)

    def rng_state(device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    properties = SimpleNamespace(
        uuid="double", name=NAME, major=CAPABILITY[0], minor=CAPABILITY[1], total_memory=memory.capacity
    )
    replaced: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: double.call("set_device"),
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "synchronize": lambda device=None: double.synchronize(),
        "current_stream": current_stream,
        "default_stream": lambda device=None: double.default_stream,
        "stream": lambda stream: nullcontext() if stream is None else double.stream(stream),
        "Stream": stream_of,
        "Event": Event,
        "get_device_properties": lambda device=None: properties,
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: CAPABILITY,
        "is_bf16_supported": lambda *_: True,
        "mem_get_info": lambda device=None: (memory.capacity - memory.reserved, memory.capacity),
        "memory_allocated": allocated,
        "memory_reserved": lambda device=None: memory.reserved,
        "max_memory_allocated": lambda device=None: memory.peak,
        "reset_peak_memory_stats": reset_peak,
        "set_per_process_memory_fraction": limit_memory,
        "empty_cache": lambda: None,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": rng_state,
        "set_rng_state": lambda state, device=None: None,
        "is_current_stream_capturing": lambda: False,
        "_sleep": lambda cycles: double.work(round(cycles / CYCLES_PER_NS), "sleep"),
    }
    for name, value in replaced.items():
        patch.setattr(cuda, name, value)
    accelerator = {
        "is_available": lambda: True,
        "current_accelerator": lambda check_available=False: torch.device("cuda"),
        "current_device_index": lambda: 0,
        "set_device_index": lambda device: None,
        "device_count": lambda: 1,
        "current_stream": current_stream,
    }
    for name, value in accelerator.items():
        patch.setattr(torch.accelerator, name, value)
    patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)


def _patch_tensors(patch: pytest.MonkeyPatch, double: Double) -> None:
    to = Base.to

    def device(self: torch.Tensor) -> torch.device:
        return DEVICE if double.on_device(self) else Base.device.__get__(self)

    def moved(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args and isinstance(args[0], torch.Tensor):  # torch's parser would read this tensor's device in C++
            args = (args[0].device, args[0].dtype, *args[1:])
        copy = bool(kwargs.pop("copy", False))  # the parser refuses it
        named, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        target: torch.device | None = named
        rest: dict[str, Any] = {} if memory_format is None else {"memory_format": memory_format}
        rest |= {"dtype": dtype or self.dtype, "copy": copy}
        block = double.on_device(self)
        if target is not None and target.type == "cuda":
            target = None if block else DEVICE
        if block is None or target is None:
            return to(self, device=target, non_blocking=non_blocking, **rest)
        double.take_back()
        host = plain_copy(self)
        if self.requires_grad:
            host.requires_grad_()
        double.to_host(block, host, self.nbytes, non_blocking)
        return to(host, **rest)

    def pin_memory(self: torch.Tensor, device: Any = None) -> torch.Tensor:
        if double.on_device(self):
            raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
        return self if double.pinned.get(self) else double.pin(plain_copy(self))

    def record_stream(self: torch.Tensor, stream: DoubleStream) -> None:
        block = double.on_device(self)
        assert block is not None, "record_stream of a tensor on the host"
        double.call("record_stream")
        if stream.number != block.stream:
            block.users.add(stream.number)

    def numpy(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if double.on_device(self):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
        if block := double.pinned.get(self):
            block.host_reads(double.order.host, "the host (numpy)")
        return Base.numpy(self, *args, **kwargs)

    def tolist(self: torch.Tensor) -> Any:
        return Base.tolist(self.cpu() if double.on_device(self) else self)

    replaced = {
        "device": property(device),
        "is_cuda": property(lambda self: double.on_device(self) is not None),
        "to": moved,
        "cuda": lambda self, device=None, non_blocking=False: self.to(DEVICE, non_blocking=non_blocking),
        "cpu": lambda self: self.to("cpu"),
        "pin_memory": pin_memory,
        "is_pinned": lambda self, device=None: double.pinned.get(self) is not None,
        "record_stream": record_stream,
        "numpy": numpy,
        "tolist": tolist,
    }
    for name, value in replaced.items():
        patch.setattr(torch.Tensor, name, value)


def _patch_factories(patch: pytest.MonkeyPatch) -> None:
    """`torch.tensor` asks the driver for a device before any operator runs; other factories do not."""

    def patched(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def make(data: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            if not _is_cuda(kwargs.get("device")):
                return factory(data, *args, **kwargs)
            return factory(data, *args, **{**kwargs, "device": None}).to(DEVICE)

        return make

    for name in ("tensor", "as_tensor"):
        patch.setattr(torch, name, patched(getattr(torch, name)))
    assert torch.zeros in _device_constructors()


def _patch_precision(patch: pytest.MonkeyPatch) -> None:
    """Autocast and the gradient scaler work as on the CPU, where the arithmetic is done."""
    autocast, scaler = torch.autocast, torch.amp.GradScaler

    def cast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return autocast("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    def scale(device: str = "cuda", *args: Any, **kwargs: Any) -> Any:
        return scaler("cpu" if device == "cuda" else device, *args, **kwargs)

    patch.setattr(rounding, "SIZE_ON_GPU", 16)  # sizes for a GPU would take half a second here
    patch.setattr(rounding, "CONVOLUTION", (1, 4, 5, 5))
    patch.setattr(torch, "autocast", cast)
    patch.setattr(torch.amp, "GradScaler", scale)


def _patch_threads(patch: pytest.MonkeyPatch, double: Double) -> None:
    """The operators of threads that begin now are seen too."""
    run = threading.Thread.run

    def traced(self: threading.Thread) -> None:
        with nullcontext() if double.closed else Traced(double):
            run(self)

    patch.setattr(threading.Thread, "run", traced)


def _patch_clocks(patch: pytest.MonkeyPatch, clock: VirtualClock) -> None:
    patch.setattr(time, "perf_counter_ns", clock.now)
    patch.setattr(time, "perf_counter", lambda: clock.now() / 1e9)
    patch.setattr(time, "monotonic_ns", clock.now)
    patch.setattr(time, "monotonic", lambda: clock.now() / 1e9)
    patch.setattr(time, "sleep", lambda seconds: clock.sleep_until(clock.now() + round(seconds * 1e9)))
