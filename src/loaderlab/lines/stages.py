"""What a loader was doing in a stack: the stage, its name, and the line to which the time belongs. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from loaderlab.lines.stacks import CALLABLES, Frame, Line, is_worker_loop, line_of, source_text
from loaderlab.system.source_places import NOT_FILES, OWN, is_installed

READ, DECODE, TRANSFORM, DATASET = "read", "decode", "transform", "dataset"
COLLATE, HAND_OVER, WAITING = "collate", "hand-over", "waiting"
NAMES = {  # of stages that have one name
    READ: "read",
    DECODE: "decode",
    DATASET: "dataset",
    COLLATE: "collate",
    HAND_OVER: "hand-over to the training process",
    WAITING: "waiting for the trainer",
}
# the frames below which a loader's own work begins; the innermost counts
_BEGINS = (
    ("torch/utils/data/_utils/fetch.py", "fetch"),
    ("loaderlab/loaders/native.py", "_fetched_in_process"),
    ("loaderlab/attach/watch.py", "batches"),
    ("loaderlab/attach/profiled_loop.py", "batch"),
    ("loaderlab/attach/hooks.py", "__next__"),
)
_SENDS = ("as_sent", "pin_memory")  # the first is called in the place of a collate function
_SLOTS = "loaderlab/loaders/slot_writer.py"  # memory for a batch that is sent; a collate function stacks in it too
_COLLATES = re.compile(r"collate")
_CONTAINERS = ("Compose", "Sequential", "ModuleList", "StandardTransform")  # they only call others
# files that only call the dataset
_DELEGATES = (
    "torch/utils/data/_utils/fetch.py",
    "torch/utils/data/dataset.py",
    "loaderlab/loaders/fetch.py",
    "loaderlab/loaders/user_items.py",
)
_MACHINERY = ("torch/nn/modules/module.py", "torch/_dynamo/", "torch/utils/data/", "torch/autograd/")
_TRANSFORMS = re.compile(r"transform|augment", re.IGNORECASE)
_DECODES = re.compile(
    r"imread|decode\w*\((?!\)|['\"])|Image\.open|\.convert\(|read_image|soundfile|torchaudio\.load|pil_loader|default_loader",
    re.IGNORECASE,
)
_DECODERS = (
    "PIL/ImageFile.py",
    "ImagePlugin.py",
    "torchvision/io/",
    "torchcodec/",
)  # not PIL/Image.py, which resizes too
_READS = re.compile(
    r"(?<![\w.])open\(|(os|io|gzip|h5py|tarfile|zipfile)\.(open|File|TarFile|ZipFile|read|pread)\(|\.read(_bytes|_text|line|lines|into)?\(|"
    r"np\.(load|fromfile|memmap|loadtxt|genfromtxt)\(|torch\.load\(|pickle\.load\(|json\.load\(|read_(csv|parquet|table)\("
)


@dataclass(frozen=True)
class Stage:
    """A stage of a loader's work.

    Attributes:
        kind: read, decode, transform, dataset, collate, hand-over or waiting.
        name: what it is called in tables: of a transform its class or function, of others as in `NAMES`.
    """

    kind: str
    name: str


@dataclass(frozen=True)
class Place:
    """Where a sample belongs: a stage, and the deepest line of the user's code in it.

    Without user code it is a line of this package, or else the outermost line of an installed package. Files that only call the dataset count last.
    """

    stage: Stage
    line: Line


@lru_cache(maxsize=65536)
def place_of(stack: tuple[Frame, ...]) -> Place:
    """Where a stack belongs.

    Args:
        stack: the outermost frame first; not empty.
    """
    stack = in_loader(stack)
    begins = next((index for index in range(len(stack) - 1, -1, -1) if _begins_work(stack[index])), None)
    if begins is None:
        return _outside(stack)
    above, below = stack[begins], stack[begins + 1 :]
    line = _own_line(below or (above,))
    return Place(_stage(above, below, line), line)


def in_loader(stack: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """A stack without the frames around the loader's work: the program's, which a forked worker has too."""
    loops = [index for index, frame in enumerate(stack) if is_worker_loop(frame)]
    if loops:
        return stack[loops[-1] :]
    return stack[next((index for index, frame in enumerate(stack) if _begins_work(frame)), 0) :]


def _outside(stack: tuple[Frame, ...]) -> Place:
    """The place of a stack of `in_loader` in which no batch is fetched: in a worker's loop, or in the program."""
    in_worker = is_worker_loop(stack[0])
    inner = stack if in_worker else stack[-1:]
    waits = in_worker and len(inner) > 1 and inner[1].function == "get"
    sends = in_worker and len(inner) > 1 and inner[1].function == "put"
    kind = WAITING if waits or not in_worker else HAND_OVER if sends else DATASET
    return Place(Stage(kind, NAMES[kind]), _own_line(inner[1:] or inner))


