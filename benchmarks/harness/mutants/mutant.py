"""One change of the code that a test must notice. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SOURCES = Path("src/loaderlab")
TESTS = Path("tests/cuda_double")


class NotOnce(Exception):
    """The text that a mutant replaces does not occur exactly once in its file."""


@dataclass(frozen=True)
class Mutant:
    """A change in one place.

    Attributes:
        name: of the mutant, unique.
        file: in `SOURCES`.
        old: the text that is replaced; it occurs once in the file.
        new: the text instead.
        change: what the changed code does wrong.
        tests: the files in `TESTS` that concern it, without ``test_`` and ``.py``; the first is the most likely to fail.
    """

    name: str
    file: str
    old: str
    new: str
    change: str
    tests: tuple[str, ...]

    def apply(self, root: Path) -> None:
        """Changes the file in a copy of the project.

        Raises:
            NotOnce: the text does not occur exactly once.
        """
        path = root / SOURCES / self.file
        path.write_text(self.changed(path.read_text(encoding="utf-8")), encoding="utf-8")

    def changed(self, text: str) -> str:
        """The text of the file after the change.

        Raises:
            NotOnce: the replaced text does not occur exactly once.
        """
        if (count := text.count(self.old)) != 1:
            raise NotOnce(f"{self.name}: its text occurs {count} times in {self.file}: adapt the mutant to the code")
        return text.replace(self.old, self.new)

    @property
    def test_paths(self) -> list[str]:
        """The paths of its tests in the project."""
        return [(TESTS / f"test_{name}.py").as_posix() for name in self.tests]
