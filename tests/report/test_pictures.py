"""Drawing does not change matplotlib's global state, and pictures of emulated runs are marked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from loaderlab.device.step_times import DeviceStep
from loaderlab.meter.step import Step
from loaderlab.report import step_picture

IMPORT = """
import sys, warnings
import matplotlib
BACKEND = dict.__getitem__(matplotlib.rcParams, "backend")  # any other way to read it would choose a backend
BEFORE = matplotlib.rcParams.copy()

def check():
    assert dict.__getitem__(matplotlib.rcParams, "backend") is BACKEND, "another backend"
    changed = [name for name in BEFORE if name != "backend" and matplotlib.rcParams[name] != BEFORE[name]]
    assert not changed, changed
    assert "matplotlib.pyplot" not in sys.modules, "pyplot"

from loaderlab.report import charts, step_picture
check()
"""
DRAW = """
import tempfile
from pathlib import Path
from loaderlab.compare.comparison import compare
from tests.records import arms
with tempfile.TemporaryDirectory() as folder:
    step_picture.breakdown(Path(folder) / "breakdown.png", "a run", {"time/wait_ms": 1.0}, [])
    drawn = charts.draw(compare("two", arms({"native": [100], "dali": [200]})), lambda _: None, Path(folder), "main.png")
    assert len(drawn) == 3
    assert len(list(Path(folder).glob("*.png"))) == 5
check()
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_importing_does_not_change_matplotlibs_settings() -> None:
    run(IMPORT)


def test_drawing_does_not_change_matplotlibs_settings() -> None:
    run(IMPORT + DRAW)


@pytest.mark.parametrize("emulated", [True, False])
def test_the_legend_of_an_emulated_run_is_marked(
    emulated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    step = Step(0, 0, 0, 1, (1, 1, 1, 1, 1), device=DeviceStep(0.0, 0.0, 1.0, 1.0, 1.0, 0.0))
    step_picture.breakdown(tmp_path / "breakdown.png", "a run", {}, [step] * 3, emulated=emulated)
    legend = figures[0].axes[1].get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[-1] == ("emulated device starved" if emulated else "device starved")
