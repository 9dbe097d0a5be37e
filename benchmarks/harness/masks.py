"""What two records of the same code may differ in, and the form of everything else that has to be equal.

Each rule removes one kind of noise and nothing more. A record consists of fields; a masked value is compared as text.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

from loaderlab.metrics import CHANGE_STEP, MACHINE_LOAD, STARVED_BEFORE_PCT, STARVED_SINCE_PCT

# ---- the rules -------------------------------------------------------------------------------------------------

# Metrics that only some runs have: a change of the starved share within the window is rare, and chance decides it.
OPTIONAL_METRICS = (CHANGE_STEP, STARVED_BEFORE_PCT, STARVED_SINCE_PCT)

# What the machine did before a run may be a whole number by chance; other metrics are whole in every run or in none.
MACHINE = MACHINE_LOAD.partition("/")[0] + "/"

# Tags whose text is what a noisy run concluded, or says who ran when and where: only their presence is compared.
NOISY_TAGS = (
    "verdict",
    "verdict.because",
    "headline",
    "git.commit",
    "mlflow.parentRunId",
    "mlflow.user",
    "process.host",
    "process.pid",
    "process.started",
)
OPTIONAL_TAGS = ("bottleneck", "advice")  # a run that is fed has none: not even their presence is compared

# Identifiers and numbers in any text, in this order.
IDENTIFIERS = (
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<uuid>"),
    (r"\b[0-9a-f]{40}\b", "<commit>"),
    (r"\b[0-9a-f]{32}\b", "<run>"),
    (r"\b[0-9a-f]{16}\b", "<digest>"),  # of the data and the config, which hold the folder's path
)
NUMBER = r"(?<!\w)\d+(?:,\d{3})*(?:\.\d+)*(?:e[+-]?\d+)?"  # or a version; within a name (fp32, p95) it is no number

# Lines of a run's report, log or note that depend on its figures; None drops the line, for it may be missing.
GRADES = "(?:fed|partly starved|starved|inconclusive)"
NOISY_LINES = (
    (rf"\*\*{GRADES}\*\*(?:: | of data ).*", "<verdict>"),
    (rf"{GRADES}(?:: | of data ).*", "<verdict>"),
    (r"Bottleneck: .*", None),
    (r"- try .*", None),
    (r"(?:training|probes) #/# .*", None),  # progress: how many lines of it depends on the speed
    (r"warning: other programs .*", None),
)
# The first paragraphs of a comparison say which arm is faster, as far as its noise allows: up to this line.
HEADLINE_ENDS = "![the comparison]"
# Remarks on noise and other programs: the heading and what follows it, up to the next heading.
REMARKS = "Caveats"
# Columns of a comparison's table with words that depend on noise; `note` is there only where an arm has one.
NOISY_COLUMNS = ("gain", "verdict")
OPTIONAL_COLUMNS = ("note",)
# Text in the pictures that depends on figures: marks on an axis and the like have no word of three letters.
CHART_TEXT = r"[A-Za-z]{3}"
OPTIONAL_CHART_TEXTS = ("n.d.s.: no difference shown",)  # the legend of a mark that a noisy arm has

# Lists in JSON that are empty in one run and not in another: the list itself is compared, its items are not.
OPTIONAL_JSON = (r"\.notes\[\]", r"\.learns_differently\[\]", r"\.mismatches\[\]")


# ---- their use -------------------------------------------------------------------------------------------------


def with_places(text: str, places: Mapping[str, str]) -> str:
    """The text with each place (a path) replaced by its name."""
    for place, name in places.items():
        text = text.replace(place, name)
    return text


def masked(text: str) -> str:
    """The text without its identifiers and numbers."""
    for pattern, name in IDENTIFIERS:
        text = re.sub(pattern, name, text)
    return re.sub(NUMBER, "#", text)


def tags(values: Mapping[str, str], places: Mapping[str, str]) -> dict[str, Any]:
    """Tag to its masked text; a note is a list of lines, and a tag that is nothing but a number keeps it."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if name in OPTIONAL_TAGS:
            continue
        text = with_places(value, places)
        if name in NOISY_TAGS:
            kept[name] = "<text>" if value else ""
        elif name == "mlflow.note.content":
            kept[name] = lines(text)
        else:
            kept[name] = text if re.fullmatch(NUMBER, text) else masked(text)
    return kept


