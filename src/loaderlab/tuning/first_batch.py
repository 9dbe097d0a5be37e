"""Does one step with the first batch before anything is tried, and looks at the batch and at the data."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from loaderlab.attach.passes import num_samples
from loaderlab.config import UserError
from loaderlab.system.causes import described, reason
from loaderlab.tuning.candidate import Candidate
from loaderlab.tuning.repeated_data import REPEATED, are_repeated, fingerprint, leaves, positions
from loaderlab.tuning.trial import LEAST_STEPS
from loaderlab.tuning.user_loader import LoaderSource
from loaderlab.tuning.user_probes import counted, end
from loaderlab.tuning.user_trial import Program, TooShort

FRAMES = -4  # the innermost frames of a traceback: the user's own


@dataclass(frozen=True)
class Checked:
    """What the first batch showed.

    Attributes:
        epoch_steps: None if the loader has no length.
        batch_size: 1 if the number of samples does not show.
        shows_samples: whether it does.
    """

    epoch_steps: int | None
    batch_size: int
    batch_bytes: int
    shows_samples: bool = True


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
        raise TooShort(epoch_steps, num_samples(batch))
    is_stream = isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset)
    may_repeat = is_stream and (program.max_makers is None or program.max_makers >= 2)  # one worker repeats nothing
    if may_repeat and repeats(program.source):
        raise UserError(f"loader: {REPEATED}")
    return Checked(epoch_steps, counted(batch), num_bytes(batch), num_samples(batch) > 0)


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
    """Whether two workers deliver the same batches. If they fail, that is not shown, and a trial with two workers reports the error."""
    try:
        loader = source.build(Candidate(source.current.branch, makers=2, prefetch=2))
        iterator: Iterator[Any] = iter(loader)
        try:
            contents = [fingerprint(batch) for batch in islice(iterator, len(positions(2)))]
        finally:
            end(loader, iterator)
    except Exception:
        return False
    return are_repeated(contents)


# ---- batches ----------------------------------------------------------------------------------------------------------


def num_bytes(batch: Any) -> int:
    """The size of the tensors and arrays of a batch."""
    return sum(int(getattr(leaf, "nbytes", 0)) for leaf in leaves(batch))
