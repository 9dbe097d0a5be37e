"""The process's standard streams, which may be closed, full, or unable to encode a character."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

STDOUT_CLOSED = "stdout is closed (>&-). To discard what is printed, type: >/dev/null"


def prepare_streams() -> None:
    """Opens stdin and stderr on /dev/null if they are closed, and makes stdout print any character.

    Otherwise the next opened file would get the number of a closed stream, and libraries that write to stderr would write to it.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 2):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(null, number)
    if null > 2:  # otherwise it has the number of a closed stream
        os.close(null)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    print_any_character()


class ReaderEnded(BrokenPipeError):
    """The reader of stdout has ended, as in `… | head`."""


def discard_stdout() -> None:
    """From now on, what is printed on stdout is discarded, since its reader has ended."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def print_any_character() -> None:
    r"""From now on, stdout prints ``\\xd7`` for ``×`` if its encoding lacks the character, like stderr."""
    with contextlib.suppress(AttributeError, ValueError, OSError):  # closed, or replaced by another kind of stream
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


_lost: list[str] = []  # reasons why stdout could not be written


@contextlib.contextmanager
def lossy() -> Iterator[None]:
    """Ignores a full disk under stdout or a closed terminal while printing; `flushed` reports it at the end.

    Raises:
        BrokenPipeError: the reader of stdout has ended, as in `… | head`.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        _lost.append(error.strerror or type(error).__name__)


def lost() -> list[str]:
    """Flushes stdout, and returns the reasons why output of this process was lost, for another process to report."""
    with contextlib.suppress(AttributeError, ValueError, BrokenPipeError), lossy():  # closed, or `… | head`
        sys.stdout.flush()
    return list(_lost)


def add_lost(reasons: list[str]) -> None:
    """Adds lost output of a child process, so that `flushed` reports it in the same line as that of this process."""
    _lost.extend(reasons)


def flushed() -> bool:
    """Flushes stdout and stderr. Returns False, and prints one line on stderr, if some output was lost."""
    lost()
    with contextlib.suppress(AttributeError, ValueError, OSError):
        if _lost:
            print(f"error: stdout cannot be written: {_lost[0]}. Runs that were recorded are complete", file=sys.stderr)
        sys.stderr.flush()
    return not _lost


def store_output() -> None:
    """Writes what this process and its children have printed to the disk, if stdout and stderr are files. On a shared file system,
    a reader on another host may otherwise see the end of the output later than a file that was written after it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):  # closed, or no file
            stream.flush()
            os.fsync(stream.fileno())
