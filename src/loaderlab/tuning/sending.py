"""Whether a user's objects can be sent to another process, and which one cannot. Plain pickle: tensors are copied, so that a trial does not
change the weights of the program's own model, as it would with torch's shared memory."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

from torch.utils.data import DataLoader

from loaderlab.system.causes import reason

PARTS = ("dataset", "sampler", "batch_sampler", "collate_fn", "worker_init_fn", "generator")
FOR_WORKERS = ("dataset", "collate_fn", "worker_init_fn")


class _Nowhere(io.RawIOBase):
    """A file that keeps only the number of its bytes: a data set may have many gigabytes."""

    num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        written = memoryview(data).nbytes
        self.num_bytes += written
        return written


def cannot_send(parts: Mapping[str, Any]) -> str:
    """Which of these objects cannot be pickled, and why; empty if all can."""
    for name, part in parts.items():
        try:
            pickle.dump(part, _Nowhere(), protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # anything: it is the user's __getstate__ that is called
            return f"{name} cannot be pickled: {reason(error)}"
    return ""


def sent_bytes(part: Any) -> int:
    """The size of an object that can be pickled, as it is sent."""
    nowhere = _Nowhere()
    pickle.dump(part, nowhere, protocol=pickle.HIGHEST_PROTOCOL)
    return nowhere.num_bytes


def parts_of(loader: DataLoader[Any] | None, names: tuple[str, ...] = PARTS) -> dict[str, Any]:
    """The parts of a DataLoader, by the names of its arguments."""
    return {} if loader is None else {f"the loader's {name}": getattr(loader, name) for name in names}
