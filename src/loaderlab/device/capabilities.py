"""The capabilities of a device that matter for feeding it. It does not import torch.

Code outside `loaderlab.device` checks a capability, not the device's type.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceCapabilities:
    """Capabilities of one device.

    Attributes:
        asynchronous: it queues work while the host runs ahead, and has its own clock.
        uses_host_cores: its step computes on the cores that the loader also needs.
        takes_copies: batches are copied to it from host memory, so that pinned memory and a side stream can help.
        decodes_images: it can decode images.
        fast_bf16: it has native bf16 arithmetic, faster than fp32.
        compute_capability: of an NVIDIA GPU, such as (9, 0); None for other devices.
        emulated: it is a timeline of a known speed; its step computes nothing, so no advice can make the step faster.
    """

    asynchronous: bool
    uses_host_cores: bool
    takes_copies: bool
    decodes_images: bool
    fast_bf16: bool
    compute_capability: tuple[int, int] | None = None
    emulated: bool = False


CPU = DeviceCapabilities(
    asynchronous=False, uses_host_cores=True, takes_copies=False, decodes_images=False, fast_bf16=False
)
EMULATED = DeviceCapabilities(
    asynchronous=True, uses_host_cores=False, takes_copies=True, decodes_images=False, fast_bf16=False, emulated=True
)
