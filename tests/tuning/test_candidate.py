"""Candidates and their cost."""

from loaderlab.tuning.candidate import DALI, RESIDENT, SPDL, Branch, Candidate, cost


def test_titles_name_what_differs() -> None:
    assert Candidate(makers=1, prefetch=2).title == "1 worker"
    assert Candidate(makers=2, prefetch=4).title == "2 workers, prefetch 4"
    assert Candidate(Branch(SPDL), 2, 3).title == "spdl, 2 threads, prefetch 3"
    also = Branch(also=(("loader.decoder", "pillow"),))
    assert Candidate(also, 0).title == "native with loader.decoder=pillow, 0 workers"
    assert Candidate(Branch("own"), 2).title == "2 workers"  # the only branch of a function's loader
    assert Candidate(Branch(RESIDENT)).title == "resident, samples on the device"


def test_makers_cost_more_than_bytes() -> None:
    one, two = Candidate(makers=1, prefetch=8), Candidate(makers=2, prefetch=2)
    assert cost(one, 10, 1000) == (1, 80)
    assert cost(one, 10, 1000) < cost(two, 10, 1000)
    assert cost(Candidate(Branch(RESIDENT)), 10, 1000) == (0, 1000)


def test_batches_ahead_of_each_backend() -> None:
    assert Candidate(makers=3, prefetch=2).batches_ahead == 6
    assert Candidate(Branch(SPDL), 2, 3).batches_ahead == 10
    assert Candidate(Branch(DALI), 4, 2).batches_ahead == 2
    assert Candidate(makers=0).batches_ahead == 0
