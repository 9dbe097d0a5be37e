"""The tag that says whether a loader does the same work as the others, and its values. It does not import torch."""

from __future__ import annotations

PARITY = "parity"  # the tag; its value is one of the next three, the last two followed by the reason
SAME_WORK, UNLIKE_WORK, NOT_CHECKED = "same work", "unlike work", "not checked"
