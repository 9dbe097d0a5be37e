"""Every command in the README and on the site's pages works, and the files that they name exist; see docs/testing.md."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from loaderlab.attach.script_options import read_arguments
from loaderlab.cli.compose import compose as hydra_compose
from loaderlab.cli.compose import typed
from loaderlab.cli.plain import read
from loaderlab.cli.schemas import CONF
from loaderlab.cli.tune import names_script
from loaderlab.cli.watch import read as read_watch
from loaderlab.config import PROJECT as ROOT
from loaderlab.config import CompareConfig, TraceConfig, TunedTrainConfig, UserError
from loaderlab.runs.job import single
from loaderlab.runs.run import run
from loaderlab.system.terminal import Terminal
from loaderlab.trace.read import report
from loaderlab.tuning.script import OPTIONS
from tests.conftest import compose
from tests.pages import PAGES, WRITTEN, Block, blocks, make_inputs, program_of

README = ROOT / "README.md"
BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in BLOCKS if block.language in ("bash", "sh")]
COMMANDS = sorted({command for block in SHELL for command in block.commands})
SHELL_ONLY = ("source .venv/bin/activate", "export PYTHONPATH=src", 'echo "exit code $?"')
SCRIPTS = {block.title: block for block in BLOCKS if block.language == "python" and block.title}
SHORT = ("steps=16", "epochs=auto", "measure.probe_s=0.05", "torch_threads=1")


def arguments_of(program: str) -> list[str]:
    """The different arguments of a program's commands."""
    return sorted(
        {
            arguments
            for command in COMMANDS
            if (parsed := program_of(command)) and parsed[0] == program
            for arguments in [parsed[1]]
        }
    )


def test_the_readme_is_short_and_begins_with_its_commands() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) <= 900
    assert "make train" in "\n".join(text.splitlines()[:15])
    assert {"make train", "make test"} <= {" ".join(command.split()) for command in COMMANDS}


def test_every_command_is_of_a_kind_that_is_checked() -> None:
    scripts = {f"python {name}" for name in SCRIPTS} | {f"torchrun --nproc-per-node=2 {name}" for name in SCRIPTS}
    for command in COMMANDS:
        watched = command.removeprefix("torchrun --nproc-per-node=8 -m ").removeprefix("accelerate launch -m ")
        if watched.startswith(("loaderlab watch ", "python -m experiments.watch ")):
            assert read_watch(shlex.split(watched.partition("watch ")[2]))[1] is not None
            continue
        known = program_of(command)[0] or command.startswith(("make ", "python -m benchmarks.", "python benchmarks/"))
        assert known or command in SHELL_ONLY or command in scripts, command


# ---- settings are validated ------------------------------------------------------------------------------------


def jobs_of(arguments: str) -> list[list[str]]:
    """Two jobs of a sweep: with the first value of each axis, and with the last."""
    pairs = [text.partition("=")[::2] for text in shlex.split(arguments) if "=" in text]
    return [[f"{name}={value.split(',')[pick]}" for name, value in pairs] for pick in (0, -1)]


TRAINED = [job for program in ("train", "doctor") for text in arguments_of(program) for job in jobs_of(text)]


@pytest.mark.parametrize("overrides", {tuple(job): job for job in TRAINED}.values(), ids=" ".join)
def test_train_commands_compose(overrides: list[str]) -> None:
    assert compose([text.replace("RUN_ID", "0" * 32) for text in overrides])


@pytest.mark.parametrize("arguments", arguments_of("compare"))
def test_compare_commands_compose(arguments: str) -> None:
    overrides = shlex.split(arguments.replace("RUN_ID", "0" * 32))
    assert typed(hydra_compose("compare", overrides), CompareConfig)


@pytest.mark.parametrize("arguments", arguments_of("tune"))
def test_tune_commands_compose(arguments: str) -> None:
    words = shlex.split(arguments)
    if names_script(words):
        _, program = read_arguments(words, "tune", OPTIONS)
        assert program is not None
        assert program.arguments
    else:
        assert typed(hydra_compose("tune", words), TunedTrainConfig)


def trace_settings(arguments: str) -> TraceConfig:
    """The settings of the trace reader from its arguments."""
    return read("trace", TraceConfig, shlex.split(arguments))


@pytest.mark.parametrize("arguments", arguments_of("trace"))
def test_trace_commands_compose(arguments: str) -> None:
    assert trace_settings(arguments)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_make_commands_exist(command: str) -> None:
    words = shlex.split(command)[1:]
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [command for command in COMMANDS if "benchmarks" in command])
def test_benchmarks_have_the_options(command: str) -> None:
    """`tests/benchmarks/test_commands.py` runs each with --help; here the program has to define each option."""
    words = shlex.split(command.removeprefix("python -m "))
    path = ROOT / words[0].replace(".", "/") if command.startswith("python -m ") else ROOT / shlex.split(command)[1]
    files = [path.with_suffix(".py")] if path.with_suffix(".py").exists() else [path / "__main__.py"]
    source = files[0].read_text(encoding="utf-8")
    for option in (word for word in words if word.startswith("--")):
        assert f'"{option}"' in source, f"{files[0].name} has no {option}"


