"""The table of the mutants on a page of the documentation, between two markers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from benchmarks.harness.mutants import BY_TOPIC

BEGIN, END = "<!-- the mutants: written by benchmarks.mutations -->", "<!-- end of the mutants -->"
ROW = re.compile(r"^\| `(\w+)` \| .* \| `(\w+)`: (\w+) \|$", re.MULTILINE)


def table(caught_by: Mapping[str, str]) -> str:
    """The table; ``caught_by``: for the name of each mutant the test that failed."""
    lines = ["| mutant | what the changed code does | caught by |", "|---|---|---|"]
    for topic, mutants in BY_TOPIC.items():
        lines.append(f"| **{topic}** | | |")
        for mutant in mutants:
            file, _, name = caught_by[mutant.name].partition(": ")
            lines.append(f"| `{mutant.name}` | {mutant.change} | `{file}`: {name} |")
    return "\n".join(lines)


def with_table(page: str, caught_by: Mapping[str, str]) -> str:
    """The page with a new table.

    Raises:
        ValueError: the page does not have the two markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no {BEGIN} followed by {END}")
    return f"{before}{BEGIN}\n\n{table(caught_by)}\n\n{END}{after}"


def listed(page: str) -> dict[str, str]:
    """For each mutant in the table of a page the test that caught it."""
    _, _, rest = page.partition(BEGIN)
    return {name: f"{file}: {test}" for name, file, test in ROW.findall(rest.partition(END)[0])}
