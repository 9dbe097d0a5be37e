"""How much of an emulated accelerator a run can use with any number of workers: queuing and copying take time too. Pure.

The cycle of a run that never waits for data follows from the order in which host, copy and step wait for each other, as on a
CUDA device: see `_cycle_ms`.
"""

from __future__ import annotations

from dataclasses import dataclass

from loaderlab.diagnosis.evidence import PARTLY_FROM_PCT, RequestedSpeed, Setup

ENOUGH = 1 - PARTLY_FROM_PCT / 100  # an accelerator that is used this much is fed


@dataclass(frozen=True)
class FeedLimit:
    """The most that any number of workers can give.

    Attributes:
        share: rate if no step waits for data / requested rate, 0 to 1.
        reason: without a full stop.
        remedy: what to change, in one sentence without a full stop.
    """

    share: float
    reason: str
    remedy: str


def feed_limit(speed: RequestedSpeed, s: Setup) -> FeedLimit | None:
    """The limit by the settings; None if enough workers feed the accelerator."""
    if not s.batch_size:
        return None
    step_ms, host_ms = 1e3 * s.batch_size / speed.rate, speed.host_ms
    cycle_ms = _cycle_ms(step_ms, host_ms, speed.copy_ms, s)
    share = step_ms / cycle_ms
    if share >= ENOUGH:
        return None
    if host_ms > step_ms and cycle_ms < 1.05 * host_ms:
        queuing = f"queuing a step takes {host_ms:.3g} ms (accelerator.host_ms), and the step takes {step_ms:.3g} ms"
        return FeedLimit(share, queuing, "Type a larger batch_size, or a smaller accelerator.host_ms")
    copied = f"the copy of a batch takes {speed.copy_ms:.3g} ms and its step {step_ms:.3g} ms"
    if not _overlaps(s):
        overlapping = "Type loader.pin_memory=true loader.non_blocking=true loader.side_stream=true"
        return FeedLimit(share, f"{copied}, one after the other", overlapping)
    if s.normalized_by_loader:
        return FeedLimit(share, copied, "Type data.transform.normalize_on=device, to copy bytes instead of floats")
    return FeedLimit(share, copied, "Use smaller inputs")


def _cycle_ms(step_ms: float, host_ms: float, copy_ms: float, s: Setup) -> float:
    """Time between two steps that do not wait for data."""
    copying = s.loader.copying
    if _overlaps(s):
        return max(step_ms, host_ms, copy_ms)
    if copying is not None and copying.pin_memory and copying.non_blocking:
        return max(host_ms, step_ms + copy_ms)  # behind the work of the step's stream; the host continues
    return max(step_ms, host_ms) + copy_ms  # the host waits for the copy


def _overlaps(s: Setup) -> bool:
    """Whether copies run in parallel with the step."""
    copying = s.loader.copying
    return copying is None or bool(copying.side_stream)
