"""Writes the page with its data and pictures, and the ladder of docs/results.md."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_acceptance import kept
from benchmarks.gpu_acceptance.catalog import LADDER_VECTORS
from benchmarks.gpu_acceptance.criteria import criteria
from benchmarks.gpu_acceptance.page import Results, compose, gather
from benchmarks.gpu_acceptance.parts import Setting
from benchmarks.gpu_acceptance.running import read
from loaderlab.config import PROJECT, UserError
from loaderlab.report import comparison_files, page
from loaderlab.report.arm_table import arm_table
from loaderlab.report.markdown import markdown_table
from loaderlab.system.causes import described

RESULTS = PROJECT / "docs" / "results"
LADDER_PAGE = PROJECT / "docs" / "results.md"
LADDER_PLACE = ("<!-- the ladder: replaced by --ladder -->", "<!-- end of the ladder -->")
MACHINE = ("processor", "cores_available", "device")  # the fields that identify a machine


def conclude(
    setting: Setting, undone: Sequence[str], name: str | None, *, with_page: bool = True, ladder: bool = False
) -> int:
    """Writes the page if requested, and prints what is missing.

    Args:
        undone: the names of requested stages that are not done.
        name: of the page; None: the GPU's.

    Returns:
        0 if nothing is undone, no test failed and every picture was drawn.
    """
    results = gather(setting)
    complete = True
    if results.environment is None:
        complete = False
        print(
            f"error: the machine was not measured, so no page can be written: see {setting.folder}/environment/output.txt",
            file=sys.stderr,
        )
    elif setting.trial:
        _print_trial(results)
    elif with_page:
        complete = _publish(results, name, ladder=ladder)
    else:
        for criterion in results.criteria:
            print(f"{criterion.verdict}: {criterion.target}{': ' * bool(criterion.measured)}{criterion.measured}")
    if undone:
        print(f"not done: {', '.join(undone)}. Type the command again to continue", file=sys.stderr)
    if failed := results.tests_with("failed"):
        print(f"{len(failed)} tests failed: see tests/ and tests_dali/ in {setting.folder}", file=sys.stderr)
    return 0 if complete and not undone and not failed else 1


def _publish(results: Results, name: str | None, *, ladder: bool) -> bool:
    """Whether every picture of the page, which is written here, could be drawn."""
    target, undrawn = write(results, name)
    print(f"written: {target}")
    if ladder:
        print(
            "docs/results.md: "
            + (
                "its ladder is now this machine's"
                if publish_ladder(results, target)
                else "unchanged, because no ladder on vectors has finished"
            )
        )
    for part, why in undrawn.items():
        print(f"{part}: its picture could not be drawn: {why}", file=sys.stderr)
    return not undrawn


def _print_trial(results: Results) -> None:
    with tempfile.TemporaryDirectory() as folder:  # the same steps as with a GPU; the page is discarded
        pictures, undrawn = draw(results, Path(folder))
        text = compose(results, pictures, "data")
    num_done = sum(state.status == "done" for state in results.states.values())
    print(
        f"trial run on the CPU: {num_done} of {len(results.states)} parts ran at a small size; their page of {len(text):,} characters was composed and discarded"
    )
    if undrawn:
        print(f"not drawn: {undrawn}", file=sys.stderr)
    print("not measured, because they need a GPU:")
    for criterion in criteria({}, {}, (), None):
        print(f"  {criterion.target}")
    print(
        f"no page is written without a GPU; {len(results.tests_with('skipped'))} tests were skipped because they need one"
    )


def write(results: Results, name: str | None) -> tuple[Path, dict[str, str]]:
    """Writes docs/results/<gpu>.md, and next to it a folder with its data: tests, metrics and pictures of every sweep.

    Returns:
        The page, and for each sweep without a picture the reason.

    Raises:
        UserError: a page of another machine has this name.
    """
    assert results.environment is not None
    machine = results.environment["machine"]
    name = name or re.sub("[^a-z0-9]+", "-", machine["device"].lower()).strip("-")
    data_folder = RESULTS / name
    environment_file = data_folder / "environment.json"
    if environment_file.exists():
        other = read(environment_file)["machine"]
        if any(other[field] != machine[field] for field in MACHINE):
            raise UserError(
                f"docs/results/{name}.md is the page of another machine ({other['processor']}, {other['cores_available']} cores). "
                f"Choose another name: --name {name}-{machine['cores_available']}-cores"
            )
    data_folder.mkdir(parents=True, exist_ok=True)
    environment = {**results.environment, "machine": {key: value for key, value in machine.items() if key != "host"}}
    environment_file.write_text(json.dumps(environment, indent=1) + "\n", encoding="utf-8")
    for part, ratios in results.overheads.items():
        (data_folder / f"{part}.json").write_text(json.dumps(ratios, indent=1) + "\n", encoding="utf-8")
    lines = [json.dumps({"test": test.test, "outcome": test.outcome, "why": test.why}) for test in results.tests]
    (data_folder / kept.FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    pictures, undrawn = draw(results, data_folder)
    target = RESULTS / f"{name}.md"
    target.write_text(compose(results, pictures, name), encoding="utf-8")
    return target, undrawn


def draw(results: Results, data_folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Writes the picture and the metrics of each sweep into a folder.

    Returns:
        For each sweep its picture in Markdown or the reason why there is none; and the reason of each sweep without a
        picture. An error in a picture must not lose a page that took hours to measure.
    """
    pictures, undrawn = {}, {}
    for part, comparison in results.comparisons.items():
        try:
            with tempfile.TemporaryDirectory() as folder:
                comparison_files.save(comparison, results.stores[part], Path(folder))
                for file, suffix in (
                    (comparison_files.PICTURE, "png"),
                    ("comparison.csv", "csv"),
                    ("runs.csv", "runs.csv"),
                ):
                    shutil.copy(Path(folder) / file, data_folder / f"{part}.{suffix}")
            pictures[part] = f"![{part}]({data_folder.name}/{part}.png)"
        except Exception as error:
            undrawn[part] = described(error)
            pictures[part] = f"Its picture could not be drawn: {undrawn[part]}"
    return pictures, undrawn


def publish_ladder(results: Results, target: Path) -> bool:
    """Replaces the ladder of docs/results.md by that of a machine's page.

    Returns:
        False if the machine has no such ladder.
    """
    if LADDER_VECTORS not in results.comparisons:
        return False
    comparison = results.comparisons[LADDER_VECTORS]
    where = os.path.relpath(target.with_suffix(""), LADDER_PAGE.parent)
    facts = page.facts(comparison)
    lines = [markdown_table(*arm_table(comparison, group)) for group in comparison.groups]
    lines += [f"![each rung's training loop, and how much of it waits for data]({where}/{LADDER_VECTORS}.png)", ""]
    lines += [
        f"`python -m experiments.train study=ladder`, {facts.get('device', 'several devices')}: {facts.get('work', '')}; {facts['runs']}. "
        f"[All results]({where}.md). The published study is not known in full: compare the ratios, not the seconds."
    ]
    text = LADDER_PAGE.read_text(encoding="utf-8")
    before, opened, rest = text.partition(LADDER_PLACE[0])
    _, closed, after = rest.partition(LADDER_PLACE[1])
    assert opened, f"docs/results.md has no {LADDER_PLACE[0]}"
    assert closed, f"docs/results.md has no {LADDER_PLACE[1]}"
    # the empty line: a table that follows a comment at once is none for MkDocs
    LADDER_PAGE.write_text("\n".join([before + opened, "", *lines, "", closed + after]), encoding="utf-8")
    return True
