"""One training run, measured and recorded; with ``-m`` a sweep of them: python -m experiments.train --help."""

import sys

from loaderlab.cli.main import main
from loaderlab.config import TrainConfig
from loaderlab.system.processes import importing, leave


def job(config: TrainConfig, overrides: list[str]) -> None:
    """One run in this process."""
    with importing():
        from loaderlab.runs.job import single
        from loaderlab.runs.run import run
        from loaderlab.system.terminal import Terminal

    run(config, single(config, overrides), Terminal())


if __name__ == "__main__":
    leave(main("train", TrainConfig, job, sys.argv[1:]))
