"""What a part of the measurements is: its program or its sweep, its stages, and its command line."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

COMMON = ("repeat=1,2,3", "evaluate=false")


@dataclass(frozen=True)
class Setting:
    """Place and size of the measurements.

    Attributes:
        folder: contains all parts, their data and their store.
        trial: the small size, on the CPU.
    """

    folder: Path
    trial: bool

    @property
    def device(self) -> str:
        return "cpu" if self.trial else "cuda"

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder.resolve()}/mlflow.db"


@dataclass(frozen=True)
class Part:
    """A sweep of ``overrides``, or the program of this name if there are none.

    Attributes:
        title: its heading on the page.
        small: overrides that a trial run adds; they replace earlier ones of the same setting.
        stages: overrides of each stage of a sweep. A stage has all jobs of the stage before and some more, so it resumes
            the sweep. All repeats of a stage are done before the next one starts: an interrupted part has fewer arms, not
            fewer repeats.
    """

    name: str
    title: str
    overrides: tuple[str, ...] = ()
    small: tuple[str, ...] = ()
    stages: tuple[tuple[str, ...], ...] = field(default=((),))

    def sweeps(self, setting: Setting) -> list[list[str]]:
        """The overrides of the sweep at each stage; one empty list if it is not a sweep. A trial run may have fewer stages."""
        if not self.overrides:
            return [[]]
        sweeps: list[list[str]] = []
        for stage in self.stages:
            chosen = (*COMMON, *self.overrides, *stage, *(self.small if setting.trial else ()))
            sweep = list({text.partition("=")[0]: text for text in chosen}.values())  # the last one of each setting
            if sweep not in sweeps:
                sweeps.append(sweep)
        return sweeps

    def command(self, setting: Setting, stage: int = 0, *, again: bool) -> list[str]:
        """The command line of a stage; with ``again`` it resumes a sweep that was started before. A sweep runs in the folder
        of all parts."""
        folder = setting.folder / self.name
        if not self.overrides:
            program = _tests(self.name) if self.name in TESTS else ["benchmarks.gpu_acceptance.measured", self.name]
            place = [f"--kept={folder}"] if self.name in TESTS else [setting.device, str(folder)]
            return [sys.executable, "-m", *program, *place]
        overrides = self.sweeps(setting)[stage]
        # relative, since jobs are identified by their settings, and the results may go on in another place on another host;
        # a separate folder for each number of files: a ladder over epochs uses few
        roots = [
            f"data.root=photos_{text.partition('=')[2]}" for text in overrides if text.startswith("data.num_files=")
        ]
        tracking = [f"tracking.uri={setting.store}", f"tracking.experiment={self.name}"]
        start = [sys.executable, "-m", "experiments.train", "-m", *(["resume=latest"] if again else [])]
        return [*start, *overrides, *roots, f"device={setting.device}", *tracking]


TESTS = {"tests": "not dali", "tests_dali": "dali"}  # the parts that are tests, and pytest's -k of each
WITHOUT_DALI = ("--ignore-glob=*/test_dali_*.py", "--ignore=tests/cuda_double")  # these files import it


def _tests(name: str) -> list[str]:
    # one process, because some of these tests measure the GPU; warnings of other versions are not failures
    options = ["-m", "gpu", "-k", TESTS[name], "-q", "--numprocesses=0", "-W", "default", "-p", "no:cacheprovider"]
    ignored = WITHOUT_DALI if name == "tests" else ()
    return ["pytest", *options, *ignored, "-p", "benchmarks.gpu_acceptance.kept"]
