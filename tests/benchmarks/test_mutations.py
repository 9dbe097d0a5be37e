"""The mutants fit the code, the page lists them, and what counts as caught."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import mutations
from benchmarks.harness.mutants import ALL
from benchmarks.harness.mutants.mutant import SOURCES, Mutant, NotOnce
from benchmarks.harness.mutants.table import BEGIN, END, listed, with_table
from benchmarks.harness.mutation_trials import Trial, ended, still_exists
from loaderlab.config import PROJECT

MUTANT = Mutant("swapped", "loop.py", "a + b", "b + a", "swaps", ("ring",))


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_code(mutant: Mutant) -> None:
    """If this fails, the code has changed: adapt the mutant in `benchmarks/harness/mutants/`."""
    text = (PROJECT / SOURCES / mutant.file).read_text(encoding="utf-8")
    changed = mutant.changed(text)
    assert changed != text
    compile(changed, mutant.file, "exec")
    assert all((PROJECT / path).is_file() for path in mutant.test_paths)


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in ALL}) == len(ALL)
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in ALL}) == len(ALL)


def test_the_page_lists_the_mutants_and_tests_that_exist() -> None:
    """If this fails: python -m benchmarks.mutations --markdown docs/testing.md."""
    page = (PROJECT / "docs" / "testing.md").read_text(encoding="utf-8")
    caught_by = listed(page)
    assert list(caught_by) == [mutant.name for mutant in ALL]
    assert [test for test in caught_by.values() if not still_exists(test)] == []
    changes = re.findall(r"^\| `\w+` \| (.*) \| `", page, re.MULTILINE)
    assert changes == [mutant.change for mutant in ALL]


def test_the_table_is_put_between_its_markers() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    caught_by = {mutant.name: "test_ring: test_a" for mutant in ALL}
    written = with_table(page, caught_by)
    assert listed(written) == caught_by
    assert written.startswith("before\n")
    assert written.endswith("\nafter\n")
    assert with_table(written, caught_by) == written
    with pytest.raises(ValueError, match="the page has no"):
        with_table("no markers", caught_by)


@pytest.mark.parametrize("text", ["nothing", "a + b and a + b"])
def test_a_mutant_whose_text_does_not_occur_once(text: str, tmp_path: Path) -> None:
    path = tmp_path / SOURCES / "loop.py"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(NotOnce, match=r"swapped: its text occurs [02] times in loop\.py"):
        MUTANT.apply(tmp_path)
    path.write_text("c = a + b", encoding="utf-8")
    MUTANT.apply(tmp_path)
    assert path.read_text(encoding="utf-8") == "c = b + a"


CAUGHT = "FAILED tests/cuda_double/test_ring.py::test_a[x - y] - AssertionError: a\n"
IN_FIXTURE = "ERROR tests/cuda_double/test_ring.py::test_b[x, y] - RuntimeError\n"
NO_IMPORT = "ERROR tests/cuda_double/test_ring.py - NameError: name 'x' is not defined\n"


@pytest.mark.parametrize(
    ("code", "output", "caught_by"),
    [
        (1, "F\n" + CAUGHT, "test_ring: test_a"),
        (1, IN_FIXTURE, "test_ring: test_b"),
        (0, "10 passed\n", ""),
        (2, NO_IMPORT, None),
        (-9, "", None),
        (5, "no tests ran\n", None),
        (4, "ERROR: not found\n", None),
    ],
)
def test_only_a_failed_test_counts(code: int, output: str, caught_by: str | None) -> None:
    trial = ended(code, output, 1.0)
    assert trial.caught == bool(caught_by)
    assert trial.caught_by == (caught_by or "")
    assert bool(trial.problem) == (caught_by is None)


def test_a_test_that_is_gone_is_noticed() -> None:
    assert still_exists("test_ring: test_each_step_has_its_own_loss")
    assert not still_exists("test_ring: test_each_step")
    assert not still_exists("test_rings: test_each_step_has_its_own_loss")


@pytest.mark.parametrize(
    ("unchanged", "of_mutant", "code", "shown"),
    [
        (Trial("", "", 1.0), Trial("test_ring: test_a", "", 1.0), 0, "1 of 1 mutants were caught"),
        (Trial("", "", 1.0), Trial("", "", 1.0), 1, "SURVIVED"),
        (Trial("", "", 1.0), Trial("", "its text occurs 2 times", 1.0), 1, "NOT COUNTED: its text occurs 2 times"),
        (Trial("test_ring: test_a", "", 1.0), None, 1, ""),
        (Trial("", "the tests did not end", 1.0), None, 1, ""),
    ],
)
def test_the_exit_code_is_0_only_if_all_are_caught(
    unchanged: Trial,
    of_mutant: Trial | None,
    code: int,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Invented:
        def __init__(self, *_: object) -> None:
            pass

        def unchanged(self, mutants: list[Mutant]) -> Trial:
            return unchanged

        def of(self, mutants: list[Mutant], jobs: int) -> list[tuple[Mutant, Trial]]:
            assert of_mutant is not None, "a failing copy without a mutant ends the command"
            return [(mutants[0], of_mutant)]

    monkeypatch.setattr(mutations, "Trials", Invented)
    assert mutations.main(["--only", ALL[0].name]) == code
    assert shown in capsys.readouterr().out


def test_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert mutations.main(["--list", "--only", "ring_"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == sum("ring_" in mutant.name for mutant in ALL)
    for arguments in (["--only", "nosuch"], ["--only", "ring", "--markdown", "page.md"]):
        with pytest.raises(SystemExit) as ended_with:
            mutations.main(arguments)
        assert ended_with.value.code == 2
        capsys.readouterr()
