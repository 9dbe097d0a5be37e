"""The slow lines of a loader as an HTML fragment."""

from __future__ import annotations

from collections.abc import Sequence

from loaderlab.lines import words
from loaderlab.lines.control import Profiled
from loaderlab.report.page_frame import escaped


def slow_lines_fragment(slow: Profiled) -> str:
    """The sentence, and tables of the stages and the lines; only the sentence if there are none. It loads nothing; all texts are escaped."""
    heading = f'<div class="loaderlab-loop"><h4>Slow lines</h4><p>{escaped(slow.sentence)}.</p>'
    if (lines := slow.lines) is None:
        return f"{heading}</div>\n"
    tables = "".join(_table(words.rows(lines, parts)) for parts in (lines.stages, lines.lines))
    return f'{heading}<p class="soft">{escaped(words.facts(lines))}</p>{tables}</div>\n'


def _table(rows: Sequence[Sequence[str]]) -> str:
    cells = [f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>" for row in (words.COLUMNS, *rows)]
    return f"<table><tbody>{''.join(cells)}</tbody></table>"
