"""What the nodes of a job know of each other: that they are alive, and how their ranks failed.

Each node's agent writes to the store of the rendezvous every `BEAT_S`. A node that was switched off sends nothing, and its partners
would wait for it in a collective for half an hour: after `SILENT_S` without a sign of it, the agents end their own ranks.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from loaderlab.runs.rank_process import read_infos
from loaderlab.system.ranks import node_name

BEAT_S, SILENT_S = 1.0, 12.0
LEAVE_S = 5.0  # for ranks to end by themselves
NOTE_S = 10.0  # to wait for the notes of other nodes after a failure


@dataclass(frozen=True)
class Note:
    """How the job failed, as a node saw it."""

    text: str
    secondary: bool
    at: float


class NodeBoard:
    """The store that the nodes share, as this node's agent uses it.

    Args:
        endpoint: HOST:PORT of the store.
        folder: of this node's ranks.

    Attributes:
        silent: the nodes that stopped answering, with their ranks, in one line; empty while all answer.
    """

    def __init__(self, endpoint: str, folder: Path) -> None:
        self._host, _, port = endpoint.rpartition(":")
        self._port, self._folder = int(port), folder
        self._store: Store | None = None
        self._connecting = threading.Lock()
        self._number = 0  # of this node, from 1
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen: dict[int, tuple[str, float]] = {}  # node: its last beat and when it changed
        self._texts: dict[int, str] = {}
        self.silent = ""

    def start(self) -> None:
        """Starts to watch the other nodes, as soon as this node's ranks have started."""
        self._thread = threading.Thread(target=self._watch, name="node board", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops watching, and says that this node ended on purpose."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(2 * BEAT_S)
        if self._store is not None:
            with suppress(RuntimeError):
                self._store.set(f"left/{self._number}", "1")

    def post(self, note: Note) -> None:
        """Reports to the other nodes how this node's ranks failed, which may have been before its first beat."""
        with suppress(RuntimeError):
            store = self._connected()
            store.set(f"note/{self._number}", json.dumps([note.text, note.secondary, note.at]))

    def notes(self) -> list[Note]:
        """The notes of the other nodes, after waiting until there is one about a cause, or for at most `NOTE_S`."""
        until, notes = time.monotonic() + NOTE_S, []
        while time.monotonic() < until:
            notes = self._notes()
            if self._store is None or self.silent or any(not note.secondary for note in notes):
                break
            time.sleep(BEAT_S / 4)
        return notes

    def wait_for_others(self) -> None:
        """Keeps the store for the other nodes until they have ended too, or for at most `NOTE_S`, since it may be in this process."""
        until = time.monotonic() + NOTE_S
        with suppress(RuntimeError):
            while self._store is not None and time.monotonic() < until and not self.silent:
                others = [number for number in self._others() if not self._store.check([f"left/{number}"])]
                if not others:
                    return
                self._store.set(f"left/{self._number}", "1")
                time.sleep(BEAT_S / 4)

    def _notes(self) -> list[Note]:
        notes = []
        with suppress(RuntimeError):
            for number in self._others():
                if self._store is not None and self._store.check([f"note/{number}"]):
                    notes.append(Note(*json.loads(self._store.get(f"note/{number}"))))
        return notes

    def _others(self) -> list[int]:
        if self._store is None:
            return []
        return [number for number in range(1, self._store.add("nodes", 0) + 1) if number != self._number]

    def _connected(self) -> Store:
        """The store, in which this node has its number.

        Raises:
            RuntimeError: it does not answer.
        """
        with self._connecting:
            if self._store is None:
                store = TCPStore(self._host, self._port, is_master=False, timeout=timedelta(seconds=5))
                shared = PrefixStore("loaderlab", store)
                self._number = shared.add("nodes", 1)
                self._store = shared
            return self._store

    def _watch(self) -> None:
        while not read_infos(self._folder):  # the ranks start after the rendezvous, which creates the store
            if self._over.wait(BEAT_S / 4):
                return
        heard = time.monotonic()
        count = 0
        while not self._over.wait(BEAT_S):
            count += 1
            try:
                self._beat(count)
                heard = time.monotonic()
                silent = self._silent_nodes(heard)
            except RuntimeError:
                silent = [f"the node of the rendezvous, {self._host}"] * (time.monotonic() - heard > SILENT_S)
            if silent and not self._over.is_set():
                self.silent = "; ".join(silent)
                self._end_ranks()
                return

    def _beat(self, count: int) -> None:
        store = self._connected()
        ranks = [info.rank for info in read_infos(self._folder)]
        text = f"node {node_name()} (rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))})"
        store.set(f"beat/{self._number}", json.dumps([count, text]))

    def _silent_nodes(self, now: float) -> list[str]:
        """The other nodes whose last sign of life is too long ago."""
        assert self._store is not None
        silent = []
        for number in self._others():
            if self._store.check([f"left/{number}"]):
                continue
            beat = (
                self._store.get(f"beat/{number}").decode() if self._store.check([f"beat/{number}"]) else '[0, "a node"]'
            )
            before, since = self._seen.get(number, ("", now))
            if beat != before:
                since = now
            self._seen[number] = (beat, since)
            if now - since > SILENT_S:
                silent.append(str(json.loads(beat)[1]))
        return silent

    def _end_ranks(self) -> None:
        """Ends this node's ranks: they may wait in a collective, where only SIGKILL reaches them."""
        for number, wait_s in ((signal.SIGTERM, LEAVE_S), (signal.SIGKILL, 0.0)):
            for info in read_infos(self._folder):
                with suppress(ProcessLookupError):
                    os.kill(info.pid, number)
            self._over.wait(wait_s)
