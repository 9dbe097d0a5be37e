"""The slow lines of a loader as an HTML fragment."""

from __future__ import annotations

from collections.abc import Sequence

from loaderlab.lines import words
from loaderlab.lines.control import Profiled
from loaderlab.report.page_frame import escaped


def slow_lines_fragment(slow: Profiled) -> str:
    """Tables of the stages and the lines, whose sentence is part of the verdict; without lines the reason. It loads nothing; all texts are
    escaped."""
    heading = '<div class="loaderlab-loop"><h4>Slow lines</h4>'
    if (lines := slow.lines) is None:
        return f"{heading}<p>{escaped(slow.sentence)}.</p></div>\n"
    tables = "".join(_table(words.rows(lines, parts)) for parts in (lines.stages, lines.lines))
    return f'{heading}<p class="soft">{escaped(words.facts(lines))}</p>{tables}</div>\n'


def _table(rows: Sequence[Sequence[str]]) -> str:
    cells = [f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>" for row in (words.COLUMNS, *rows)]
    return f"<table><tbody>{''.join(cells)}</tbody></table>"
