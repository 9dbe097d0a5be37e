"""A recorded run as the comparison reads it, and jobs without a recorded run. Does not import MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loaderlab.config import EMULATED, ReplayLoader
from loaderlab.config.accelerator import NONE

NOT_APPLICABLE = "not applicable here"  # a job that this machine cannot run
NOT_REACHED = "not reached"  # a job that a sweep had not started when it ended
NOT_FINITE = "not_finite"  # the tag with the names of metrics whose last value was NaN or infinite

NODE, PROCESSOR, SLURM_JOB = "node", "node.processor", "slurm.job_id"  # tags: where a run was measured


def not_finite_in(tags: Mapping[str, str]) -> list[str]:
    """The metric names in the tag `NOT_FINITE`."""
    return tags[NOT_FINITE].split(", ") if NOT_FINITE in tags else []


def is_emulated(settings: Mapping[str, str]) -> bool:
    """Whether recorded settings are those of an emulated accelerator."""
    return settings.get("accelerator.name", NONE) != NONE


@dataclass(frozen=True)
class RunRecord:
    """One run, read from the store.

    Attributes:
        status: FINISHED, FAILED, KILLED or RUNNING.
        started_ms: start time in milliseconds since 1970.
        settings: the resolved configuration, flattened, as text.
        figures: the last value of each metric, except metrics whose last value was NaN or infinite.
    """

    run_id: str
    name: str
    status: str
    parent_id: str | None
    started_ms: int
    settings: Mapping[str, str]
    figures: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def not_finite(self) -> list[str]:
        """Names of the metrics whose last value was NaN or infinite."""
        return not_finite_in(self.tags)

    @property
    def is_ceiling(self) -> bool:
        """Whether it trained on a few batches that stay on the device. Its rate is the upper bound; it learns nothing useful."""
        return self.settings.get("loader.name") == ReplayLoader.name

    @property
    def is_emulated(self) -> bool:
        """Whether it ran on an emulated accelerator. A run that ended early has no device, but its settings; one that ended before
        it recorded them has the name of its arm."""
        if not self.settings:
            return EMULATED in (self.tags.get("device.type"), *self.tags.get("arm", "").split())
        return self.tags.get("device.type") == EMULATED or is_emulated(self.settings)

    @property
    def shares_cores(self) -> bool:
        """Whether its step computed on the same cores as its loader; False if this was not recorded."""
        return self.tags.get("device.type") == "cpu"


def record_of(
    *,
    run_id: str,
    name: str,
    status: str,
    started_ms: int,
    settings: Mapping[str, str],
    figures: Mapping[str, float],
    tags: Mapping[str, str],
) -> RunRecord:
    """A run from the values in its store, which has only an earlier value of a metric that was not finite at the end."""
    not_finite = not_finite_in(tags)
    return RunRecord(
        run_id=run_id,
        name=name or run_id,
        status=status,
        parent_id=tags.get("mlflow.parentRunId"),
        started_ms=started_ms,
        settings=settings,
        figures={metric: value for metric, value in figures.items() if metric not in not_finite},
        tags=tags,
    )


@dataclass(frozen=True)
class Missing:
    """A job or a run without metrics to compare.

    Attributes:
        why: the reason.
        is_emulated: it is one of an emulated accelerator.
        has_finished_arm: it is a run that did not finish, and other runs of its arm did.
    """

    name: str
    why: str
    is_emulated: bool = False
    has_finished_arm: bool = False

    @property
    def not_applicable(self) -> bool:
        return self.why.startswith(NOT_APPLICABLE)

    @property
    def not_reached(self) -> bool:
        return self.why.startswith(NOT_REACHED)
