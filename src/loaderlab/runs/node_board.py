"""What the nodes of a job know of each other: that they are alive, and how their ranks failed.

Each node's agent writes to the store of the rendezvous every `BEAT_S`. A node that was switched off sends nothing, and its partners
would wait for it in a collective for half an hour: after `SILENT_S` without a sign of it, the agents end their own ranks.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from loaderlab.runs.rank_process import read_infos
from loaderlab.system.ranks import node_name

BEAT_S, SILENT_S = 1.0, 10.0
START_S = 120.0  # for the first sign of life, since the processes of a busy machine start slowly
ANSWER_S = 5.0  # for the store to answer
NO_BEAT = json.dumps([0, "a node"])
LEAVE_S = 5.0  # for ranks to end by themselves
NOTE_S = (
    15.0  # to wait for the notes of other nodes after a failure: longer than SILENT_S, since one may have been killed
)


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
        hosts: the endpoint is on this machine.

    Attributes:
        silent: the nodes that stopped answering, with their ranks, in one line; empty while all answer.
    """

    def __init__(self, endpoint: str, folder: Path, *, hosts: bool = False) -> None:
        self._host, _, port = endpoint.rpartition(":")
        self._port, self._folder = int(port), folder
        self._hosts, self._has_store = hosts, False  # the second only once the store is in this process
        self._store: Store | None = None
        self._connecting = threading.Lock()
        self._number = 0  # of this node, from 1
        self._host_number = 0  # of the node that has the store; 0: not known
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._heard = time.monotonic()  # when the store answered last
        self._quiet: list[str] = []  # nodes that did not answer for too long
        self._seen: dict[int, tuple[str, float]] = {}  # node: its last beat and when it changed
        self.silent = ""

    def start(self) -> None:
        """Starts to watch the other nodes, as soon as this node's ranks have started."""
        for target in (self._beats, self._guard):
            thread = threading.Thread(target=target, name="node board", daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Stops watching, and says that this node ended on purpose."""
        self._over.set()
        for thread in self._threads:
            thread.join(2 * BEAT_S)
        if (store := self._answering) is not None:
            with suppress(RuntimeError):
                store.set(f"left/{self._number}", "1")

    @property
    def _answering(self) -> Store | None:
        """The store; None before it is known, and after a node stopped answering: a call could then last for a quarter of an hour."""
        return None if self.silent else self._store

    def post(self, note: Note) -> None:
        """Reports to the other nodes how this node's ranks failed, which may have been before its first beat."""
        if not self.silent:
            with suppress(RuntimeError):
                store = self._connected()
                store.set(f"note/{self._number}", json.dumps([note.text, note.secondary, note.at]))

    def notes(self) -> list[Note]:
        """The notes of the other nodes, after waiting until there is one about a cause, or for at most `NOTE_S`."""
        until, notes = time.monotonic() + NOTE_S, []
        while time.monotonic() < until:
            notes = self._notes()
            if self._answering is None or any(not note.secondary for note in notes):
                break
            time.sleep(BEAT_S / 4)
        return notes

    def wait_for_others(self) -> None:
        """Keeps the store for the other nodes until they have ended too, or for at most `NOTE_S`, since it may be in this process."""
        until = time.monotonic() + NOTE_S
        with suppress(RuntimeError):
            while (store := self._answering) is not None and time.monotonic() < until:
                if all(store.check([f"left/{number}"]) for number in self._others()):
                    return
                store.set(f"left/{self._number}", "1")
                time.sleep(BEAT_S / 4)

    def _notes(self) -> list[Note]:
        notes = []
        with suppress(RuntimeError):
            for number in self._others():
                if (store := self._answering) is not None and store.check([f"note/{number}"]):
                    notes.append(Note(*json.loads(store.get(f"note/{number}"))))
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
                shared = PrefixStore("loaderlab", self._store_of_rendezvous())
                self._number = shared.add("nodes", 1)
                if self._has_store:
                    shared.set("host", str(self._number))
                self._store = shared
            return self._store

    def _store_of_rendezvous(self) -> Store:
        """The store. If it is in this process, this object keeps it after the agent has ended, until the other nodes have read it."""
        answer = timedelta(seconds=ANSWER_S)
        if self._hosts:
            with suppress(RuntimeError):  # it is in another process of this machine, as with Slurm on one host
                store = TCPStore(
                    self._host, self._port, is_master=True, wait_for_workers=False, multi_tenant=True, timeout=answer
                )
                self._has_store = True
                return store
        return TCPStore(self._host, self._port, is_master=False, timeout=answer)

    def _beats(self) -> None:
        """Gives a sign of life every `BEAT_S`, and looks for that of the others."""
        if not self._has_ranks():
            return
        count = 0
        while not self._over.wait(BEAT_S):
            count += 1
            with suppress(RuntimeError):  # the store does not answer: `_guard` waits for it
                self._beat(count)
                self._quiet = self._silent_nodes(time.monotonic())
                self._heard = time.monotonic()

    def _guard(self) -> None:
        """Ends this node's ranks if another node does not answer. It does not use the store, where a call may never return."""
        if not self._has_ranks():
            return
        self._heard = time.monotonic()
        while not self._over.wait(BEAT_S):
            silent = self._quiet
            if not silent and time.monotonic() - self._heard > SILENT_S:
                silent = [self._node_of_store()]
            if silent:
                self.silent = "; ".join(silent)
                self._break_connections()
                self._end_ranks()
                return

    def _node_of_store(self) -> str:
        """The node that has the store, with its ranks if that is known."""
        beat, _ = self._seen.get(self._host_number, ("", 0.0))
        return str(json.loads(beat)[1]) if beat else f"the node of the rendezvous, {self._host},"

    def _has_ranks(self) -> bool:
        """Waits until this node's ranks have started: after the rendezvous, which creates the store. False if the job ended before."""
        while not read_infos(self._folder):
            if self._over.wait(BEAT_S / 4):
                return False
        return True

    def _beat(self, count: int) -> None:
        store = self._connected()
        ranks = [info.rank for info in read_infos(self._folder)]
        text = f"node {node_name()} (rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))})"
        store.set(f"beat/{self._number}", json.dumps([count, text]))

    def _silent_nodes(self, now: float) -> list[str]:
        """The other nodes whose last sign of life is too long ago."""
        assert self._store is not None
        silent = []
        if not self._host_number and self._store.check(["host"]):
            self._host_number = int(self._store.get("host"))
        for number in self._others():
            if self._store.check([f"left/{number}"]):
                continue
            has_beaten = self._store.check([f"beat/{number}"])
            beat = self._store.get(f"beat/{number}").decode() if has_beaten else NO_BEAT
            before, since = self._seen.get(number, ("", now))
            if beat != before:
                since = now
            self._seen[number] = (beat, since)
            if now - since > (SILENT_S if has_beaten else START_S):
                silent.append(str(json.loads(beat)[1]))
        return silent

    def _break_connections(self) -> None:
        """Ends this process's connections to the store: the agent may wait in one for an answer that never comes."""
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(self._host, self._port)}
        for connection in psutil.Process().net_connections("tcp"):
            peer = connection.raddr
            if peer and peer.port == self._port and peer.ip.removeprefix("::ffff:") in addresses:
                with suppress(OSError), socket.socket(fileno=os.dup(connection.fd)) as duplicate:
                    duplicate.shutdown(socket.SHUT_RDWR)

    def _end_ranks(self) -> None:
        """Ends this node's ranks: they may wait in a collective, where only SIGKILL reaches them."""
        for number, wait_s in ((signal.SIGTERM, LEAVE_S), (signal.SIGKILL, 0.0)):
            for info in read_infos(self._folder):
                with suppress(ProcessLookupError):
                    os.kill(info.pid, number)
            self._over.wait(wait_s)
