"""The hooks that call the recorder: in torch's DataLoader, optimizers and DDP, and in DALI's iterators. Does not import torch.

They wrap methods of classes of modules that the program imports itself. While nothing is recorded they only pass through, and
loaders remember where they were created: a recording may start after that, in the callback of a training framework for example.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import get_ident
from time import perf_counter_ns
from types import ModuleType
from typing import Any

from loaderlab.attach.after_import import AfterImport, Hook
from loaderlab.attach.call_stacks import call_stack
from loaderlab.attach.ddp_hooks import backward, hook_checkpoint, hook_ddp
from loaderlab.attach.events import BATCH, DRAINED, END, NO_GRAD, START
from loaderlab.attach.loader_facts import facts_of, num_batches, whole
from loaderlab.attach.passes import Pass
from loaderlab.attach.recorder import recorder
from loaderlab.attach.thread_hooks import watch_threads
from loaderlab.attach.wrapping import wrap
from loaderlab.system.ranks import node_name

STACK, NUMBER, PASS, OF = "_loaderlab_stack", "_loaderlab_number", "_loaderlab_pass", "_loaderlab_loader"


def install(more: Mapping[str, Hook] | None = None) -> None:
    """Installs the hooks once per process; those of a module that is not imported yet, as soon as it is.

    Args:
        more: other hooks, by the module's full name. They run after the ones of this file.
    """
    if not _installed:
        _installed.append(True)
        own, others = _HOOKS, more or {}
        AfterImport({name: _in_turn(own.get(name), others.get(name)) for name in {**own, **others}}).install()


def _in_turn(*hooks: Hook | None) -> Hook:
    def run(module: ModuleType) -> None:
        for hook in hooks:
            if hook is not None:
                hook(module)

    return run


_installed: list[bool] = []


# ---- torch.utils.data ------------------------------------------------------------------------------------------------


def _torch_loader(module: ModuleType) -> None:
    wrap(module.DataLoader, "__init__", _created)
    wrap(module.DataLoader, "__iter__", _started)
    wrap(module._BaseDataLoaderIter, "__init__", _iterator_created)
    wrap(module._BaseDataLoaderIter, "__next__", _advanced)


def _created(original: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if STACK not in self.__dict__:
            self.__dict__[STACK] = call_stack()
        original(self, *args, **kwargs)

    return __init__


def _started(original: Callable[..., Any]) -> Callable[..., Any]:
    def __iter__(self: Any) -> Any:
        if not recorder.on or not recorder.enter(thread := get_ident()):
            return original(self)
        try:
            current = _begin_pass(self, _number(self))
            request = recorder.request(thread)
            begin = perf_counter_ns()
            iterator = original(self)
            end = perf_counter_ns()
        finally:
            recorder.leave(thread)
        _set(iterator, PASS, current)
        recorder.add(START, current.loader, current.number, thread, begin, end, request=request)
        return iterator

    return __iter__


def _begin_pass(loader: Any, number: int) -> Pass:
    size = whole(getattr(loader, "batch_size", None))
    length = num_batches(loader) if size else 0
    return Pass(recorder.recording, number, recorder.begin_pass(number, perf_counter_ns()), size, length)


def _iterator_created(original: Callable[..., None]) -> Callable[..., None]:
    """The iterator remembers its loader: `_started` does not run if the loader has an ``__iter__`` of its own, such as
    torchdata's StatefulDataLoader, nor if nothing was recorded yet."""

    def __init__(self: Any, loader: Any, *args: Any, **kwargs: Any) -> None:
        _set(self, OF, weakref.ref(loader))  # a strong reference would keep the workers until garbage is collected
        if recorder.on:  # in `for batch in DataLoader(...)` the loader is gone when the first batch is requested
            _set(self, NUMBER, (recorder.recording, _number(loader)))
        original(self, loader, *args, **kwargs)

    return __init__


def _advanced(original: Callable[..., Any]) -> Callable[..., Any]:
    """The hook that runs in each step. After a real step the processor's caches are cold, and each call and each attribute takes about a
    microsecond: this function makes few."""
    import torch  # the class that is wrapped belongs to it

    is_grad_enabled = torch.is_grad_enabled

    def __next__(self: Any) -> Any:
        if not recorder.on:
            return original(self)
        thread = get_ident()
        current = self.__dict__.get(PASS)
        if current is None or current.recording is not recorder.recording:
            current = _missed_start(self, thread)
        clock = recorder.clock
        request = None if clock is None else recorder.request(thread)
        begin = perf_counter_ns()
        try:
            batch = original(self)
        except StopIteration:
            end = perf_counter_ns()
            recorder.add(END, current.loader, current.number, thread, begin, end, request=request)
            recorder.end_pass(current.number)
            _set(self, PASS, None)
            raise
        end = perf_counter_ns()
        flags = 0 if is_grad_enabled() else NO_GRAD
        current.index = index = current.index + 1
        samples = current.size if 1 < index < current.length else current.num_samples(batch)
        if request is None:
            recorder.recent.append((current, thread, begin, end, samples, flags))
        else:
            if clock is not None and clock.reached(request):
                flags |= DRAINED
            recorder.add(BATCH, current.loader, current.number, thread, begin, end, samples, flags, request)
        if thread != recorder.main_thread:
            watch_threads(current.loader, current.number)
        return batch

    return __next__


