"""Notices an iterable dataset that gives the same samples to each worker, by the first batches of two workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

REPEATED = (
    "its iterable dataset gives the same samples to each worker, so with N workers each sample comes N times, and other numbers of "
    "workers cannot be compared. Let each worker return its own part of the data:\n"
    "    def __iter__(self):\n"
    "        worker = torch.utils.data.get_worker_info()\n"
    "        first, number = (0, 1) if worker is None else (worker.id, worker.num_workers)\n"
    "        return itertools.islice(samples, first, None, number)"
)


def positions(num_workers: int) -> tuple[int, int, int, int]:
    """The batches to compare, counted from 0: the first and the second one of workers 0 and 1, which deliver in turn."""
    return 0, 1, num_workers, num_workers + 1


def are_repeated(contents: Sequence[object]) -> bool:
    """Whether two workers deliver the same batches. Batches that are equal within one worker too, such as constant data, show nothing.

    Args:
        contents: of the batches at `positions`; fewer show nothing.

    >>> are_repeated("aabb"), are_repeated("abcd"), are_repeated("aaaa")
    (True, False, False)
    """
    if len(contents) < 4:
        return False
    first, other, second, second_other = contents
    return first == other and second == second_other and first != second


def fingerprint(batch: Any) -> tuple[object, ...]:
    """The content of a batch, to be compared."""
    return tuple(_content(leaf) for leaf in leaves(batch))


def _content(leaf: Any) -> object:
    import torch  # here: a script's trial must not import it before the script does

    if isinstance(leaf, torch.Tensor):
        return leaf.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if leaf.numel() else b""
    if hasattr(leaf, "tobytes"):
        return leaf.tobytes()
    return repr(leaf)


def leaves(batch: Any) -> Iterator[Any]:
    """The values in nested lists, tuples and dicts."""
    if isinstance(batch, dict):
        for value in batch.values():
            yield from leaves(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from leaves(value)
    else:
        yield batch
