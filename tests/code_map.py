"""Makes ``docs/code_map.md`` from the first sentence of each module: python -m tests.code_map > docs/code_map.md."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.test_architecture import ORDER, PACKAGE

HEAD = """# Code map

Where to look for a thing. Data flows from the top to the bottom of this page: a subpackage imports only from those above its
own line, never from one beside it (`tests/test_architecture.py`). `tests/` has the same folders.

To add a loader: a dataclass in `config/loader.py`, what its `auto` values become in `loaders/resolve.py`, one file in
`loaders/`, one arm in `loaders/__init__.py`, one YAML in `conf/loader/`; the contract tests then run on it. To add a metric:
one line in `metrics.py`, and the place that measures it. To add a setting: one field in `config/`.

Outside the package: `conf/` has one folder a config group and one file a choice; `experiments/` has what is typed
(`python -m experiments.train`); `benchmarks/` has the claims that anyone can rerun.

Made by `python -m tests.code_map`.
"""


def sentence(path: Path) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    end = next((index for index in range(len(paragraph)) if paragraph[index : index + 2] == ". "), None)
    return (paragraph if end is None else paragraph[:end]).rstrip(".")


def markdown() -> str:
    """The page."""
    lines = [HEAD]
    for names in ORDER:
        for name in sorted(names):
            folder = PACKAGE / name
            init = folder / "__init__.py" if folder.is_dir() else PACKAGE / f"{name}.py"
            lines += [f"## {name}{'' if folder.is_dir() else '.py'}", "", f"{sentence(init)}.", ""]
            files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
            if files:
                lines += ["| file | |", "|---|---|", *(f"| `{path.name}` | {sentence(path)} |" for path in files), ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
