"""The README and the pages of the site: their blocks of commands and code, and the inputs that their commands need."""

from __future__ import annotations

import io
import json
import random
import re
import shlex
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from loaderlab.config import PROJECT

GENERATED = {"settings.md", "metrics.md", "code_map.md", "exit_codes.md"}
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
WRITTEN = [page for page in PAGES if page.name not in GENERATED]
BLOCK = re.compile(r"```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)```\n", re.DOTALL)
SHOWN = re.compile(r"\n<!-- output(?:: (?P<lines>.+?))? -->\n\n```text\n(?P<output>.*?)```\n", re.DOTALL)
PROGRAMS = ("train", "compare", "trace", "doctor", "ui", "server", "sync", "tune")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        title: the name of the file that it contains; empty if it has none.
        shows: whether the page shows the output of these commands.
        lines: a regular expression for the shown lines; empty for all lines.
    """

    page: Path
    language: str
    title: str
    text: str
    shows: bool
    lines: str

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block, without comments; a line that ends in a backslash continues."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [command for line in lines if (command := _without_comment(line))]


def _without_comment(line: str) -> str:
    """A line of shell code without its comment, and with single spaces; quotes are kept."""
    words = shlex.shlex(line)  # not posix: that removes the quotes
    words.whitespace_split = True
    return " ".join(words)


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        shown = SHOWN.match(text, match.end())
        lines = (shown and shown["lines"]) or ""
        yield Block(page, match["language"], match["title"] or "", match["text"], shown is not None, lines)


def program_of(command: str) -> tuple[str, str]:
    """The program that a command runs, and its arguments; two empty texts if it is not one of ours."""
    match = re.match(r"(?:python -m experiments\.|loaderlab )(\w+) ?(.*)", command)
    return (match[1], match[2]) if match and match[1] in PROGRAMS else ("", "")


# ---- the folder /path/to ----------------------------------------------------------------------------------------


def make_inputs(folder: Path, num_images: int) -> None:
    """Writes the inputs of the pages' commands: images, tar files, a trace, and the files whose text a page shows."""
    rng = np.random.default_rng(0)
    for split, count in (("train", num_images), ("val", num_images // 4)):
        _write_images(folder / split, count, rng)
    _write_images(folder / "broken", max(num_images, 240), rng)  # so that one broken file is below data.max_skipped
    broken = folder / "broken" / "cat" / "0007.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    (folder / "shards").mkdir()
    for number in range(4):
        _write_shard(folder / "shards" / f"train-{number:03d}.tar", folder / "train", number)
    (folder / "trace.json").write_text(json.dumps({"traceEvents": list(_events())}), encoding="utf-8")
    for page in WRITTEN:
        for block in blocks(page):
            if block.title:
                file = folder / block.title
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block.text, encoding="utf-8")


def _write_images(root: Path, count: int, rng: np.random.Generator) -> None:
    """Two classes of smooth pictures with some noise, as JPEG files of 320x240."""
    y, x = np.mgrid[0:240, 0:320]
    for index in range(count):
        kind = ("cat", "dog")[index % 2]
        wave = np.stack(
            [np.sin(x / (9 + channel + index % 7)) * np.cos(y / (11 + channel)) for channel in range(3)], -1
        )
        pixels = 127 + 90 * wave + rng.normal(0, 20, wave.shape) + 20 * (index % 2)
        file = root / kind / f"{index // 2:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=88)


def _write_shard(path: Path, images: Path, number: int) -> None:
    """A quarter of the images, as WebDataset writes them."""
    with tarfile.open(path, "w") as tar:
        for file in sorted(images.rglob("*.jpg"))[number::4]:
            key = f"{file.parent.name}{file.stem}"
            label = str(("cat", "dog").index(file.parent.name)).encode()
            for suffix, content in (("jpg", file.read_bytes()), ("cls", label)):
                entry = tarfile.TarInfo(f"{key}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def _events(num_steps: int = 10) -> Iterator[dict[str, object]]:
    """The events of steps of about 100 ms. The loop waits for 40 ms of each, and the GPU is busy for the first 8 ms of the wait."""
    jitter = random.Random(0)
    at_us = 0.0
    for number in range(num_steps):
        wait_us = 40_000 + jitter.uniform(-4_000, 4_000)
        length_us = wait_us + 60_000
        common = {"ph": "X", "pid": 7, "tid": 7, "ts": at_us}
        yield {**common, "cat": "user_annotation", "name": f"ProfilerStep#{number}", "dur": length_us}
        loader = "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"
        yield {**common, "cat": "user_annotation", "name": loader, "dur": wait_us}
        kernel = {"ph": "X", "pid": 0, "tid": 7, "cat": "kernel", "name": "gemm", "args": {"device": 0, "stream": 7}}
        yield {**kernel, "ts": at_us + wait_us, "dur": 60_000 + 8_000}
        at_us += length_us
