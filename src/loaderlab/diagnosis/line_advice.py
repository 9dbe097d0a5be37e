"""Advice from the profile of a worker's lines: what costs much in most loaders, and what to do instead. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loaderlab.diagnosis.evidence import Advice, Setup
from loaderlab.lines.gain import gain_without
from loaderlab.lines.shares import COMPUTING, Part, SlowLines
from loaderlab.lines.stages import DECODE, READ, TRANSFORM

CROWDED = 0.9  # of the cores, from which the threads of workers slow each other down
OTHERS_FROM_PCT = 25.0  # CPU time of other threads, percent of the time, from which a worker has a thread pool

# calls only: a dataset of tokenised texts has nothing left to do
_TOKENS = re.compile(
    r"tokeni[sz](e(?!d)|ing)\w*(\.[\w.]*(encode|token)\w*)?\(|\btok\b(\.\w*encode\w*)?\(", re.IGNORECASE
)
_TOKENISER_FILES = re.compile(r"tokeni[sz]er\w*\.py", re.IGNORECASE)
_OPENS = re.compile(
    r"(?<![\w.])open\(|\b(h5py\.File|ZipFile|TarFile|tarfile\.open|lmdb\.open|sqlite3\.connect|zarr\.open\w*|np\.(load|memmap)|torch\.load|"
    r"Dataset|open_dataset|rasterio\.open)\(|\.read_(text|bytes)\(|\b(pd|pl|pq)\.read_\w+\("
)
_FLOATS = re.compile(
    r"to_?tensor\(|to_?d?type\(.*float|convert_image_dtype\(|astype\(.*float|\.float\(\)|\.to\([\w.]*float|/ ?255|\bnormalize\(",
    re.I,
)
_FLOAT_TRANSFORMS = re.compile(
    r"ToTensor|ConvertImageDtype|ToDtype|Normalize|to_tensor|normalize|convert_image_dtype", re.I
)
_COPIES = re.compile(
    r"\b(np|numpy)\.(as|ascontiguous|asfortran)?array\(|\.copy\(\)|\.clone\(\)|\bdeepcopy\(|torch\.(tensor|as_tensor)\(|\.tolist\(\)"
)


@dataclass(frozen=True)
class _Rule:
    """What to do about lines of one kind; ``applies`` recognises them."""

    applies: Callable[[Part], bool]
    text: str


def _text(pattern: re.Pattern[str]) -> Callable[[Part], bool]:
    return lambda part: bool(pattern.search(part.line.text))


def _is_tokenising(part: Part) -> bool:
    names = part.line.text, f"{part.line.function}("
    return any(map(_TOKENS.search, names)) or bool(_TOKENISER_FILES.search(Path(part.line.file).name))


def _makes_floats(part: Part) -> bool:
    if part.stage.kind == TRANSFORM and _FLOAT_TRANSFORMS.search(part.stage.name):
        return True
    return bool(_FLOATS.search(part.line.text))


def _is_augmentation(part: Part) -> bool:
    return part.stage.kind == TRANSFORM and part.spends == COMPUTING


_RULES = (  # a line belongs to the first that applies
    _Rule(_is_tokenising, "tokenise the texts once before the training and store the ids"),
    _Rule(
        lambda part: part.stage.kind != DECODE and _text(_OPENS)(part),
        "open the file once in each worker and keep it open, or pack the samples into a few large files",
    ),
    _Rule(_makes_floats, "send bytes (uint8) and convert them to floats on the device: a quarter of the size"),
    _Rule(
        lambda part: part.stage.kind not in (READ, DECODE) and _text(_COPIES)(part),
        "avoid this copy: torch.from_numpy and slices share the memory, and np.asarray of a list or an image copies it",
    ),
    _Rule(_is_augmentation, "apply this to whole batches on the device, after the transfer"),
)


def advice_by_lines(lines: SlowLines, s: Setup) -> list[Advice]:
    """Advice with the gain if the lines in question took no time, the largest gain first. Lines that the training does not wait for get
    none."""
    if lines.is_free:
        return []
    grouped: dict[_Rule, list[Part]] = {}
    for part in lines.lines:
        rule = None if part.is_free else next((rule for rule in _RULES if rule.applies(part)), None)
        if rule is not None:
            grouped.setdefault(rule, []).append(part)
    advice = [_of_rule(lines, rule, parts) for rule, parts in grouped.items()]
    threads = _fewer_threads(lines, s)
    return sorted([*advice, *([threads] if threads else [])], key=lambda entry: -(entry.gain_x or 0.0))


def _of_rule(lines: SlowLines, rule: _Rule, parts: Sequence[Part]) -> Advice:
    worst = parts[0]
    named = worst.line.place
    if worst.stage.kind == TRANSFORM and worst.stage.name != worst.line.function:
        named += f" ({worst.stage.name})"
    more = f" and {len(parts) - 1} more line{'s' * (len(parts) > 2)}" if len(parts) > 1 else ""
    return Advice(f"{named}{more}: {rule.text}", gain_x=_gain_x(lines, sum(part.share for part in parts)))


def _gain_x(lines: SlowLines, share: float) -> float:
    """How many times as fast the run is if this share of the loader's work, 0 to 1, takes no time."""
    waits = lines.waits_pct / 100
    return gain_without(share, waits=waits, num_workers=lines.num_workers, device_x=lines.device_x).run_x


def _fewer_threads(lines: SlowLines, s: Setup) -> Advice | None:
    """Advice if thread pools inside the workers want more cores than there are; the training process has other threads of its own.

    The gain is for threads that only wait for each other, which OpenMP's do in a loop; what they compute has to be computed anyway.
    """
    own = sum(part.wall_pct * part.cpu_pct for part in lines.lines) / 1e4  # cores while a worker is busy
    others = sum(part.wall_pct * part.others_pct for part in lines.lines) / 1e4
    if 100 * others < OTHERS_FROM_PCT or lines.num_workers * (own + others) < CROWDED * s.cores:
        return None
    worst = max(lines.lines, key=lambda part: part.wall_pct * part.others_pct)
    text = (
        f"{worst.line.place}: other threads inside each worker use {others:.1f} cores more, and there are {s.cores}: cv2.setNumThreads(0), "
        "torch.set_num_threads(1) or OMP_NUM_THREADS=1"
    )
    return Advice(text, gain_x=_gain_x(lines, others / (own + others)))
