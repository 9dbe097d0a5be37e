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
ORDER = [  # in the direction of the data: a subpackage imports only from those in earlier lines
    {"metrics"},
    {"config"},
    {"system"},
    {"lines"},
    {"device"},
    {"data"},
    {"loaders", "meter", "tracking"},
    {"training", "diagnosis", "parity"},
    {"probes", "trace", "compare"},
    {"report"},
    {"runs"},
    {"attach"},
    {"tuning"},
    {"cli"},
    {"__main__"},
]
HEAVY = {  # packages that may be imported in few places only
    "nvidia": {"loaders/dali_graph.py", "loaders/dali_guard.py", "loaders/dali_single.py"},
    "spdl": {"loaders/spdl.py"},
    "transformers": {"attach/transformers_callback.py"},
    "mlflow": {f"tracking/{name}.py" for name in ("store", "tracked_run", "operations", "server_runs")},
    "timm": {"training/models.py"},
    "torchcodec": {"loaders/decode.py"},
    "torchvision": {"data/torchvision_sets.py"},
    "matplotlib": {
        "report/bar_charts.py",
        "report/capacity_chart.py",
        "report/chart_style.py",
        "report/charts.py",
        "report/cost_charts.py",
        "report/rank_charts.py",
        "report/step_charts.py",
        "report/step_picture.py",
        "tuning/chart.py",
    },
    "jinja2": {"report/page.py"},
    "sklearn": {"data/digits.py"},
    "hydra": {f"cli/{name}.py" for name in ("main", "schemas", "compose", "errors", "help")},
    "pynvml": {"system/nvml.py", "meter/nvml.py"},  # the latter is started as a script, without this package
    "submitit": {"runs/slurm_submit.py"},
    "pyinstrument": {"lines/tree.py"},
    "scipy": {"meter/series.py", "parity/distribution.py", "compare/stats.py"},
}
PRIVATE = {  # private names of other packages, each in a wrapper that gives the reason; os._exit is documented
    "attach/call_stacks.py": {"_getframe"},  # inspect.stack reads every source file
    "attach/ddp_hooks.py": {"_execution_engine"},  # there is no public way to see the end of backward
    "attach/events.py": {"_make"},  # of a named tuple: public in spite of its name
    "attach/hooks.py": {"_BaseDataLoaderIter"},
    "attach/profiled_program.py": {"_BaseDataLoaderIter", "_MultiProcessingDataLoaderIter"},
    "attach/script.py": {"_run_module_as_main"},
    "loaders/torch_internals.py": {"_iterator", "_shutdown_workers", "_workers", "_new_shared", "_next_data"},
    "system/processes.py": {"_run_exitfuncs"},
    "system/template.py": {"_forkserver", "_forkserver_pid", "_stop"},
    "system/versions.py": {"_is_gil_enabled"},
    "tracking/store.py": {"_artifact_repos_cache"},
    "tuning/script_repeats.py": {"_MultiProcessingDataLoaderIter"},  # loaders without workers are not slowed down
}
WRITES = {  # attributes of another object that a file may assign to
    "attach/loops.py": {
        "later.inside",
        "left.interrupted",
        "loop.early",
        "loop.has_inside",
        "loop.inside",
        "loop.interrupted",
        "loop.over",
    },  # classes of this file
    "attach/finish.py": {"os._exit"},  # ends a process at once: the verdict is printed before
    "attach/hooks.py": {
        "backward.queued",
        "current.index",
        "object.__setattr__(target, name, value)",
    },  # `Pass` and `Backward`, without a call; marks of loaders
    "attach/script.py": {
        "sys.argv",
        "sys.excepthook",
        "value.__traceback__",
    },  # as the interpreter sets them for a script
    "attach/wrapping.py": {"setattr(cls, name, functools.wraps(original)(make(original)))"},  # the hooks
    "cli/main.py": {"sys.argv"},  # Hydra reads it
    "device/emulated.py": {"self._chosen.stream"},  # of this thread
    "lines/control.py": {"loader.worker_init_fn"},  # for the start of its workers: it is read only then
    "loaders/header.py": {"Image.MAX_IMAGE_PIXELS"},  # Pillow's limit has no other interface
    "loaders/nesting.py": {"object.__setattr__(clone, key, part)"},  # a copy of a dataclass, which may be frozen
    "loaders/native.py": {"self._requests.epoch"},  # a class of this file
    "probes/ceiling.py": {"deadline.steps"},  # a class of this file
    "training/state.py": {"parameter.grad"},  # torch's own way to drop a gradient
    "runs/prepare.py": {"torch.backends.cudnn.benchmark"},  # torch's own switch
    "system/streams.py": {"sys.stderr"},  # replaced by /dev/null if it is closed
    "trace/collect.py": {"trace.graph_launches", "trace.negative"},  # a class of this file
    "training/loop.py": {
        "progress.epoch",
        "progress.updates",
        "progress.step",
        "progress.validation",
    },  # the state that it advances
    "training/models.py": {"setattr(module, name, buffer)"},  # torch's own way to set a buffer
    "training/precision.py": {"torch.backends.cudnn.allow_tf32"},  # torch's own switch
}
FILES = sorted(PACKAGE.rglob("*.py"))
REFUSAL = re.compile(r"[\w.{}]+=[^:]*: .*\bType( for example)?[: ]", re.DOTALL)
HAND_BUILT_REFUSALS = {
    "config/base.py",
}  # base.py builds the refusals of all other files


