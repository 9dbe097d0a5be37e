"""The order of the subpackages, checked against the imports of every file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from loaderlab.config import PROJECT as ROOT

PACKAGE = ROOT / "src" / "loaderlab"
ORDER = [  # the way data flows: a subpackage imports only from those in a line above its own
    {"metrics"},
    {"config"},
    {"system"},
    {"device"},
    {"data"},
    {"loaders", "meter", "tracking"},
    {"training", "diagnosis", "parity"},
    {"probes", "trace", "compare"},
    {"report"},
    {"runs"},
    {"attach"},
    {"cli"},
]
HEAVY = {  # what may be imported in one place only
    "nvidia": {"loaders/dali_graph.py"},
    "spdl": {"loaders/spdl.py"},
    "mlflow": {"tracking/store.py"},
    "timm": {"training/models.py"},
    "torchcodec": {"loaders/decode.py"},
    "torchvision": {"data/torchvision_sets.py"},
    "matplotlib": {
        "report/bar_charts.py",
        "report/chart_style.py",
        "report/charts.py",
        "report/cost_charts.py",
        "report/step_charts.py",
        "report/step_picture.py",
    },
    "jinja2": {"report/page.py"},
    "sklearn": {"data/digits.py"},
    "hydra": {"cli.py"},
    "pynvml": {"meter/nvml.py", "device/resolve.py", "system/machine.py"},
    "scipy": {"meter/series.py", "parity/distribution.py", "compare/stats.py"},
}
WRITES = {  # attributes of another object that a file may assign to
    "loaders/header.py": {"Image.MAX_IMAGE_PIXELS"},  # Pillow's limit has no other interface
    "probes/state.py": {"parameter.grad"},  # torch's own way to drop a gradient
    "runs/session.py": {"torch.backends.cudnn.benchmark"},  # torch's own switch
    "training/precision.py": {"torch.backends.cudnn.allow_tf32"},  # torch's own switch
    # to go: a stage returns a frozen result instead
    "loaders/fetch.py": {"batch.skipped"},
    "loaders/native.py": {"self._requests.epoch"},
    "meter/phases.py": {"self._steps[].other", "step.disturbed", "step.drained", "step.loss", "step.device"},
    "parity/draws.py": {"found.num_draws"},
    "parity/result.py": {"known.num_cases"},
    "parity/samples.py": {"found.inside_levels", "found.border_levels"},
    "probes/rates.py": {"deadline.steps"},
    "runs/outputs.py": {"session.figures", "session.verdict"},
    "runs/sweep.py": {"other.not_applicable", "job.ended"},
    "trace/collect.py": {"found.negative"},
    "training/loop.py": {"trained.train_s", "trained.epoch", "trained.updates", "trained.step"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> list[str]:
    """Every module that a file imports at any time, other than for types alone."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found: list[str] = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "loaderlab" else [node.module]
            )
    return found


def subpackage(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rank(name: str) -> int:
    return next(index for index, names in enumerate(ORDER) if name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_subpackage_imports_only_from_those_above_it(path: Path) -> None:
    own = subpackage(path)
    for module in imports(path):
        assert not module.startswith("experiments"), "nothing imports what a person runs"
        if module.startswith("loaderlab.") and (other := module.split(".")[1]) != own and own != "__init__":
            assert rank(other) < rank(own), f"{own} imports {module}"


def test_few_files_lie_outside_the_subpackages() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 6


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_have_one_place(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    for module in imports(path):
        allowed = HEAVY.get(module.split(".")[0])
        assert allowed is None or name in allowed, f"{name} imports {module}"


def written_attributes(path: Path) -> set[str]:
    """Attributes that a file assigns to or deletes, other than those of ``self`` and ``cls``; an index is left out."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    written = {
        re.sub(r"\[.*\]", "[]", ast.unparse(node))
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del)
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    }
    setters = ("setattr", "delattr", "object.__setattr__", "object.__delattr__")
    return written | {
        ast.unparse(node) for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) in setters
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_writes_the_attributes_of_an_object_that_is_not_its_own(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    unexpected = written_attributes(path) - WRITES.get(name, set())
    assert not unexpected, f"{name} assigns to {sorted(unexpected)}: return a frozen result instead"


def test_what_a_file_writes_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(
        "self.a = cls.b = 1\narm.c = 1\narm.d += 1\narms[0].e: int = 1\nself.f.g, h = 1, 2\ndel arm.i\n"
        "setattr(arm, 'j', 1)\nprint(arm.k)\n"
    )
    assert written_attributes(file) == {"arm.c", "arm.d", "arms[].e", "self.f.g", "arm.i", "setattr(arm, 'j', 1)"}


@pytest.mark.parametrize("folder", ["compare", "report"])
def test_comparison_and_report_name_no_loader_and_no_device(folder: str) -> None:
    names = {"native", "dali", "spdl", "replay", "resident", "cpu", "cuda"}
    for path in sorted((PACKAGE / folder).glob("*.py")):
        if path.name == "ladder.py":  # its rungs are choices of the configuration
            continue
        named = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)} & names
        assert not named, f"{path.name} names {named}: add a property to RunRecord"


def test_the_loop_names_no_loader() -> None:
    text = (PACKAGE / "training/loop.py").read_text().lower()
    assert not [name for name in ("native", "dali", "replay", "spdl", "resident") if name in text]


def test_help_needs_neither_torch_nor_mlflow() -> None:
    code = (
        "import atexit, runpy, sys; sys.argv = ['train', '--help']\n"
        "atexit.register(lambda: print(sorted({'torch', 'mlflow', 'nvidia', 'matplotlib', 'numpy'} & set(sys.modules))))\n"
        "runpy.run_module('experiments.train', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_launching_process_needs_no_torch() -> None:
    code = "import sys, loaderlab.runs.sweep, loaderlab.runs.launch, loaderlab.tracking.store, loaderlab.system.terminal; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
