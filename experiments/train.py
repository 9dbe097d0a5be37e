"""One training run, measured and recorded; with ``-m`` a sweep of them: python -m experiments.train --help."""

from loaderlab.cli import main
from loaderlab.config import TrainConfig
from loaderlab.processes import importing, leave


def job(config: TrainConfig, overrides: list[str]) -> None:
    """One run in this process."""
    with importing():
        from loaderlab.jobs import single
        from loaderlab.run import run  # seconds of imports: not for --help
        from loaderlab.terminal import Terminal

    run(config, single(config, overrides), Terminal())


if __name__ == "__main__":
    leave(main("train", TrainConfig, job))
