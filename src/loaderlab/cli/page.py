"""The parts of ``--help`` that all commands share: title, examples, exit codes. Does not import Hydra."""

from __future__ import annotations

from loaderlab.cli import exit_table
from loaderlab.system.program import command

INTRODUCTION = {  # the purpose of the command, then examples
    "train": (
        "loaderlab: is the GPU starved by its input pipeline, by how much, and what removes the wait?",
        "loader=dali precision=bf16           one run",
        "-m loader=native,dali repeat=1,2,3   a sweep: every combination, each in its own process",
        "accelerator=resnet50_a100            could this host feed an A100? Emulated: no GPU is needed",
        "loader=dali --help                   this text, with the settings of loader=dali",
    ),
    "tune": (
        "loaderlab: the cheapest settings of a loader that keep the device fed, shown by fresh runs",
        "                                     tunes the loader of a run; with all settings of train",
        "accelerator=resnet50_a100            how many workers would feed an A100? Emulated: no GPU is needed",
        "tune.minutes=5 tune.also=[decoder]   more time; also tries another image decoder",
        "script.py lr=0.1                     tunes any training script; options come before it: --yes --steps 50",
    ),
    "trace": (
        "loaderlab: reads from a trace of PyTorch's profiler, of any program, whether its input pipeline starved the GPU",
        "trace=log/host_1234.pt.trace.json.gz   a row for each profiler step, and the verdict",
        "trace=trace.json format=json           the same as JSON; stdout contains nothing else",
        "trace=trace.json wait=next_batch       for a loop that waits for data in a range named next_batch",
    ),
    "compare": (
        "loaderlab: compares recorded runs: which arm is faster, by how much, at what cost, and did all learn the same?",
        "                                      the latest sweep",
        "runs=RUN_ID output=report             a sweep by its run id, as report/report.html, .csv, .json and .md",
        "runs=all baseline=loader:native       every run of the experiment, compared with the native loader",
        "fail_if.utilization_below=0.9         a gate: exit code 3 if an arm's device is busy for less than 90 %",
        """'filter="params.batch_size = \\"64\\""'    only the runs that match an MLflow filter""",
        "baseline=RUN_ID fail_if.rate_below=0.95   a gate: exit code 3 if the latest sweep is slower than RUN_ID",
    ),
}


def head(name: str) -> list[str]:
    """The title and examples of a command."""
    title, *examples = INTRODUCTION[name]
    return [title, "", *(f"  {command(name)} {example}" for example in examples), ""]


def foot(*notes: str) -> list[str]:
    """The exit codes, and notes on flags."""
    return ["", *exit_table.lines(), *([""] if notes else []), *notes]
