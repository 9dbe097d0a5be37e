"""Samples that cannot be loaded: which ones, which samples replace them, and how many are allowed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from loaderlab.data.spec import INT64, DataError, OnError


class Unreadable(DataError):
    """Samples of one batch cannot be loaded. ``reasons`` by sample id; each contains the sample's name."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__(next(iter(reasons.values())))
        self.reasons = reasons


class BrokenSamples:
    """The known broken samples of one split.

    A broken sample is replaced by the next sample of its batch that can be loaded; the first sample follows the last. So
    batches keep their shapes and lengths, and every loader chooses the same replacement.

    Args:
        on_error: of the split.
        num_samples: in the split.
    """

    def __init__(self, on_error: OnError, num_samples: int) -> None:
        self._on_error, self._num_samples = on_error, num_samples
        self.reasons: dict[int, str] = {}

    def add(self, reasons: Mapping[int, str]) -> None:
        """Adds broken samples with the reasons by id.

        Raises:
            DataError: more samples are broken than ``data.max_skipped`` allows.
        """
        self.reasons |= reasons
        count, allowed = len(self.reasons), self._on_error.max_skipped * self._num_samples
        if count > allowed:
            share = count / self._num_samples
            raise DataError(
                f"data.max_skipped={self._on_error.max_skipped:g}: {count} of {self._num_samples} samples cannot be loaded, more "
                f"than this share. The last: {list(self.reasons.values())[-1]}. Or type: data.max_skipped={min(1, 2 * share):.2g}"
            )

    def broken_in(self, ids: INT64) -> dict[int, str]:
        """The broken samples among these ids, with the reasons."""
        if not self.reasons:
            return {}
        return {index: self.reasons[index] for index in ids.tolist() if index in self.reasons}

    def substituted(self, ids: INT64) -> INT64:
        """The ids of a batch, with each broken sample replaced by another sample of the batch.

        Raises:
            DataError: all samples of the batch are broken.
        """
        broken = self.broken_in(ids)
        if not broken:
            return ids
        good = np.flatnonzero([index not in broken for index in ids.tolist()])
        if not len(good):
            raise DataError(
                f"none of the {len(ids)} samples of a batch can be loaded. The first: {next(iter(broken.values()))}"
            )
        places = np.arange(len(ids))
        following = good[np.searchsorted(good, places) % len(good)]
        return ids[following]
