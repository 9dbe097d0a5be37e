"""Runs the cases of emulated accelerators, and prints how far each result is from its truth."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.harness import emulated_capacity, emulated_copies, emulated_grid, emulated_host, emulated_resident
from benchmarks.harness.emulated_runs import Bench, Check

CASES = [
    *emulated_grid.CASES,
    *emulated_host.CASES,
    *emulated_resident.CASES,
    *emulated_capacity.CASES,
    *emulated_copies.CASES,
]


def check_cases(parser: argparse.ArgumentParser, only: str, repeats: int, *, quick: bool) -> int:
    """The exit code: 1 if a result is further from its truth than its limit.

    Args:
        only: text in the names of the cases to run; empty: all.
    """
    cases = [case for case in CASES if only in case.name]
    if not cases:
        names = ", ".join(case.name for case in CASES)
        parser.error(f"argument --only: no case has {only!r} in its name: {names}")
    checks: dict[str, list[Check]] = {}  # of all cases, by claim
    with tempfile.TemporaryDirectory(prefix="loaderlab-") as folder:
        bench = Bench(40 if quick else 120, 0.6 if quick else 1.5, Path(folder))
        for case in cases:
            of_case: dict[str, list[Check]] = {}
            for _ in range(repeats):
                for check in case.checks(bench):
                    of_case.setdefault(check.claim, []).append(check)
            errors = ", ".join(_range(results) for results in of_case.values())
            print(f"{case.name}: {errors}: {'ok' if _all_passed(of_case) else 'WRONG'}", flush=True)
            _explain(of_case)
            for claim, results in of_case.items():
                checks.setdefault(claim, []).extend(results)
    print(f"\nall {len(cases)} cases, {repeats} repeats; errors in the order above:")
    for claim, results in checks.items():
        median, num_passed = statistics.median(check.error for check in results), sum(check.passed for check in results)
        print(
            f"    {claim}: median {median:+.2f}, {_range(results)}, limit {results[0].limit:g}, {num_passed} of {len(results)}"
        )
    return 0 if _all_passed(checks) else 1


def _all_passed(checks: dict[str, list[Check]]) -> bool:
    return all(check.passed for results in checks.values() for check in results)


def _range(results: list[Check]) -> str:
    errors = [check.error for check in results]
    return f"{min(errors):+.2f} to {max(errors):+.2f}"


def _explain(checks: dict[str, list[Check]]) -> None:
    for claim, results in checks.items():
        for check in results:
            if not check.passed:
                print(f"    {claim}: {check.explanation or f'{check.error:+.2f}'}", flush=True)