def _stage(above: Frame, below: Sequence[Frame], line: Line) -> Stage:
    """The stage of the frames ``below`` the one that fetches a batch. The outermost sign counts: decoding inside a transform is the transform."""
    if any(frame.function in _SENDS for frame in below):
        return Stage(HAND_OVER, NAMES[HAND_OVER])
    if "collate_fn" in source_text(above.file, above.line) or any(map(_collates, below)):
        return Stage(COLLATE, NAMES[COLLATE])
    if any(frame.file.endswith(_SLOTS) for frame in below):
        return Stage(HAND_OVER, NAMES[HAND_OVER])
    if (name := _transform(below)) is not None:
        return Stage(TRANSFORM, name)
    texts = [line.text, f"{line.function}("]
    if any(map(_DECODES.search, texts)) or any(_contains(frame, _DECODERS) for frame in below):
        return Stage(DECODE, NAMES[DECODE])
    # the caller's line too: what reads is often a function of the user's own
    if _READS.search(line.text):
        return Stage(READ, NAMES[READ])
    if any(_DECODES.search(f"{frame.function}(") for frame in below):
        return Stage(DECODE, NAMES[DECODE])
    return Stage(DATASET, NAMES[DATASET])


def _transform(below: Sequence[Frame]) -> str | None:
    """The name of the outermost transform: an object that is called, or a function called in a line about transforms."""
    for index, frame in enumerate(below):
        if _contains(frame, _MACHINERY) or frame.owner in _CONTAINERS:
            continue
        if frame.function in CALLABLES and frame.owner:
            return frame.owner
        if frame.function == "transform_into" and frame.file.startswith(OWN):
            return "crop, resize and flip"
        caller = below[index - 1] if index else None
        named = caller is not None and _TRANSFORMS.search(source_text(caller.file, caller.line))
        if named and not frame.function.startswith(("__", "<")) and not _is_dataset(frame):
            return frame.function
    return None


def _is_dataset(frame: Frame) -> bool:
    return frame.function in ("__getitem__", "__getitems__", "__iter__", "__next__")


def _collates(frame: Frame) -> bool:
    return bool(_COLLATES.search(frame.function)) or frame.file.endswith("_utils/collate.py")


def _own_line(frames: Sequence[Frame]) -> Line:
    """The deepest line of the user's code; otherwise of this package; otherwise the outermost line."""
    files = [frame for frame in frames if not frame.file.startswith(NOT_FILES)]
    work = [frame for frame in files if not _contains(frame, _DELEGATES)] or files
    own = [frame for frame in work if not frame.file.startswith(OWN) and not is_installed(frame.file)]
    ours = [frame for frame in work if frame.file.startswith(OWN)]
    deepest = own[-1] if own else ours[-1] if ours else (work or list(frames))[0]
    around = [*frames[: 1 + list(frames).index(deepest)]][::-1]
    # a comprehension belongs to the function around it
    named = (frame.function for frame in around if frame.file == deepest.file and not frame.function.startswith("<"))
    return line_of(Frame(deepest.file, deepest.line, next(named, deepest.function)))


def _begins_work(frame: Frame) -> bool:
    return any(_is(frame, begins) for begins in _BEGINS)


def _is(frame: Frame, place: tuple[str, str]) -> bool:
    return frame.function == place[1] and frame.file.endswith(place[0])


def _contains(frame: Frame, parts: Sequence[str]) -> bool:
    return any(part in frame.file for part in parts)
