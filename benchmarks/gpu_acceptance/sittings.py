"""The measurements of a borrowed GPU host, divided into sittings of 9 minutes, with the estimated duration of each part.

A sitting is one command: ``python -m benchmarks.gpu_acceptance --sitting 1``. Typed again, it continues. The estimates are for 16
cores and a GPU like an H100; they are assumptions until a page of such a GPU exists. Their table in docs/testing.md is printed by
``python -m benchmarks.gpu_acceptance.sittings``.
"""

from __future__ import annotations

from dataclasses import dataclass

from loaderlab.report.markdown import markdown_table

SITTING_S = 500.0  # for the parts; the rest of the 9 minutes is for ending the last part and for packing the results
START_S = 11.0  # of a job: imports, the GPU's context, data, and its record at the end


@dataclass(frozen=True)
class Estimate:
    """The estimated duration of a part, in seconds.

    Attributes:
        fixed_s: once: start of the command, data, parity check, pictures.
        jobs: of a sweep; 0 for a program.
        steps: of each job.
    """

    fixed_s: float
    jobs: int = 0
    steps: int = 0
    step_s: float = 0.0
    probes_s: float = 0.0

    @property
    def seconds(self) -> float:
        return self.fixed_s + self.jobs * (START_S + self.steps * self.step_s + self.probes_s)

    @property
    def limit_s(self) -> float:
        """The time after which the part is stopped, so that a part that hangs leaves time for the others."""
        return 2 * self.seconds + 30


@dataclass(frozen=True)
class Item:
    """A stage of a part in a sitting.

    Attributes:
        if_time: it is not part of the estimate, and runs only if time is left.
        what: of a program: what the estimate contains.
    """

    part: str
    estimate: Estimate
    stage: int = 0
    if_time: bool = False
    what: str = ""


_RESNET50 = Estimate(30, 6, 90, 0.06, 5)  # bf16, batches of 128: 2,100 samples/s
_ENVIRONMENT = Item("environment", Estimate(15), what="matrix products 6 s, one file written and read")
SITTINGS: dict[int, tuple[Item, ...]] = {
    1: (  # without DALI
        _ENVIRONMENT,
        Item("tests", Estimate(120), what="103 tests, the truths and the meter first"),
        Item("overhead", Estimate(58), what="400 steps of 70 ms, 8 x 2 turns of 1.2 s"),
        Item("overhead_bf16", Estimate(46), what="600 steps of 30 ms, 8 x 2 turns of 1.2 s"),
        Item("fed", _RESNET50),
        Item("fed", Estimate(20, 3, 90, 0.06, 5), stage=1),
    ),
    2: (  # with DALI
        _ENVIRONMENT,
        Item("tests_dali", Estimate(60), what="40 tests"),
        Item("evaluator", Estimate(35), what="8 x 2 turns of 1.2 s"),
        Item("dali_decode", _RESNET50),
        Item("fed", Estimate(20, 3, 90, 0.06, 5), stage=2),
    ),
    3: (  # their first stages do not use DALI
        _ENVIRONMENT,
        Item("ladder_vectors", Estimate(15, 12, 468, 0.0085)),  # the mean of 19 ms (single) to 2 ms (ceiling)
        Item("ladder_images", Estimate(30, 6, 120, 0.025)),
        Item("precision_resnet50", Estimate(30, 6, 60, 0.1, 5)),  # the mean of fp32 and bf16
        Item("ladder_vectors", Estimate(15, 6, 468, 0.0085), stage=1, if_time=True),
        Item("ladder_images", Estimate(20, 12, 120, 0.04), stage=1, if_time=True),
    ),
}


def total_s(sitting: int) -> float:
    """The estimated duration of a sitting, without the items for which time may be left."""
    return sum(item.estimate.seconds for item in SITTINGS[sitting] if not item.if_time)


def table() -> str:
    """All sittings with their estimates, as a Markdown table."""
    rows = []
    for number, items in SITTINGS.items():
        rows += [[f"{number}: {_name(item)}", _reason(item), f"{item.estimate.seconds:.0f}"] for item in items]
        rows.append([f"**sitting {number}**", f"at most {SITTING_S:.0f} s", f"**{total_s(number):.0f}**"])
    return markdown_table(["part", "estimate", "s"], rows)


def _name(item: Item) -> str:
    stage = f", stage {item.stage + 1}" if item.estimate.jobs else ""
    return f"{item.part}{stage}{' (if time is left)' if item.if_time else ''}"


def _reason(item: Item) -> str:
    estimate = item.estimate
    if not estimate.jobs:
        return item.what
    probes = f" + {estimate.probes_s:g} s of probes" if estimate.probes_s else ""
    job = f"{START_S:g} s start + {estimate.steps} steps x {1e3 * estimate.step_s:g} ms{probes}"
    return f"{estimate.fixed_s:g} s + {estimate.jobs} jobs x ({job})"


if __name__ == "__main__":
    print(table(), end="")
