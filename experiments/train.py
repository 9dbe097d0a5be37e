"""One training run, measured and recorded; with ``-m`` a sweep of them: python -m experiments.train --help."""

from loaderlab.cli import main
from loaderlab.config import PROJECT, TrainConfig


def job(config: TrainConfig, overrides: list[str]) -> None:
    """One run in this process."""
    from loaderlab import run, tracking  # seconds of imports: not for --help
    from loaderlab.jobs import single
    from loaderlab.terminal import Terminal

    terminal = Terminal()
    run.run(config, single(config, overrides), terminal)
    terminal.say(f"recorded: {tracking.ui_command(tracking.store_uri(config.tracking, PROJECT))}")


if __name__ == "__main__":
    main("train", TrainConfig, job)
