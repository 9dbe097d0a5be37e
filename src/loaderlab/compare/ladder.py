"""The published ladder, to stand beside the one measured here."""

from __future__ import annotations

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
PUBLISHED = {  # of the study that this suite follows: a small FeedForward network's training, in seconds
    "single": "22.67 s",
    "workers": "2.48x",
    "non_blocking": "9.00 s, 2.52x",
}
CAVEAT = (
    "Published: 22.67 s to 9.00 s (2.52x) by 8 workers (2.48x), pinned memory and non-blocking copies. That set-up is not "
    "known in full (hardware, data, batch size, length of the training), so its seconds cannot be held against these; its "
    "ratios show what order of gain was found elsewhere."
)
MEANING = {
    "single": "one process, one sample at a time",
    "workers": "worker processes, as many as the cores (8 at most, as published)",
    "pinned": "and batches in pinned memory",
    "non_blocking": "and copies to the GPU that nobody waits for",
    "side_stream": "and those copies beside the step, on a stream of their own",
    "persistent": "and workers that are kept from epoch to epoch",
    "batched": "and a whole batch fetched at once; no workers where the data is in memory",
    "bf16": "and bf16 arithmetic in the step, where the device has it",
    "dali": "NVIDIA DALI in place of the DataLoader",
    "ceiling": "a few batches at hand: no loader can be faster",
}
