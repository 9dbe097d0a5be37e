"""What a device can do and what it uses, as far as feeding it depends on that. Free of torch.

Code outside `loaderlab.device` is to ask for a capability, not for the type of a device; some of it still asks for the type.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceCapabilities:
    """Capabilities of one device.

    Attributes:
        asynchronous: work is queued on it and the host runs ahead; it has a clock of its own.
        uses_host_cores: its step computes on the cores that the loader also needs.
        takes_copies: batches are copied to it from host memory, where pinned memory and a stream of their own help.
        decodes_images: images can be decoded on it.
        fast_bf16: it computes in bf16 itself, faster than in fp32.
    """

    asynchronous: bool
    uses_host_cores: bool
    takes_copies: bool
    decodes_images: bool
    fast_bf16: bool


CPU = DeviceCapabilities(
    asynchronous=False, uses_host_cores=True, takes_copies=False, decodes_images=False, fast_bf16=False
)
