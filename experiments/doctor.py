"""Would a long run fail on this machine? One line for each check: python -m experiments.doctor --help.

Takes the settings of the run in question, such as tracking.uri=sqlite:///… device=cuda checkpoint.dir=outputs; all others
of experiments.train are accepted too. Creates the store if it is missing. Exit code 1 if a run would fail.
"""

import sys

from loaderlab.cli.arguments import asks_for_help, asks_for_sweep
from loaderlab.cli.main import main
from loaderlab.config import TrainConfig
from loaderlab.system.processes import leave


def job(config: TrainConfig, _overrides: list[str]) -> None:
    """Checks the machine for one run."""
    from loaderlab.runs.doctor import examine
    from loaderlab.system.terminal import Terminal

    examine(config, Terminal())


def start(arguments: list[str]) -> int:
    """The exit code. A sweep is refused: Hydra would run it."""
    if asks_for_help(arguments):
        print(f"python -m experiments.doctor [name=value ...]\n\n{__doc__}")
        return 0
    if asks_for_sweep(arguments) or any(text.startswith("study=") for text in arguments):
        print("error: the doctor checks one run. Leave out -m, --multirun and study=…", file=sys.stderr)
        return 1
    return main("train", TrainConfig, job, arguments)


if __name__ == "__main__":
    leave(start(sys.argv[1:]))