# ---- and one of each kind is run -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that replaces /path/to; also the working folder of the commands."""
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder, num_images=80)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder


def shown_runs() -> Iterator[tuple[list[str], Block]]:
    """The runs whose output a page shows; those that differ only in their length are one."""
    seen = set()
    for block in SHELL:
        for program, arguments in map(program_of, block.commands):
            overrides = [text for text in shlex.split(arguments) if not text.startswith(("epochs=", "steps="))]
            is_sweep = "-m" in overrides or any(text.startswith("study=") for text in overrides)
            if block.shows and program == "train" and not is_sweep and tuple(overrides) not in seen:
                seen.add(tuple(overrides))
                yield overrides, block


@pytest.mark.parametrize(
    ("overrides", "block"), list(shown_runs()), ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_runs_that_are_shown(
    overrides: list[str], block: Block, inputs: Path, store_uri: str, tmp_path: Path, terminal: Terminal
) -> None:
    given = [text.replace("/path/to", str(inputs)) for text in overrides]
    if not any(text.startswith("data=") for text in overrides):
        given.append(f"data.root={inputs / 'digits'}")
    own = [f"tracking.uri={store_uri}", f"checkpoint.dir={tmp_path}"]
    sizes = [] if any(text.startswith("batch_size=") for text in overrides) else ["batch_size=16"]
    if "data=imagefolder" in overrides:
        sizes += ["data.transform.image_size=32", "data.transform.resize=32"]
    config = compose([*given, *own, *sizes, *SHORT])
    if block.lines == "^error":
        with pytest.raises(UserError, match="0007.jpg"):
            run(config, single(config, given), terminal)
        return
    run(config, single(config, given), terminal)
    output = "\n".join(terminal.said)
    assert re.search(r"^(fed|partly starved|starved|inconclusive)\b", output, re.MULTILINE)
    assert any(re.search(block.lines, line) for line in output.splitlines())


@pytest.mark.parametrize("arguments", [text for text in arguments_of("trace") if "=next_batch" not in text])
def test_traces_that_are_shown(
    arguments: str, inputs: Path, terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    report(trace_settings(arguments.replace("/path/to", str(inputs))), terminal)
    printed = "\n".join(terminal.said) + capsys.readouterr().out
    assert "starved" in printed


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(text, marks=[pytest.mark.slow] * text.startswith("torchrun"))  # three processes import torch
        for text in COMMANDS
        if re.match(r"(python|torchrun .*) \w+\.py$", text)
    ],
)
def test_programs_that_are_shown(command: str, inputs: Path) -> None:
    """They run in their own process, as a reader would run them."""
    words = shlex.split(command)
    start = [sys.executable] if words[0] == "python" else [sys.executable, "-m", "torch.distributed.run"]
    path = f"{ROOT}:{ROOT / 'src'}:{inputs}"
    done = subprocess.run(
        [*start, *words[1:]],
        cwd=inputs,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"(fed|starved|inconclusive)\b", done.stdout + done.stderr)


def test_the_main_job_from_a_users_shell(store_uri: str, tmp_path: Path) -> None:
    """A short version of the default run: digits are generated, trained on and recorded, and the command for the UI is shown."""
    command = [
        sys.executable,
        "-m",
        "experiments.train",
        "loader=dali",
        "steps=20",
        "batch_size=16",
        "measure.probe_s=0.1",
        f"tracking.uri={store_uri}",
        f"data.root={tmp_path}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "digits: 1438 training, 359 validation samples" in done.stdout
    assert f"mlflow ui --backend-store-uri {store_uri}" in done.stdout
    assert re.search(r"^(fed|partly starved|starved|inconclusive)\b.* % of the time", done.stdout, re.M)
    assert done.stderr == ""
    client = MlflowClient(store_uri)
    experiment = client.get_experiment_by_name("loaderlab")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["rate/samples_per_s"] > 0
    assert run.data.tags["device.type"] in ("cpu", "cuda")


# ---- what the pages name ---------------------------------------------------------------------------------------


def test_the_docs_name_every_choice() -> None:
    """On a handwritten page, since the generated list of settings always has them."""
    written = "\n".join(page.read_text(encoding="utf-8") for page in WRITTEN if page != README)
    for folder in CONF.iterdir():
        for file in folder.glob("*.yaml") if folder.is_dir() else ():
            assert f"`{file.stem}`" in written, f"{folder.name}={file.stem}"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_the_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:src|conf|experiments|benchmarks|docs|tests|mlruns)/[\w/.]*)`", text))
    for path in named:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_shows_no_folder_of_this_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for folder in (ROOT, Path.home()):
        assert f"{folder}/" not in text


def test_the_links_of_the_readme_lead_somewhere() -> None:
    """Those of the other pages are checked when the site is built."""
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", README.read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
