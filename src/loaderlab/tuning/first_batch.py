"""Does one step with the first batch before anything is tried, and looks at the batch and at the data."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from loaderlab.attach.passes import num_samples
from loaderlab.config import UserError
from loaderlab.system.causes import described, reason
from loaderlab.tuning.candidate import Candidate
from loaderlab.tuning.trial import LEAST_STEPS
from loaderlab.tuning.user_loader import LoaderSource
from loaderlab.tuning.user_probes import end
from loaderlab.tuning.user_trial import Program, too_few_steps

REPEATED = (
    "loader: its iterable dataset gives the same samples to each worker, so with N workers each sample comes N times, and other numbers of "
    "workers cannot be compared. Let each worker return its own part of the data:\n"
    "    def __iter__(self):\n"
    "        worker = torch.utils.data.get_worker_info()\n"
    "        first, number = (0, 1) if worker is None else (worker.id, worker.num_workers)\n"
    "        return itertools.islice(samples, first, None, number)"
)
FRAMES = -4  # the innermost frames of a traceback: the user's own


@dataclass(frozen=True)
class Checked:
    """What the first batch showed.

    Attributes:
        epoch_steps: None if the loader has no length.
    """

    epoch_steps: int | None
    batch_size: int
    batch_bytes: int


def checked(program: Program) -> Checked:
    """Does one step.

    Raises:
        UserError: the loader or the step fails, an epoch is too short, or workers repeat the data.
    """
    loader = program.source.build(Candidate(program.source.current.branch))
    batch = _first_batch(loader)
    try:
        program.step(batch)
    except Exception as error:
        raise UserError(f"step: it fails with the first batch: {described(error)}\n{_frames(error)}") from None
    epoch_steps = _length(loader)
    if epoch_steps is not None and epoch_steps < LEAST_STEPS:
        raise too_few_steps(epoch_steps)
    if isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset) and repeats(program.source):
        raise UserError(REPEATED)
    return Checked(epoch_steps, num_samples(batch), num_bytes(batch))


def _first_batch(loader: Iterable[Any]) -> Any:
    try:
        for batch in loader:
            return batch
    except Exception as error:
        raise UserError(f"loader: its first batch fails: {described(error)}\n{_frames(error)}") from None
    raise UserError("loader: it has no batches")


def _frames(error: Exception) -> str:
    return "".join(traceback.format_exception(error, limit=FRAMES)).rstrip()


def _length(loader: Iterable[Any]) -> int | None:
    try:
        return len(loader)  # type: ignore[arg-type]  # many have one
    except TypeError:
        return None
    except Exception as error:
        raise UserError(f"loader: its length cannot be computed: {reason(error)}") from None


def repeats(source: LoaderSource) -> bool:
    """Whether two workers deliver the same batches. Batches that are equal within one worker too, such as constant data, show nothing."""
    loader = source.build(Candidate(source.current.branch, makers=2, prefetch=2))
    iterator: Iterator[Any] = iter(loader)
    try:
        first = [fingerprint(batch) for batch in islice(iterator, 4)]  # of worker 0, 1, 0, 1
    except Exception as error:
        raise UserError(f"loader: it fails with 2 workers: {described(error)}") from None
    finally:
        end(loader, iterator)
    return len(first) == 4 and first[0] == first[1] and first[2] == first[3] and first[0] != first[2]


# ---- batches ----------------------------------------------------------------------------------------------------------


def num_bytes(batch: Any) -> int:
    """The size of the tensors and arrays of a batch."""
    return sum(int(getattr(leaf, "nbytes", 0)) for leaf in _leaves(batch))


def fingerprint(batch: Any) -> tuple[object, ...]:
    """The content of a batch, to be compared."""
    return tuple(_content(leaf) for leaf in _leaves(batch))


def _content(leaf: Any) -> object:
    if isinstance(leaf, torch.Tensor):
        return leaf.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if leaf.numel() else b""
    if hasattr(leaf, "tobytes"):
        return leaf.tobytes()
    return repr(leaf)


def _leaves(batch: Any) -> Iterator[Any]:
    """The values in nested lists, tuples and dicts."""
    if isinstance(batch, dict):
        for value in batch.values():
            yield from _leaves(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from _leaves(value)
    else:
        yield batch
