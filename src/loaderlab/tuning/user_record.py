"""The MLflow run of `loaderlab.tune(record=…)`: the chosen settings, the certificate and the page."""

from __future__ import annotations

import tempfile
from pathlib import Path

from loaderlab.config import TrackingConfig, store_root
from loaderlab.system.extras import require
from loaderlab.system.files import write_text
from loaderlab.tuning.answer import Answer
from loaderlab.tuning.answer_json import as_json


def prepared() -> None:
    """Checks that a run can be recorded.

    Raises:
        UserError: a package is missing, or the store cannot be opened.
    """
    require("tune(record=...)", "mlflow", "matplotlib", "filelock")
    from loaderlab.tracking import open_store

    open_store(TrackingConfig(), store_root())


def recorded(name: str, answer: Answer) -> None:
    """Records the answer as a run with this name.

    Raises:
        UserError: the store cannot be opened.
    """
    from loaderlab.tracking import open_store
    from loaderlab.tuning.tuned import html_of, lines_of

    lines = lines_of(answer)
    tags = {
        "arm": name,
        "mlflow.source.name": "loaderlab.tune",
        "tune.grade": answer.grade,
        "tune.chosen": lines[0].removeprefix("chosen: "),
        "tune.certificate": lines[1].removeprefix("certificate: "),
        "mlflow.note.content": "\n\n".join(lines),
    }
    store = open_store(TrackingConfig(), store_root())
    with store.start(name, None, tags) as tracked, tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder) / "tune.json", as_json(answer))
        write_text(Path(folder) / "tune.html", html_of(answer, name))
        tracked.artifacts(Path(folder))
