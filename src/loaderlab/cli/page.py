"""The parts of the ``--help`` pages that all commands have: title, examples, exit codes. Free of Hydra."""

from __future__ import annotations

from loaderlab.cli import exit_table
from loaderlab.system.program import command

INTRODUCTION = {  # what the command is for, then examples
    "train": (
        "loaderlab: is the GPU starved by its input pipeline, by how much, and what ends it?",
        "loader=dali precision=bf16           one run",
        "-m loader=native,dali repeat=1,2,3   a sweep: every combination, each in a process of its own",
        "loader=dali --help                   this page, with the settings of loader=dali",
    ),
    "trace": (
        "loaderlab: was the GPU starved by its input pipeline? Read from a trace of PyTorch's profiler, of any program",
        "trace=log/host_1234.pt.trace.json.gz   a row for each profiler step, and the verdict",
        "trace=trace.json format=json           the same for machines, alone on stdout",
        "trace=trace.json wait=next_batch       a loop that waits for data in a range of its own name",
    ),
    "compare": (
        "loaderlab: recorded runs side by side: who is faster, by how much, at what cost, and did they learn the same?",
        "                                      the latest sweep",
        "runs=RUN_ID output=report             a sweep by its run id, as report/report.html, .csv, .json and .md",
        "runs=all baseline=loader:native       every run of the experiment, compared with the native loader",
        """'filter="params.batch_size = \\"64\\""'    of all runs those that an MLflow filter takes""",
        "baseline=RUN_ID fail_if.rate_below=0.95   a gate: exit code 3 if the latest sweep is slower than that one",
    ),
}


def head(name: str) -> list[str]:
    """Title and examples of a command."""
    title, *examples = INTRODUCTION[name]
    return [title, "", *(f"  {command(name)} {example}" for example in examples), ""]


def foot(*notes: str) -> list[str]:
    """The exit codes, and notes on flags."""
    return ["", *exit_table.lines(), *([""] if notes else []), *notes]
