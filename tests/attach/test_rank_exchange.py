"""How the results of ranks reach the first one: a real store as torchrun's agent has it, and what happens without it."""

from __future__ import annotations

import threading

import pytest
from torch._C._distributed_c10d import PrefixStore, TCPStore

from loaderlab.attach import rank_exchange
from loaderlab.attach.events import Events, Program
from loaderlab.attach.publish import MOST_LINES, Publisher
from loaderlab.attach.rank_exchange import NO_STORE, joined
from loaderlab.attach.rank_results import SILENT
from loaderlab.attach.reading import read_events
from tests.attach.test_rank_results import fed, readings, starved


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    for name, value in {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_exchange, "_numbers", {})
    return store


def as_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next exchange of this process is the first one, as in another process of the same job."""
    monkeypatch.setattr(rank_exchange, "_numbers", {})


def test_the_first_rank_gets_the_results_of_all(store: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = readings(fed, starved, fed)
    for other in others:
        assert joined(other) is other
        as_another_process(monkeypatch)
    ranks = joined(first).ranks
    assert ranks is not None
    assert ranks.verdict.straggler is not None
    assert (ranks.verdict.straggler.rank, ranks.verdict.unmeasured, ranks.notes) == (1, (), [])


def test_each_training_of_a_process_has_its_own_results(store: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for slow in (starved, fed):
        joined(readings(fed, slow)[1])
    as_another_process(monkeypatch)
    stragglers = []
    for _ in range(2):
        ranks = joined(readings(fed, fed)[0]).ranks
        assert ranks is not None
        stragglers.append(ranks.verdict.straggler)
    assert stragglers[0] is not None
    assert stragglers[1] is None


def test_a_rank_that_never_sends_does_not_hang_the_first(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rank_exchange, "WAIT_S", 1.0)
    monkeypatch.setattr(rank_exchange, "SILENT_S", 0.05)
    ranks = joined(readings(fed, fed)[0]).ranks
    assert ranks is not None
    assert ranks.notes == [f"rank 1: {SILENT}"]
    assert capsys.readouterr().err.count("waiting for the results of the other ranks") == 1


def test_a_process_that_is_asked_to_end_does_not_wait_long(store: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_exchange, "HURRY_S", 0.1)
    asked = threading.Event()
    threading.Timer(0.2, asked.set).start()
    ranks = joined(readings(fed, fed)[0], hurry=asked.is_set).ranks
    assert asked.is_set()
    assert ranks is not None
    assert ranks.verdict.unmeasured == (1,)


def test_a_rank_without_a_step_says_so(store: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    joined(read_events(Events(Program())))
    as_another_process(monkeypatch)
    ranks = joined(readings(fed, fed)[0]).ranks
    assert ranks is not None
    assert ranks.notes == [f"rank 1: {rank_exchange.NO_STEP}"]


def test_a_result_of_another_version_is_no_result(store: TCPStore) -> None:
    other = PrefixStore("loaderlab/0//0", store)
    other.set("1", "not a result")
    other.add("sent", 1)
    ranks = joined(readings(fed, fed)[0]).ranks
    assert ranks is not None
    assert ranks.verdict.unmeasured == (1,)


def test_a_store_that_has_ended_is_reported_by_the_first_rank_only(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_PORT", "9")
    monkeypatch.setattr(rank_exchange, "CONNECT_S", 0.2)
    first, second = readings(fed, fed)
    assert joined(second) is second
    ranks = joined(first).ranks
    assert ranks is not None
    assert "cannot be reached" in ranks.reason


def test_without_torchrun_each_rank_has_its_own_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    first, second = readings(starved, fed)
    assert joined(second) is second
    reading = joined(first)
    assert reading.ranks is not None
    assert NO_STORE in reading.ranks.notes[0]
    assert reading.job is first.job


def test_a_program_without_other_ranks_has_no_verdict_by_rank(store: TCPStore) -> None:
    (alone,) = readings(starved)
    assert joined(alone) is alone


def test_only_the_first_ranks_print_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    reading = readings(fed, starved)[1]
    for rank in range(1, 20):
        Publisher("train.py", rank).publish(reading)
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == MOST_LINES - 1
    assert printed[0].startswith("loaderlab: train.py, rank 1: starved of data ")
