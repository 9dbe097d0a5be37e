"""The rungs of the ladder, and the published results of some of them."""

from __future__ import annotations

from loaderlab.compare.arms import Comparison

RUNGS = (
    "single",
    "workers",
    "pinned",
    "non_blocking",
    "side_stream",
    "persistent",
    "batched",
    "bf16",
    "dali",
    "ceiling",
)
PUBLISHED = {  # in the study that this suite follows: training of a small FeedForward network, in seconds
    "single": "22.67 s",
    "workers": "2.48x",
    "non_blocking": "9.00 s, 2.52x",
}
CAVEAT = (
    "Published: from 22.67 s to 9.00 s (2.52x) with 8 workers (2.48x), pinned memory and non-blocking copies. The published "
    "setup is not known in full (hardware, data, batch size, training length), so compare the ratios and not the seconds."
)
MEANING = {
    "single": "one process, one sample at a time",
    "workers": "worker processes, as many as the cores (8 at most, as published)",
    "pinned": "also batches in pinned memory",
    "non_blocking": "also copies to the device that the host does not wait for",
    "side_stream": "also copies on a stream of their own, during the step",
    "persistent": "also workers that are kept between epochs",
    "batched": "also a whole batch fetched at once; no workers if the data is in memory",
    "bf16": "also bf16 arithmetic in the step, if the device supports it",
    "dali": "NVIDIA DALI instead of the DataLoader",
    "ceiling": "a few batches that are already on the device: no loader can be faster",
}


def shows_published(comparison: Comparison) -> bool:
    """Whether the published results belong next to a comparison: they are of a real device."""
    return comparison.study == "ladder" and not comparison.is_emulated
