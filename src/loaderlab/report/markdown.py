"""Text and tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def escape(text: str) -> str:
    """Text from a user or a run, escaped for a page and for a table cell."""
    return text.replace("<", "&lt;").replace("|", "\\|")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a Markdown table; the first two columns are left-aligned."""
    align = ["---", "---", *(["---:"] * (len(columns) - 2))]
    lines = [columns, align, *[[escape(cell).replace("\n", ", ") for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