def content(path: str, text: str, places: Mapping[str, str]) -> Any:
    """What is compared of a file: columns of CSV, paths and types of JSON, lines of other text."""
    text = with_places(text, places)
    match path.rpartition(".")[2]:
        case "csv":
            header: list[str] = next(csv.reader(io.StringIO(text)), [])
            return [column for column in header if column not in OPTIONAL_METRICS]
        case "json":
            return tree(json.loads(text))
        case "html":
            return page(text)
        case "yaml":  # what was typed and chosen: not measured, so its numbers count
            return text.splitlines()
        case _:
            return lines(text)


def tree(value: Any) -> dict[str, str]:
    """Path of each part of a JSON document to its type; items of a list share one path, null and a type are one string."""
    kinds: dict[str, set[str]] = {}
    for path, kind in _parts(value, ""):
        if not any(re.search(rule, path) for rule in OPTIONAL_JSON) and path.rpartition(".")[2] not in OPTIONAL_METRICS:
            kinds.setdefault(path, set()).add(kind)
    return {path: " or ".join(sorted(names)) for path, names in sorted(kinds.items())}


def _parts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    yield path, "null" if value is None else type(value).__name__
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _parts(item, f"{path}.{masked(key)}")
    elif isinstance(value, list):
        for item in value:
            yield from _parts(item, f"{path}[]")


def lines(text: str) -> list[str]:
    """The masked lines of a Markdown document, a log or a note, without the noisy ones and the empty ones."""
    kept: list[str] = []
    columns: list[str] | None = None
    remarks = False
    for line in text.splitlines():
        if line.startswith(HEADLINE_ENDS):
            kept = [*(former for former in kept if former.startswith("# ")), "<headline>"]
        if line.startswith("**") and line.endswith("**"):
            remarks = line == f"**{REMARKS}**"
        if not line.startswith("|"):
            columns = None
        elif columns is None:
            columns = _cells(line)
        if remarks or not line.strip():
            continue
        if columns is not None:
            kept.append("| " + " | ".join(_quiet(columns, _cells(line))) + " |")
        elif (quiet := _without_noise(masked(line))) is not None:
            kept.append(quiet)
    return kept


def _without_noise(line: str) -> str | None:
    for pattern, replacement in NOISY_LINES:
        if re.fullmatch(pattern, line):
            return replacement
    return line


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def _quiet(columns: Sequence[str], cells: Sequence[str]) -> list[str]:
    """The cells of a row, masked, without those that may be missing; the header's are kept as they are."""
    pairs = zip(columns, cells, strict=False)
    return [
        cell if cell == column else "<noisy>" if column in NOISY_COLUMNS else masked(cell)
        for column, cell in pairs
        if column not in OPTIONAL_COLUMNS
    ]


def page(text: str) -> list[str]:
    """The masked texts of an HTML page, each after its element's name; pictures by the words in them."""
    reader = _Page()
    reader.feed(text)
    reader.close()
    return reader.texts


class _Page(HTMLParser):
    VOID = ("meta", "br", "img", "link", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._open: list[str] = []
        self._columns: list[str] = []
        self._column = 0
        self._remarks = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.VOID:
            return
        kind = next((value for name, value in attrs if name == "class" and value), "")
        self._open.append(f"{tag}.{kind}" if kind else tag)
        if tag == "thead":
            self._columns = []
        elif tag == "tr":
            self._column = 0
        elif tag == "h2":
            self._remarks = False

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID or not self._open:
            return
        self._open.pop()
        if tag == "td":
            self._column += 1

    def handle_comment(self, data: str) -> None:
        """Matplotlib draws letters as shapes and writes the text in a comment."""
        if "svg" in self._open and re.search(CHART_TEXT, data) and data.strip() not in OPTIONAL_CHART_TEXTS:
            self._keep("svg", masked(data.strip()))

    def handle_data(self, data: str) -> None:
        text = data.strip()
        if not text or not self._open or "svg" in self._open:
            return
        element = self._open[-1]
        if element == "th":
            self._columns.append(text)
        if element == "h2":
            self._remarks = text == REMARKS
        if self._remarks:
            return
        if element in ("td", "td.long"):
            column = self._columns[self._column]
            if column not in OPTIONAL_COLUMNS:
                self._keep("td", "<noisy>" if column in NOISY_COLUMNS else masked(text))
        elif "div.answer" in self._open:
            if self.texts[-1] != "div.answer: <headline>":
                self._keep("div.answer", "<headline>")
        elif not (element == "th" and text in OPTIONAL_COLUMNS):
            self._keep(element, text if element == "style" else masked(text))

    def _keep(self, element: str, text: str) -> None:
        self.texts.append(f"{element}: {text}")