def imports(path: Path) -> list[str]:
    """Every module that a file imports, except for imports that only serve type checking."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    modules: list[str] = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "loaderlab" else [node.module]
            )
    return modules


def subpackage(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rank(name: str) -> int:
    return next(index for index, names in enumerate(ORDER) if name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_subpackage_imports_only_from_those_above_it(path: Path) -> None:
    own = subpackage(path)
    for module in imports(path):
        assert not module.startswith("experiments"), "no module may import the commands"
        if module == "loaderlab.__version__":
            continue
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


OWN_ERRORS = {
    "UserError",
    "DataError",
    "Failed",
    "BatchOfOne",
    "TrialFailed",
    "CannotStart",
}  # their texts are lines that were written for the user


def texts_of_errors(source: str) -> list[str]:
    """Where a handler takes the text of an error without `loaderlab.system.causes`."""
    problems = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ExceptHandler) or node.name is None or node.type is None:
            continue
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        if {ast.unparse(kind) for kind in kinds} <= OWN_ERRORS:
            continue
        for inner in ast.walk(node):
            shown = inner.value if isinstance(inner, ast.FormattedValue) else None
            if isinstance(inner, ast.Call) and ast.unparse(inner.func) == "str" and inner.args:
                shown = inner.args[0]
            if isinstance(shown, ast.Name) and shown.id == node.name:
                problems.append(ast.unparse(inner))
    return problems


def test_an_error_becomes_a_line_in_one_place() -> None:
    """`loaderlab.system.causes` keeps the last line of the innermost cause; the first line of an error may say nothing."""
    assert len(texts_of_errors("try: x\nexcept OSError as error: print(f'{error}', str(error))")) == 2
    for path in FILES:
        assert texts_of_errors(path.read_text()) == [], path


def test_files_are_renamed_in_one_place() -> None:
    """A file or folder that replaces another must be complete, even if the writing is interrupted."""
    sources = [*FILES, *(ROOT / "benchmarks").rglob("*.py")]
    renaming = [path.name for path in sources if re.search(r"os\.(replace|rename)\(|\.rename\(", path.read_text())]
    assert renaming == ["files.py"]


BINARY = {"os.open", "Image.open", "tarfile.open", "gzip.open"}


def calls_without_encoding(source: str) -> list[str]:
    """The calls that read or write text in the locale's encoding."""
    calls = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        function = ast.unparse(node.func)
        values = [*node.args, *(word.value for word in node.keywords if word.arg == "mode")]
        modes = [str(value.value) for value in values if isinstance(value, ast.Constant)]
        name = function.rpartition(".")[2]
        opens = name in ("open", "fdopen") and function not in BINARY and not any("b" in mode[:3] for mode in modes)
        decodes = any(word.arg in ("text", "universal_newlines") for word in node.keywords) and "subprocess" in function
        if (name in ("read_text", "write_text") and function != "write_text") or opens or decodes:
            calls.append(ast.unparse(node))
    return calls


