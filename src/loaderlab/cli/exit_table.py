"""The table of exit codes for ``--help`` and the documentation: python -m loaderlab.cli.exit_table > docs/exit_codes.md."""

from __future__ import annotations

from loaderlab.config.exit_codes import MEANINGS


def lines() -> list[str]:
    """The table for ``--help``: one line for each code."""
    return ["Exit codes", *(f"  {code:<5}{meaning}" for code, meaning in MEANINGS.items())]


def markdown() -> str:
    """The table as a page of the documentation."""
    rows = "\n".join(f"| {code:d} | {meaning} |" for code, meaning in MEANINGS.items())
    return (
        "# Exit codes\n\nEvery command uses these codes. `python -m loaderlab.cli.exit_table` prints this page.\n\n"
        f"| code | meaning |\n|---|---|\n{rows}\n"
    )


if __name__ == "__main__":
    print(markdown(), end="")
