"""The answer as one self-contained HTML page: a sentence, the picture, the tables and the caveats."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec

from loaderlab.compare.marks import marked
from loaderlab.report.page_frame import escaped, framed
from loaderlab.system.extras import missing
from loaderlab.tuning import chart_places
from loaderlab.tuning.answer import CERTIFIED, Answer
from loaderlab.tuning.tables import Table, tables, times
from loaderlab.tuning.typed import override_of, snippet
from loaderlab.tuning.words import Text, caveats, qualified

STYLE = """<style>
.answer pre { margin: .5rem 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .92em; }
.picture { max-width: 38rem; }
.explained th:last-child { text-align: left; }
</style>
"""
MEANING = """<h2>How to read this page</h2>
<ul>
<li>Makers are worker processes or threads. Cheaper settings have fewer makers; with the same number, fewer bytes queued ahead;
then less CPU time per sample, if it differs by more than 10 %.</li>
<li>The device is starved of data while it has no work because data is missing. Here this includes the time lost between epochs, with
the length of a whole epoch.</li>
<li>The device is fed if the whole 95 % confidence interval lies below the limit, and not fed if none of it does. Otherwise it is not
shown.</li>
<li>The confirmation is the result. The search ran each setting once, and its intervals do not contain the differences between runs.</li>
<li>The predictions in the tables and the crosses in the picture were made before the trial, from the rate of the step and the rate of
the loader alone. The dashed line is the same prediction with the results of all trials.</li>
</ul>
"""


def html(answer: Answer, title: str, override: Text | None = None, code: Text | None = None) -> str:
    """One self-contained page that loads nothing and runs no script; all texts are escaped. Without matplotlib it has no
    picture.

    Args:
        title: plain text.
        override, code: as in `loaderlab.tuning.words.last_lines`; None: the overrides of a run, and a DataLoader.
    """
    override = override or partial(override_of, current=answer.facts.current)
    code = code or partial(snippet, batch_size=answer.facts.batch_size)
    parts = [
        STYLE,
        f"<h1>{escaped(marked(title, emulated=bool(answer.facts.emulated)))}</h1>",
        f'<p class="fact">{escaped(times(answer))}</p>',
        _answer(answer, override, code),
        _picture(answer),
        *(_table(table) for table in tables(answer)),
        _caveats(caveats(answer)),
        MEANING,
    ]
    return framed(title, "\n".join(part for part in parts if part))


def _answer(answer: Answer, override: Text, code: Text) -> str:
    """The certificate, what is missing, and what to type."""
    sentence = qualified(answer)
    texts = [f"{sentence[:1].upper()}{sentence[1:]}."]
    if answer.grade != CERTIFIED:
        texts.append(f"Not certified: {answer.grade}.")
    if answer.missing:
        texts.append(f"What is missing: {answer.missing}")
    paragraphs = "".join(f"<p>{escaped(text)}</p>" for text in texts)
    typed = [override(answer.chosen), code(answer.chosen)] if answer.chosen is not None else []
    blocks = "".join(f"<pre><code>{escaped(text)}</code></pre>" for text in typed if text)
    return f'<div class="answer">{paragraphs}{blocks}</div>'


def _picture(answer: Answer) -> str:
    if not chart_places.is_drawn(answer):
        return ""
    if find_spec("matplotlib") is None:
        return f"<p>{escaped(missing('The picture', 'matplotlib'))}</p>"
    from loaderlab.tuning.chart import as_svg

    drawn = as_svg(answer, "rate and starved share over the number of workers or threads")
    caption = f"<figcaption>{escaped(chart_places.caption(answer))}</figcaption>"
    return f'<figure class="picture">{drawn}{caption}</figure>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{escaped(column)}</th>" for column in table.columns)
    rows = "".join(f"<tr>{_cells(row, wraps=table.explains)}</tr>\n" for row in table.rows)
    title = table.title[:1].upper() + table.title[1:]
    kind = ' class="explained"' if table.explains else ""
    inside = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>"
    return f'<h2>{escaped(title)}</h2>\n<div class="scroll"><table{kind}>\n{inside}</table></div>'


def _cells(row: Sequence[str], *, wraps: bool) -> str:
    """The cells of a row; the last one is wrapped if it is a sentence."""
    kinds = ["<td>"] * (len(row) - 1) + ['<td class="long">' if wraps else "<td>"]
    return "".join(f"{kind}{escaped(text)}</td>" for kind, text in zip(kinds, row, strict=True))


def _caveats(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escaped(sentence)}</li>" for sentence in sentences)
    return f'<h2>Caveats</h2>\n<ul class="remarks">{items}</ul>' if items else ""
