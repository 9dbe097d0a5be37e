"""Runs ``pip install`` and prints one short line for each large download, with or without a terminal.

    python tools/pip_progress.py --constraint constraints.txt --editable '.[dev]'

pip itself is either silent or prints thousands of lines. Its errors are printed unchanged, and its exit code is returned.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

PIP = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
FILE = re.compile(
    r"\s*(?P<verb>Downloading|Using cached) (?P<file>\S+)\.(?:whl|tar\.gz|zip) \((?P<size>[\d.]+) (?P<unit>\w+)\)"
)
LOCAL = re.compile(r"Processing (?P<file>\S+)\.(?:whl|tar\.gz|zip)")
LARGE_MB = 1.0
MB = {"bytes": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}
NUM_LAST = 15  # lines of pip's output that are printed after a failure
EVERY = 25  # packages that pip reads for each printed line


def progress(lines: Iterable[str], total: int) -> Iterator[str]:
    """The lines to print while pip works.

    Args:
        lines: pip's stdout, line by line.
        total: number of packages that will be installed; 0 if it is not known.
    """
    collected = files = 0
    of_total = f" of {total}" if total else ""
    for line in lines:
        if line.startswith("Collecting "):
            collected += 1
            if collected % EVERY == 0:
                yield f"reading the list of packages … {collected}{of_total}"
        elif match := FILE.match(line):
            files += 1
            megabytes = float(match["size"]) * MB.get(match["unit"], 0.0)
            if megabytes >= LARGE_MB:
                verb = "downloading" if match["verb"] == "Downloading" else "from pip's cache:"
                yield f"{verb} {_package(match['file'])} ({_size(megabytes)}) … {files}{of_total}"
        elif match := LOCAL.match(line):
            files += 1
            megabytes = _local_megabytes(line)
            if megabytes >= LARGE_MB:
                yield f"from a local folder: {_package(match['file'])} ({_size(megabytes)}) … {files}{of_total}"
        elif line.startswith("Installing collected packages:"):
            count = len(line.partition(":")[2].split(","))
            yield f"unpacking {count} package{'s' * (count > 1)}; this takes a minute or two for a hundred packages"


def _package(file: str) -> str:
    """``torch 2.15.0`` for the URL or the name of a file without its extension."""
    name, _, rest = file.rpartition("/")[2].replace("%2B", "+").partition("-")
    return f"{name.replace('_', '-')} {rest.partition('-')[0]}".strip()


def _local_megabytes(line: str) -> float:
    """The size of a file that pip uses from this machine; 0 if it cannot be read."""
    try:
        return Path(line.split()[1]).stat().st_size / 1e6
    except OSError:
        return 0.0


def _size(megabytes: float) -> str:
    return f"{megabytes / 1e3:.1f} GB" if megabytes >= 1e3 else f"{megabytes:.0f} MB"


def pins(arguments: Sequence[str]) -> int:
    """The number of packages pinned by the constraint files among pip's arguments."""
    files = [Path(after) for before, after in pairwise(arguments) if before == "--constraint"]
    return sum(line.count("==") for file in files for line in file.read_text(encoding="utf-8").splitlines())


def main(arguments: Sequence[str]) -> int:
    """pip's exit code, after it has run."""
    started_s = time.monotonic()
    last: deque[str] = deque(maxlen=NUM_LAST)

    def with_last_kept(lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            last.append(line)
            yield line

    with subprocess.Popen([*PIP, *arguments], stdout=subprocess.PIPE, encoding="utf-8", errors="replace") as pip:
        assert pip.stdout is not None
        for line in progress(with_last_kept(pip.stdout), pins(arguments)):
            print(line, flush=True)
    if pip.returncode:
        print(f"pip failed with exit code {pip.returncode}. Its last lines:", *last, sep="\n  ", file=sys.stderr)
    else:
        print(f"installed in {time.monotonic() - started_s:.0f} s", flush=True)
    return pip.returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
