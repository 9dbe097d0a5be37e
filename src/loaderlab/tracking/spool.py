"""The spool: operations of a run that its tracking server has not accepted yet, as files under ``mlruns/unsent``.

    mlruns/unsent/RUN_ID/00000012.tags.json      one operation, and the server, experiment and run that it is for
    mlruns/unsent/RUN_ID/00000013.file/steps.csv   the artifact of operation 13
    mlruns/unsent/.RUN_ID.lock                     locked while a process sends operations of this run

Only the run's process adds operations; this process or ``loaderlab sync`` sends them in the order of their numbers and removes
each one afterwards. A process that is killed leaves whole operations. The folder of a run exists only while it has some.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from loaderlab.system.files import atomic_file, atomic_folder, write_text

PLACE = Path("mlruns") / "unsent"  # in the project's folder
LOCK_POLL_S = 0.05
DIGITS = 8
REMAINS_S = 3600.0
ATTEMPTS = 100  # to write into a folder that another process removes because it is empty


@dataclass(frozen=True)
class Address:
    """Where the operations of a run are sent to."""

    uri: str
    experiment: str
    name: str  # of the run


@dataclass(frozen=True)
class Stored:
    """An operation in the spool.

    Attributes:
        path: its file.
        kind: see `loaderlab.tracking.operations`.
    """

    path: Path

    @property
    def kind(self) -> str:
        return self.path.name.split(".")[1]

    @property
    def artifact(self) -> Path:
        """The artifact, or a path that does not exist."""
        folder = self._artifact_folder()
        return next(iter(folder.glob("*")), folder / "none") if folder.is_dir() else folder / "none"

    def read(self) -> tuple[Address, object]:
        """Its address and its values."""
        content = json.loads(self.path.read_text(encoding="utf-8"))
        return Address(**content["to"]), content["values"]

    def remove(self) -> None:
        """Removes it. The artifact first: an operation whose artifact is missing was sent."""
        shutil.rmtree(self._artifact_folder(), ignore_errors=True)
        self.path.unlink(missing_ok=True)

    def _artifact_folder(self) -> Path:
        return self.path.with_name(f"{self.path.name.partition('.')[0]}.file")


class Spool:
    """The spool of one run.

    Args:
        root: the folder of all spools.
    """

    def __init__(self, root: Path, run_id: str) -> None:
        self.run_id, self.folder = run_id, root / run_id
        # of all names: a killed process may leave an artifact without its operation
        numbers = [name.partition(".")[0] for name in self._names()]
        self._next = max((int(number) for number in numbers if number.isdigit()), default=0) + 1

    def add(self, address: Address, kind: str, values: object, artifact: Path | None = None) -> None:
        """Adds an operation; it is complete in the folder or absent.

        Raises:
            OSError: the folder cannot be written.
        """
        path = self.folder / f"{self._next:0{DIGITS}}.{kind}.json"
        for attempt in range(ATTEMPTS):
            try:
                if artifact is not None:
                    with atomic_folder(path.with_name(f"{self._next:0{DIGITS}}.file")) as partial:
                        shutil.copyfile(artifact, partial / artifact.name)
                with atomic_file(path) as partial_file:
                    write_text(partial_file, json.dumps({"to": asdict(address), "values": values}))
                break
            except (
                FileNotFoundError,
                FileExistsError,
            ):  # the folder was removed in between; mkdir may raise the latter
                if attempt == ATTEMPTS - 1 or (artifact is not None and not artifact.exists()):
                    raise
        self._next += 1

    def pending(self) -> list[Stored]:
        """The operations in their order."""
        return [
            Stored(self.folder / name) for name in sorted(self._names()) if name[0] != "." and name.endswith(".json")
        ]

    def has(self, kind: str) -> bool:
        """Whether an operation of this kind waits."""
        return any(entry.kind == kind for entry in self.pending())

    def remove_if_empty(self) -> None:
        """Removes the folder if nothing is left.

        Only after something was sent: an empty folder may be one in which the first operation is being written.
        """
        with suppress(OSError):
            self.folder.rmdir()

    def remove_remains(self) -> None:
        """Removes what a process that was killed while it added an operation has left, if nothing else is there."""
        with suppress(FileNotFoundError):
            changed = max(path.stat().st_mtime for path in (self.folder, *self.folder.iterdir()))
            if not self.pending() and time.time() - changed > REMAINS_S:
                shutil.rmtree(self.folder, ignore_errors=True)

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.folder)
        except FileNotFoundError:
            return []

    @contextmanager
    def locked(self, give_up: Callable[[], bool]) -> Iterator[bool]:
        """Lets one process at a time send operations; yields False if ``give_up`` became true while another one did."""
        descriptor = self._locked_file(give_up)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                self._remove_lock_file()
                # closing is not enough: a worker that was forked meanwhile has the lock too
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)

    def _locked_file(self, give_up: Callable[[], bool]) -> int | None:
        path = self.folder.with_name(f".{self.run_id}.lock")
        while True:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except (FileNotFoundError, FileExistsError):  # another process removed the empty folder
                continue
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if give_up():
                        os.close(descriptor)
                        return None
                    time.sleep(LOCK_POLL_S)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
            os.close(descriptor)  # the process that had it removed the file

    def _remove_lock_file(self) -> None:
        """Removes the lock's file, whose lock is taken, if the folder was removed; and the folder of all spools if it is empty."""
        if not self.folder.exists():
            self.folder.with_name(f".{self.run_id}.lock").unlink(missing_ok=True)
            with suppress(OSError):
                self.folder.parent.rmdir()


def spools(root: Path) -> list[Spool]:
    """The spools of all runs that have one."""
    if not root.is_dir():
        return []
    return [Spool(root, path.name) for path in sorted(root.iterdir()) if path.is_dir() and path.name[0] != "."]
