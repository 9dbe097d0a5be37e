"""Which work of the device is known to be done before which other work, whatever the times: vector clocks.

Two pieces of work on one stream are ordered. Work on two streams is ordered only by an event or by a wait of the host. A
program that is right only because of the times of one run is wrong.
"""

from __future__ import annotations

Known = dict[int, int]  # for each stream the number of its newest work that is known to be done
Access = tuple[int, int]  # stream, number of the work on it


class Order:
    """The order of all work that was launched so far."""

    def __init__(self) -> None:
        self.host: Known = {}  # what the host has seen to be done
        self._streams: dict[int, Known] = {}

    def launch(self, stream: int) -> Access:
        """Adds work to a stream; it comes after all that the host has seen to be done."""
        known = self._streams.setdefault(stream, {})
        merge(known, self.host)
        known[stream] = known.get(stream, 0) + 1
        return stream, known[stream]

    def at(self, stream: int) -> Known:
        """What is done once the stream has finished the work queued so far."""
        known = self._streams.setdefault(stream, {})
        merge(known, self.host)
        return dict(known)

    def wait(self, stream: int, known: Known) -> None:
        """Later work of the stream comes after this."""
        merge(self._streams.setdefault(stream, {}), known)

    def seen(self, known: Known) -> None:
        """The host has seen that this is done."""
        merge(self.host, known)

    def everything(self) -> Known:
        """All work launched so far."""
        known: Known = {}
        for stream in self._streams:
            merge(known, self.at(stream))
        return known


def merge(into: Known, other: Known) -> None:
    """Adds what ``other`` knows."""
    for stream, number in other.items():
        into[stream] = max(into.get(stream, 0), number)


def precedes(access: Access, known: Known) -> bool:
    """Whether the access is known to be done."""
    return known.get(access[0], 0) >= access[1]
