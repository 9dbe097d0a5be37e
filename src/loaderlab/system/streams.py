"""The process's standard streams: they may be closed, full, or of an encoding that lacks a character."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

STDOUT_CLOSED = "stdout is closed (>&-). To discard what is printed, type: >/dev/null"


def prepare_streams() -> None:
    """Opens stdin and stderr on /dev/null where they are closed, and has stdout print any character.

    The next file to be opened would take the number of a closed stream: what a library writes to stderr would land in it.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 2):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(null, number)
    if null > 2:  # else it took the place of a closed stream
        os.close(null)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    print_any_character()


def print_any_character() -> None:
    r"""From now on stdout prints ``\\xd7`` for a ``×`` that its encoding lacks, as stderr does."""
    with contextlib.suppress(AttributeError, ValueError, OSError):  # replaced by a stream of another kind, or closed
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


_lost: list[str] = []  # why stdout could not be written


@contextlib.contextmanager
def lossy() -> Iterator[None]:
    """A full disk under stdout, or a terminal that is gone, does not end what prints here: `flushed` reports it at the end.

    Raises:
        BrokenPipeError: the reader of stdout has ended: `… | head`.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        _lost.append(error.strerror or type(error).__name__)


def lost() -> list[str]:
    """Flushes stdout. Why parts of what this process printed are lost, for another process to report."""
    with contextlib.suppress(AttributeError, ValueError, BrokenPipeError), lossy():  # closed, or `… | head`
        sys.stdout.flush()
    return list(_lost)


def add_lost(reasons: list[str]) -> None:
    """Has `flushed` report what a child process could not print, in the same line as this process's own."""
    _lost.extend(reasons)


def flushed() -> bool:
    """Flushes stdout and stderr. False, with one line on stderr, if a part of what was printed is lost."""
    lost()
    with contextlib.suppress(AttributeError, ValueError, OSError):
        if _lost:
            print(f"error: stdout cannot be written: {_lost[0]}. Runs that were recorded are complete", file=sys.stderr)
        sys.stderr.flush()
    return not _lost
