"""Removes from a record everything in which two runs of the same code may differ; the rest must be equal.

Each rule removes one kind of noise. A record consists of fields; a masked value is compared as text.
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

# Metrics that only some runs have: a change of the starved share within the window is rare and random.
OPTIONAL_METRICS = (CHANGE_STEP, STARVED_BEFORE_PCT, STARVED_SINCE_PCT)

# The machine's load before a run may be a whole number by chance; other metrics are whole in every run or in none.
MACHINE = MACHINE_LOAD.partition("/")[0] + "/"

# Tags with the conclusion of a noisy run, or with its user, time and place: only their presence is compared.
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
OPTIONAL_TAGS = ("bottleneck", "advice")  # a run that is fed has none: their presence is not compared either

# Identifiers and numbers in any text, in this order.
IDENTIFIERS = (
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<uuid>"),
    (r"\b[0-9a-f]{40}\b", "<commit>"),
    (r"\b[0-9a-f]{32}\b", "<run>"),
    (r"\b[0-9a-f]{16}\b", "<digest>"),  # of the data and the config, which contain the folder's path
)
NUMBER = r"(?<!\w)\d+(?:,\d{3})*(?:\.\d+)*(?:e[+-]?\d+)?"  # or a version; not a number within a name (fp32, p95)

# Lines of a run's report, log or note that depend on its metrics; None removes the line, because it may be missing.
GRADES = "(?:fed|partly starved|starved|inconclusive)"
NOISY_LINES = (
    (rf"\*\*{GRADES}\*\*(?:: | of data ).*", "<verdict>"),
    (rf"{GRADES}(?:: | of data ).*", "<verdict>"),
    (r"Bottleneck: .*", None),
    (r"- try .*", None),
    (r"(?:training|probes) #/# .*", None),  # progress: the number of lines depends on the speed
    (r"warning: other programs .*", None),
)
# The first paragraphs of a comparison say which arm is faster, which depends on noise. They end at this line.
HEADLINE_ENDS = "![the comparison]"
# Remarks on noise and other programs: from this heading to the next.
REMARKS = "Caveats"
# Columns of a comparison's table whose words depend on noise; `note` exists only if an arm has one.
NOISY_COLUMNS = ("gain", "verdict")
OPTIONAL_COLUMNS = ("note",)
# Text of pictures that is compared: labels of axis marks, which depend on metrics, have no word of three letters.
CHART_TEXT = r"[A-Za-z]{3}"
OPTIONAL_CHART_TEXTS = ("n.d.s.: no difference shown",)  # the legend of a mark that only noisy arms have

# Lists in JSON that may be empty in one run and not in another: their presence is compared, not their items.
OPTIONAL_JSON = (r"\.notes\[\]", r"\.learns_differently\[\]", r"\.mismatches\[\]")


# ---- how they are applied ---------------------------------------------------------------------------------------


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
    """The masked text of each tag; a note is a list of lines, and a tag that is only a number keeps it."""
    masked_tags: dict[str, Any] = {}
    for name, value in values.items():
        if name in OPTIONAL_TAGS:
            continue
        text = with_places(value, places)
        if name in NOISY_TAGS:
            masked_tags[name] = "<text>" if value else ""
        elif name == "mlflow.note.content":
            masked_tags[name] = lines(text)
        else:
            masked_tags[name] = text if re.fullmatch(NUMBER, text) else masked(text)
    return masked_tags


def content(path: str, text: str, places: Mapping[str, str]) -> Any:
    """The part of a file that is compared: columns of CSV, paths and types of JSON, lines of other text."""
    text = with_places(text, places)
    match path.rpartition(".")[2]:
        case "csv":
            header: list[str] = next(csv.reader(io.StringIO(text)), [])
            return [column for column in header if column not in OPTIONAL_METRICS]
        case "json":
            return tree(json.loads(text))
        case "html":
            return page(text)
        case "yaml":  # settings, not measurements: their numbers are compared too
            return text.splitlines()
        case _:
            return lines(text)


def tree(value: Any) -> dict[str, str]:
    """The type at each path of a JSON document; items of a list share one path, and several types are one string."""
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
    """The masked lines of a Markdown document, a log or a note, without noisy and empty lines."""
    masked_lines: list[str] = []
    columns: list[str] | None = None
    remarks = False
    for line in text.splitlines():
        if line.startswith(HEADLINE_ENDS):
            masked_lines = [*(heading for heading in masked_lines if heading.startswith("# ")), "<headline>"]
        if line.startswith("**") and line.endswith("**"):
            remarks = line == f"**{REMARKS}**"
        if not line.startswith("|"):
            columns = None
        elif columns is None:
            columns = _cells(line)
        if remarks or not line.strip():
            continue
        if columns is not None:
            masked_lines.append("| " + " | ".join(_masked_row(columns, _cells(line))) + " |")
        elif (quiet_line := _without_noise(masked(line))) is not None:
            masked_lines.append(quiet_line)
    return masked_lines


def _without_noise(line: str) -> str | None:
    for pattern, replacement in NOISY_LINES:
        if re.fullmatch(pattern, line):
            return replacement
    return line


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def _masked_row(columns: Sequence[str], cells: Sequence[str]) -> list[str]:
    """The masked cells of a row, without those that may be missing; cells of the header are not masked."""
    pairs = zip(columns, cells, strict=False)
    return [
        cell if cell == column else "<noisy>" if column in NOISY_COLUMNS else masked(cell)
        for column, cell in pairs
        if column not in OPTIONAL_COLUMNS
    ]


def page(text: str) -> list[str]:
    """The masked texts of an HTML page, each after the name of its element; of pictures, their words."""
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
        """Keeps the words of a picture: Matplotlib draws letters as shapes and writes the text into a comment."""
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
