"""The length of the measured window while the loop runs, on a fake clock."""

from loaderlab.meter.measured_time import MeasuredTime


def test_it_counts_the_steps_that_the_summary_measures() -> None:
    """Two epochs of 4 steps, 1 s each, with 10 s between the epochs: 2 steps of warm-up, the first step of an epoch is left out."""
    now = iter([1.0, 2.0, 3.0, 4.0, 15.0, 16.0, 17.0, 18.0])
    measured = MeasuredTime(2, 1, clock=lambda: next(now))
    counts = []
    for total in range(1, 9):
        measured.end_step(total, (total - 1) % 4 + 1, disturbed=total == 8)
        counts.append((measured.num_steps, measured.seconds))
    assert counts == [(0, 0.0), (0, 0.0), (1, 1.0), (2, 2.0), (2, 2.0), (3, 3.0), (4, 4.0), (4, 4.0)]


def test_steps_of_a_ramp_are_left_out() -> None:
    now = iter(range(10))
    measured = MeasuredTime(0, 3, clock=lambda: float(next(now)))
    for position in range(1, 6):
        measured.end_step(position, position)
    assert (measured.num_steps, measured.seconds) == (2, 2.0)
