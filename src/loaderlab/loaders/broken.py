"""Samples that do not load: which they are, what takes their place, and how many are too many."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from loaderlab.data.spec import INT64, DataError, OnError


class Unreadable(DataError):
    """Samples of one batch that do not load: ``reasons`` by id, each with the sample's name in it."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__(next(iter(reasons.values())))
        self.reasons = reasons


class BrokenSamples:
    """What is known of one split's broken samples.

    A broken sample's place in a batch goes to the next sample of that batch that loads, the first following the last. So
    batches keep their shapes and lengths, and every loader puts the same sample there.

    Args:
        on_error: of the split.
        num_samples: in the split.
    """

    def __init__(self, on_error: OnError, num_samples: int) -> None:
        self._on_error, self._num_samples = on_error, num_samples
        self.reasons: dict[int, str] = {}

    def add(self, reasons: Mapping[int, str]) -> None:
        """Raises:
        DataError: more samples are broken than ``data.max_skipped`` allows.
        """
        self.reasons |= reasons
        count, allowed = len(self.reasons), self._on_error.max_skipped * self._num_samples
        if count > allowed:
            share = count / self._num_samples
            raise DataError(
                f"data.max_skipped={self._on_error.max_skipped:g}: {count} of {self._num_samples} samples do not load, more "
                f"than that share; the last: {list(self.reasons.values())[-1]}. Or type: data.max_skipped={min(1, 2 * share):.2g}"
            )

    def among(self, ids: INT64) -> dict[int, str]:
        """Those of these ids that are broken, with their reasons."""
        if not self.reasons:
            return {}
        return {index: self.reasons[index] for index in ids.tolist() if index in self.reasons}

    def substituted(self, ids: INT64) -> INT64:
        """The ids of a batch with other samples of it in place of the broken ones.

        Raises:
            DataError: all of them are broken.
        """
        broken = self.among(ids)
        if not broken:
            return ids
        good = np.flatnonzero([index not in broken for index in ids.tolist()])
        if not len(good):
            raise DataError(
                f"none of the {len(ids)} samples of a batch loads, the first: {next(iter(broken.values()))}"
            )
        places = np.arange(len(ids))
        following = good[np.searchsorted(good, places) % len(good)]
        return ids[following]
