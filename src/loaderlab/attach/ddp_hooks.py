"""Hooks that separate the collectives of DistributedDataParallel from a rank's own work. Does not import torch.

The broadcast of buffers is measured around the method that does it. The exchange of gradients overlaps with backward; what remains of it
is measured with two callbacks at the end of backward. Autograd calls such callbacks in the order in which they were queued. A hook of a
parameter queues the first one before DDP queues its own, which waits for the exchange; the first one queues the second, behind DDP's.

Nothing is registered with DDP: its communication hook belongs to the program, and even torch's own `allreduce_hook` rounds differently from
DDP without a hook (with 3 ranks the gradients differ in their last bit).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from threading import get_ident
from time import perf_counter_ns
from types import ModuleType
from typing import Any

from loaderlab.attach.events import GRADIENTS
from loaderlab.attach.recorder import recorder
from loaderlab.attach.wrapping import wrap

MARK = "_loaderlab_collectives"  # on a model: its own id, so that a copy, which has no hooks, differs
MOST_PARAMETERS = 4  # with a hook, if not all of them get a gradient in each step
REENTRANT = "a checkpoint with use_reentrant=True hides when the exchange of gradients begins"
REFUSED = "autograd refused a callback at the end of backward"


class Backward:
    """The backward that is running.

    Attributes:
        queued: its callback is queued. A step of the optimizer resets this too, since a backward that fails runs no callback.
        announce: queues the callbacks of this backward.
    """

    def __init__(self) -> None:
        self.queued = False
        self.announce: Callable[[], None] = self._first

    def _first(self) -> None:
        """The first `announce`, which makes the others."""
        try:
            self.announce = self._announcing()
        except AttributeError:
            return recorder.cannot_separate(REFUSED)
        return self.announce()

    def _announcing(self) -> Callable[[], None]:
        """Makes the callbacks, as functions that look up and call little: each step calls them, with cold caches."""
        import torch

        is_capturing = torch.cuda.is_current_stream_capturing if torch.cuda.is_available() else bool
        # there is no public way; torch's FSDP and its communication hooks use this one
        queue: Callable[[Callable[[], None]], None] = torch.autograd.Variable._execution_engine.queue_callback
        begin_ns, begun = 0, None

        def own_work_ended() -> None:
            nonlocal begin_ns, begun
            clock = recorder.clock
            begun = None if clock is None else clock.now()
            begin_ns = perf_counter_ns()
            queue(gradients_exchanged)

        def gradients_exchanged() -> None:
            end_ns = perf_counter_ns()
            self.queued = False
            if begun is None:
                recorder.recent.append((recorder.step_thread or get_ident(), begin_ns, end_ns, GRADIENTS))
            else:
                recorder.add_collective(begin_ns, end_ns, GRADIENTS, begun)

        def announce() -> None:
            if recorder.clock is not None and is_capturing():  # events inside a CUDA graph could not be read
                return
            try:
                queue(own_work_ended)
                self.queued = True
            except RuntimeError:
                recorder.cannot_separate(REFUSED)

        return announce


backward = Backward()


def hook_ddp(module: ModuleType) -> None:
    """Installs the hooks in ``torch.nn.parallel.distributed``."""
    model = module.DistributedDataParallel
    wrap(model, "__init__", _created)
    wrap(model, "forward", _forward)
    if hasattr(model, "_sync_buffers"):
        wrap(model, "_sync_buffers", _buffers)


def hook_checkpoint(module: ModuleType) -> None:
    """Installs a hook in ``torch.utils.checkpoint``: DDP may wait at the end of a backward inside another one, which is not measured."""
    wrap(module.CheckpointFunction, "backward", _reentrant)


def _reentrant(original: Callable[..., Any]) -> Callable[..., Any]:
    def backward(*args: Any) -> Any:
        if recorder.collecting:
            recorder.cannot_separate(REENTRANT)
        return original(*args)

    return backward


def _created(original: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        _register(self)

    return __init__


def _forward(original: Callable[..., Any]) -> Callable[..., Any]:
    """Registers the hooks of a model that was created before these were installed."""
    import torch  # the class that is wrapped belongs to it

    def forward(self: Any, *inputs: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling() and self.__dict__.get(MARK) != id(self):
            _register(self)
        return original(self, *inputs, **kwargs)

    return forward


def _register(model: Any) -> None:
    """Lets the gradients of some parameters announce a backward: of the smallest one, or of several if not each of them has a gradient in
    every step. Any time before the last gradient is early enough."""
    model.__dict__[MARK] = id(model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if getattr(model, "find_unused_parameters", False) or getattr(model, "static_graph", False):
        chosen = parameters[:: max(1, len(parameters) // MOST_PARAMETERS)]
    else:
        chosen = sorted(parameters, key=lambda parameter: parameter.numel())[:1]
    reference = weakref.ref(model)  # a copy of the model must not keep this one

    def has_gradient(gradient: Any) -> None:
        if backward.queued or not recorder.collecting:
            return
        model = reference()
        if model is not None and model.require_backward_grad_sync:
            backward.announce()

    for parameter in chosen:
        parameter.register_hook(has_gradient)


def _buffers(original: Callable[..., None]) -> Callable[..., None]:
    import torch

    def _sync_buffers(self: Any) -> None:
        if torch.compiler.is_compiling() or not recorder.collecting:
            return original(self)
        begun, begin_ns = recorder.device_event(), perf_counter_ns()
        original(self)
        recorder.add_collective(begin_ns, perf_counter_ns(), 0, begun)
        return None

    return _sync_buffers