def _missed_start(iterator: Any, thread: int) -> Pass:
    """Begins a pass over an iterator whose start was not seen."""
    number = _number_of_iterator(iterator)
    current = _begin_pass(getattr(iterator, OF, lambda: None)(), number)
    _set(iterator, PASS, current)
    now = perf_counter_ns()
    recorder.add(START, number, current.number, thread, now, now)
    return current


def _number_of_iterator(iterator: Any) -> int:
    known = getattr(iterator, NUMBER, None)
    if known is None or known[0] is not recorder.recording:
        loader = getattr(iterator, OF, lambda: None)()
        known = (recorder.recording, _number(iterator if loader is None else loader))
        _set(iterator, NUMBER, known)
    return int(known[1])


def _set(target: Any, name: str, value: Any) -> None:
    """Sets an attribute of an object, if it can have attributes."""
    with suppress(AttributeError):
        object.__setattr__(target, name, value)  # torch's DataLoader refuses some with its own


def _number(loader: Any) -> int:
    """The number of a loader object; adds it if it is new."""
    known = getattr(loader, NUMBER, None)
    if known is None or known[0] is not recorder.recording:
        known = (
            recorder.recording,
            recorder.add_loader(lambda number: facts_of(loader, number, *getattr(loader, STACK, ((), ())))),
        )
        _set(loader, NUMBER, known)
    return int(known[1])


# ---- DALI ------------------------------------------------------------------------------------------------------------


def _dali(module: ModuleType) -> None:
    for name in ("DALIGenericIterator", "DALIRaggedIterator"):
        if (cls := getattr(module, name, None)) is not None:
            wrap(cls, "__init__", _created)
            wrap(cls, "__next__", _advanced)


# ---- optimizers ------------------------------------------------------------------------------------------------------


_is_compiling: list[Callable[[], bool]] = []  # torch's function, which is imported after the optimizers


def _compiler(module: ModuleType) -> None:
    _is_compiling.append(module.is_compiling)


def _optimizers(module: ModuleType) -> None:
    module.register_optimizer_step_post_hook(_stepped)


def _stepped(optimizer: Any, args: Any, kwargs: Any) -> None:
    if _is_compiling[0]():  # traced by torch.compile, this must leave nothing in the graph
        return
    backward.queued = False
    if not recorder.on:
        return
    thread = get_ident()
    if recorder.step_thread is None:
        _first_step(optimizer, thread)
    recorder.stepped(thread, perf_counter_ns())


def _first_step(optimizer: Any, thread: int) -> None:
    """Reads which device the program trains on, and begins to read its clock."""
    import torch

    from loaderlab.attach.device_clock import clock_of
    from loaderlab.device.resolve import known_device
    from loaderlab.system.machine import rank_cores

    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    where = next((parameter.device for parameter in parameters if isinstance(parameter, torch.Tensor)), None)
    device = None if where is None else known_device(where)
    recorder.first_step(
        thread,
        None if device is None else clock_of(device),
        device=str(where or ""),
        device_title=str(where or "") if device is None else device.title,
        readable=device is not None,
        asynchronous=device is not None and device.capabilities.asynchronous,
        cores=rank_cores(),
        threads=torch.get_num_threads(),
        **_place_in_job(torch.distributed),
    )


def _place_in_job(distributed: Any) -> dict[str, Any]:
    """The rank in the program's process group; empty without one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return {}
    return {"rank": distributed.get_rank(), "num_ranks": distributed.get_world_size(), "node": node_name()}


# ---- processes -------------------------------------------------------------------------------------------------------


def _processes(module: ModuleType) -> None:
    wrap(module.BaseProcess, "start", _process_started)


def _process_started(original: Callable[..., None]) -> Callable[..., None]:
    def start(self: Any) -> None:
        if recorder.on and get_ident() not in recorder.inside:  # otherwise it is a loader's worker
            recorder.started_process()
        original(self)

    return start


_HOOKS: dict[str, Hook] = {
    "multiprocessing.process": _processes,
    "torch.utils.data.dataloader": _torch_loader,
    "torch.compiler": _compiler,
    "torch.optim.optimizer": _optimizers,
    "torch.nn.parallel.distributed": hook_ddp,
    "torch.utils.checkpoint": hook_checkpoint,
    "nvidia.dali.plugin.pytorch": _dali,
}