@pytest.mark.parametrize("folder", ["src", "experiments", "benchmarks"])
def test_text_is_read_and_written_in_a_named_encoding(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        calls = calls_without_encoding(path.read_text(encoding="utf-8"))
        assert not calls, f"{path.name}: {calls[0]} depends on the locale: add encoding='utf-8'"


def test_text_in_the_encoding_of_the_locale_is_recognised() -> None:
    bad = "p.read_text(); p.write_text(t); open(p, 'w'); p.open(); subprocess.run(c, text=True)"
    assert len(calls_without_encoding(bad)) == 5
    good = "p.read_text(encoding='utf-8'); open(p, 'wb'); p.open('rb'); Image.open(p); write_text(p, t); os.open(p, 0)"
    assert calls_without_encoding(good) == []


def own_names(tree: ast.Module) -> set[str]:
    """The names that a file defines, including attributes of its classes."""
    names = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return names | {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    }


def private_names(source: str) -> set[str]:
    """The private attributes of other files and packages that a file uses."""
    tree = ast.parse(source)
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {
        str(node.args[1].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and isinstance(node.args[1], ast.Constant)
    }
    used |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    return {name for name in used - own_names(tree) if name.startswith("_") and not name.startswith("__")}


def test_private_names_of_other_packages_are_used_in_few_places() -> None:
    used = {path.relative_to(PACKAGE).as_posix(): private_names(path.read_text()) - {"_exit"} for path in FILES}
    assert {name: names for name, names in used.items() if names} == PRIVATE


def test_a_private_name_is_recognised() -> None:
    assert private_names("loader._iterator; getattr(sys, '_is_gil_enabled')") == {"_iterator", "_is_gil_enabled"}
    assert private_names("from torch import _C; self._own; store._own") == {"_C"}


def texts(path: Path) -> list[str]:
    """Every string of a file; an f-string's values become {}."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.JoinedStr, ast.Constant))]
    parts = [node.values if isinstance(node, ast.JoinedStr) else [node] for node in nodes]
    return [
        "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in together) for together in parts
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_refused_settings_have_one_form(path: Path) -> None:
    refusals = [text for text in texts(path) if REFUSAL.match(text)]
    if path.relative_to(PACKAGE).as_posix() not in HAND_BUILT_REFUSALS:
        assert not refusals, "use config.base.refuse"


def test_a_hand_built_refusal_is_recognised(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text('UserError(f"loader.{name}={value}: is too much. " "Type for example: loader.x=1")')
    assert REFUSAL.match(texts(source)[0])
    source.write_text('UserError("data=custom: no classes. Type data.num_classes=10")')
    assert REFUSAL.match(texts(source)[0])


def written_attributes(path: Path) -> set[str]:
    """The attributes that a file assigns to or deletes, except those of ``self`` and ``cls``; an index is left out."""
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
    written = written_attributes(path)
    assert written == WRITES.get(name, set()), f"{name} assigns to {sorted(written)}: return a frozen result instead"


def test_a_written_attribute_is_detected(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(
        "self.a = cls.b = 1\narm.c = 1\narm.d += 1\narms[0].e: int = 1\nself.f.g, h = 1, 2\ndel arm.i\n"
        "setattr(arm, 'j', 1)\nprint(arm.k)\n"
    )
    assert written_attributes(file) == {"arm.c", "arm.d", "arms[].e", "self.f.g", "arm.i", "setattr(arm, 'j', 1)"}


@pytest.mark.parametrize("folder", ["compare", "report", "diagnosis"])
def test_diagnosis_and_report_name_no_loader_and_no_device(folder: str) -> None:
    names = {"native", "dali", "spdl", "replay", "resident", "cpu", "cuda"}
    for path in sorted((PACKAGE / folder).glob("*.py")):
        if path.name == "ladder.py":  # its rungs are choices of the configuration
            continue
        named = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)} & names
        assert not named, f"{path.name} names {named}: add a property to RunRecord"


def test_only_the_device_package_asks_for_a_type_of_device() -> None:
    for path in FILES:
        folder = path.relative_to(PACKAGE).parts[0]
        if folder in ("device", "config", "tracking"):  # tracking reads the recorded tag
            continue
        compared = {
            node.value
            for compare in ast.walk(ast.parse(path.read_text()))
            if isinstance(compare, ast.Compare)
            for node in ast.walk(compare)
            if isinstance(node, ast.Constant)
        }
        assert not compared & {"cuda", "emulated"}, f"{path} asks for the type of a device: ask for a capability"


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
    code = "import sys, loaderlab.runs.sweep, loaderlab.runs.sweep_runner, loaderlab.runs.launch, loaderlab.tracking.store, loaderlab.system.terminal, loaderlab.tuning.suite_command; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr


WATCHED = """
import sys
import numpy, psutil, rich.console, rich.progress, rich.table, scipy.special, torch, torch.utils.data
before = set(sys.modules)
from loaderlab import watch
with watch("cpu") as meter:
    for _ in meter.batches(range(20)):
        meter.step(num_samples=1)
str(meter.verdict()), meter.figures()
loaded = set(sys.modules) - before
print(*sorted({name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"torch"}))
print(*sorted({name.split(".")[1] for name in loaded if name.startswith("loaderlab.")}))
"""


def test_a_watched_loop_loads_no_trainer_and_no_store() -> None:
    """Without a record, it needs only torch, numpy, scipy, psutil and rich, and the subpackages before it."""
    done = subprocess.run([sys.executable, "-c", WATCHED], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    packages, subpackages = done.stdout.splitlines()
    assert packages == "loaderlab"
    allowed = {"attach", "config", "device", "diagnosis", "lines", "loaders", "meter", "metrics", "system"}
    assert set(subpackages.split()) <= allowed


TUNED = """
import sys
import loaderlab
try:
    loaderlab.tune([], print, device="cpu")
except ValueError as error:
    assert "cannot be built" in str(error)
print(*sorted({"hydra", "omegaconf", "mlflow", "matplotlib", "loaderlab.training", "loaderlab.tracking", "loaderlab.runs"} & set(sys.modules)))
"""


def test_the_tuner_of_a_users_loop_loads_no_trainer_and_no_store() -> None:
    done = subprocess.run([sys.executable, "-c", TUNED], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_code_map_is_current() -> None:
    from tests.code_map import markdown

    assert (ROOT / "docs" / "code_map.md").read_text(encoding="utf-8") == markdown(), "python -m tests.code_map"
