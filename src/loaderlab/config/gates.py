"""Settings of the gates: a command fails if one does not pass."""

from __future__ import annotations

from dataclasses import dataclass

from loaderlab.config.base import refuse, setting


@dataclass
class RunFailIfConfig:
    """The gate of a run and of a sweep: the command fails if it does not pass."""

    utilization_below: float | None = setting(
        None,
        "fail if the rate is below this share of the emulated accelerator's requested rate, or in a real run of its ceiling, "
        "for example 0.9",
        at_least=0,
        example=0.9,
    )

    def __post_init__(self) -> None:
        if self.utilization_below is not None and self.utilization_below > 1:
            raise refuse(
                "fail_if.utilization_below",
                self.utilization_below,
                "is a share and must be 0 to 1",
                "fail_if.utilization_below=0.9",
            )


@dataclass
class FailIfConfig(RunFailIfConfig):
    """Gates for CI: the command fails if one does not pass."""

    rate_below: float | None = setting(
        None,
        "fail if an arm's whole confidence interval is below this factor of the baseline, for example 0.95",
        at_least=0,
        example=0.95,
    )
