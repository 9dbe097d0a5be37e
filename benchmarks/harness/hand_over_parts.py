"""The parts of a hand-over from a worker to the trainer, each timed alone: in new shared memory, and in a slot."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

import torch

from loaderlab.device.threads import torch_threads
from loaderlab.loaders.contract import Batch
from loaderlab.loaders.slot_writer import Writer
from loaderlab.loaders.slots import Slots
from loaderlab.loaders.torch_internals import shared_storage

T = TypeVar("T")
NEW, SLOT = WAYS = ("new shared memory", "slot")
Parts = dict[str, float]  # milliseconds


def parts_ms(num_bytes: int, repeats: int, step_s: float) -> dict[str, Parts]:
    """The median of each part, for both ways.

    Args:
        num_bytes: of a batch.
        step_s: sleep before each hand-over, as in a loop with an idle step: caches are cold afterwards.
    """
    slots = Slots(num_workers=1, prefetch_factor=1)
    here, there = multiprocessing.Pipe()
    args = (there, slots, num_bytes)
    worker = multiprocessing.get_context("fork").Process(target=_send_batches, args=args, daemon=True)
    worker.start()
    there.close()
    read_into = torch.zeros(num_bytes, dtype=torch.uint8)
    rows: dict[str, list[Parts]] = {way: [] for way in WAYS}
    with torch_threads(1):  # several threads would wait for each other for milliseconds
        for _ in range(repeats):
            for way in WAYS:
                time.sleep(step_s)
                rows[way].append(_receive(here, way, read_into))
    here.send(None)
    worker.join()
    slots.close()
    counted = {
        way: way_rows[len(way_rows) // 5 :] for way, way_rows in rows.items()
    }  # without those that fill the slots
    return {way: {part: statistics.median(row[part] for row in few) for part in few[0]} for way, few in counted.items()}


def _timed(action: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    result = action()
    return 1e3 * (time.perf_counter() - began), result


def _send_batches(link: Connection, slots: Slots, num_bytes: int) -> None:
    """The worker: sends a batch for each way that the trainer asks for, then the times of its own parts."""
    torch.set_num_threads(1)
    writer = Writer(slots, 0)
    source = torch.ones(num_bytes, dtype=torch.uint8)
    targets = torch.zeros(1, dtype=torch.int64)
    while (way := link.recv()) is not None:
        parts, inputs = _memory(way, writer, num_bytes)
        first_ms, _ = _timed(lambda inputs=inputs: inputs.copy_(source))  # type: ignore[misc]
        again_ms, _ = _timed(lambda inputs=inputs: inputs.copy_(source))  # type: ignore[misc]
        parts |= {"worker: page faults": max(0.0, first_ms - again_ms), "worker: copy": again_ms}
        batch = Batch(inputs, targets, targets)
        sent: Any = batch if way == NEW else writer.message(batch)
        parts["worker: pickle"], message = _timed(lambda sent=sent: ForkingPickler.dumps(sent))  # type: ignore[misc]
        time.sleep(0.002)  # the trainer sleeps until the message comes
        link.send(time.perf_counter())
        link.send_bytes(message)
        del sent, batch, inputs
        link.send(parts)


def _memory(way: str, writer: Writer, num_bytes: int) -> tuple[Parts, torch.Tensor]:
    if way == NEW:
        allocate_ms, storage = _timed(lambda: shared_storage(num_bytes))
        return {"worker: allocate": allocate_ms}, torch.empty(0, dtype=torch.uint8).set_(storage)
    allocate_ms, inputs = _timed(lambda: writer.take(num_bytes))
    assert inputs is not None
    return {"worker: allocate": allocate_ms}, inputs


def _receive(link: Connection, way: str, read_into: torch.Tensor) -> Parts:
    """The trainer: all parts of one hand-over."""
    link.send(way)
    sent_s = link.recv()
    wake_up_ms = 1e3 * (time.perf_counter() - sent_s)
    message = link.recv_bytes()
    open_ms, batch = _timed(lambda: ForkingPickler.loads(message))
    assert isinstance(batch, Batch)
    batches = [batch]
    del batch
    first_ms, _ = _timed(lambda: read_into.copy_(batches[0].inputs))
    again_ms, _ = _timed(lambda: read_into.copy_(batches[0].inputs))
    release_ms, _ = _timed(batches.clear)
    trainer = {
        "trainer: wake-up": wake_up_ms,
        "trainer: open the batch": open_ms,
        "trainer: page faults": max(0.0, first_ms - again_ms),
        "trainer: read": again_ms,
        "trainer: release": release_ms,
    }
    parts: Parts = link.recv()
    return parts | trainer


def table(parts: dict[str, Parts]) -> str:
    """A Markdown table of the parts."""
    rows = [f"| part, ms (median) | {' | '.join(parts)} |", "|---|" + "---:|" * len(parts)]
    rows += [f"| {part} | {' | '.join(f'{parts[way][part]:.3f}' for way in parts)} |" for part in parts[NEW]]
    return "\n".join(rows)
