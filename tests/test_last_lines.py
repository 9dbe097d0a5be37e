"""Every message about another library's error contains the last line of the innermost cause."""

from __future__ import annotations

import gzip
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hydra.errors import HydraException, OverrideParseException
from hypothesis import given
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from loaderlab.cli.errors import explain
from loaderlab.config import DaliLoader, TrackingConfig, UserError
from loaderlab.data.spec import DataError, EncodedImages, Split, UserItems
from loaderlab.data.tarscan import scan
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import EpochPlan
from loaderlab.loaders.decode import why_unreadable
from loaderlab.trace.reader import events
from loaderlab.tracking import open_store
from loaderlab.tracking.store import Store, StoreError
from tests.system.test_causes import raised

CAUSE = OSError("the disk\ncaught fire")


FILES = mock.Mock(spec=EncodedImages)  # one sample whose bytes are not an image
FILES.read.return_value = np.ones(3, np.uint8)
FILES.name.return_value = "a.jpg"


def opened_gzip(error: Exception) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json.gz"
        path.write_bytes(gzip.compress(b"[]"))
        with mock.patch("gzip.open", side_effect=error), pytest.raises(UserError) as refused:
            list(events(path, lambda _: None))
    return str(refused.value)


def scanned_tar(error: Exception) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        path.write_bytes(bytes(1024))
        with mock.patch("tarfile.open", side_effect=error), pytest.raises(DataError) as refused:
            scan(str(path))
    return str(refused.value)


PLACES: dict[str, tuple[Callable[[str], Exception], Callable[[Exception], str]]] = {
    "hydra": (HydraException, lambda error: explain(error, "train", [])),
    "override": (lambda text: OverrideParseException("a=b", text), lambda error: explain(error, "train", [])),
    "gzip": (gzip.BadGzipFile, opened_gzip),
    "gzip, read": (lambda text: OSError(5, text), opened_gzip),
    "tar": (tarfile.ReadError, scanned_tar),
    "image": (RuntimeError, lambda error: why_unreadable(FILES, 0, error)),
    "image, read": (lambda text: OSError(5, text), lambda error: why_unreadable(FILES, 0, error)),
}


@given(st.sampled_from(sorted(PLACES)), st.lists(st.text(max_size=20), min_size=1, max_size=3))
def test_property_the_innermost_cause_is_in_the_message(place: str, texts: Sequence[str]) -> None:
    make, message = PLACES[place]
    causes = [ValueError(text) for text in texts]
    error = raised(*causes, make("outer"))
    assert isinstance(error, Exception)
    lines = [part.strip() for text in texts[:1] for part in text.splitlines() if part.strip()]
    assert "".join(lines[-1:]) in " ".join(message(error).split("\n"))


@pytest.fixture(scope="module")
def store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    return open_store(TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}", experiment="test"), folder)


DRIVER = sqlite3.OperationalError("database is locked")
STORE_ERRORS = {
    "mlflow": MlflowException("first\nlast"),
    "disk": OSError("first\nlast"),
    "driver": sqlite3.OperationalError("first\nlast"),
}


@pytest.mark.parametrize("kind", STORE_ERRORS)
def test_the_store_keeps_the_last_line_and_the_cause(kind: str, store: Store) -> None:
    with pytest.raises(StoreError) as refused, store.guarded():
        raise raised(CAUSE, STORE_ERRORS[kind])
    assert "first … last" in str(refused.value)
    assert "cause: OSError: the disk … caught fire" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_store_shows_the_drivers_error(store: Store) -> None:
    """SQLAlchemy adds lines with the statement and a link, and MLflow repeats them."""
    error = OperationalError("SELECT 1", {}, DRIVER)
    with (
        pytest.raises(StoreError, match="opened or written: database is locked\\. The store needs") as refused,
        store.guarded(),
    ):
        raise raised(DRIVER, error, MlflowException(str(error)))
    assert "SELECT" not in str(refused.value)


def test_a_filter_that_mlflow_does_not_understand_keeps_the_cause(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*_: Any, **__: Any) -> None:
        raise raised(CAUSE, MlflowException("first\nlast", error_code=1000))  # INVALID_PARAMETER_VALUE

    monkeypatch.setattr(store.client, "search_runs", search)
    with pytest.raises(
        UserError, match=r"understand it: .*first … last; cause: OSError: the disk … caught fire\. Type"
    ):
        store.runs("a filter")


class Failing:
    """A dataset with an item that fails with a chain of two errors."""

    classes = ("a", "b")

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == 5:
            raise raised(CAUSE, KeyError("no\nsample"))
        return torch.zeros(2), 0


def test_dali_keeps_the_cause_of_a_dataset_that_fails() -> None:
    pytest.importorskip("nvidia.dali")
    from loaderlab.loaders.dali import Dali

    split = Split(UserItems(Failing(), False, None, None, 2))
    loader = Dali(DaliLoader(num_threads=1), split, EpochPlan(8, 2, False, False), Cpu())
    with pytest.raises(DataError, match="caught fire") as error:
        list(loader.epoch(0))
    assert "\n" not in str(error.value)
    # for some errors DALI passes on only the text; the dataset's own error is raised then
    with pytest.raises(DataError) as second_error:
        loader._handle_failure(RuntimeError("Critical error in pipeline:\nDataError: a part of it\nAt:"))
    assert second_error.value is error.value
    loader.close()
