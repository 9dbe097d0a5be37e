"""A pytest plugin: with ``--cuda-double`` the tests that need a GPU run on the double instead of being skipped.

Without a GPU and without the option they are skipped. Those that need more than the double has are always skipped then, with
the reason in `IMPOSSIBLE`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from loaderlab.device.timeline import RealClock, VirtualClock

OPTION = "--cuda-double"
IMPOSSIBLE = {  # by the test's function
    "test_event_gaps_agree_with_a_trace_of_the_same_run": "PyTorch's profiler records kernels only of a real GPU",
    "test_a_real_trace_of_a_gpu": "PyTorch's profiler records kernels only of a real GPU",
    "test_a_copy_on_a_side_stream_hands_out_whole_batches": "it counts the retries of torch's own allocator",
    "test_a_rank_on_a_gpu_averages_its_gradients_with_nccl": "NCCL needs a real GPU",
    "test_a_gpu_decodes": "nvJPEG needs a real GPU",
    "test_the_metrics_of_a_real_device_agree": "NVML answers only for a real GPU",
}
PLANTED = {  # on a virtual clock: their sleeps take exactly the planted time, and they have no threads
    "test_work_in_flight_is_not_starved",
    "test_a_decode_on_a_side_stream_is_delivery",
    "test_the_synchronizing_meter_agrees_with_the_events",
    "test_device_times_of_a_known_sleep",
    "test_the_ring_returns_every_step_once_in_order",
    "test_three_lines_around_a_loop",
}
CALL_NS, KERNEL_NS = 2_000, 5_000  # on a virtual clock, host time of a call and device time of a kernel


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, action="store_true", help="run the tests marked gpu on a double of torch.cuda")


@pytest.fixture(autouse=True)
def double_for_gpu_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """The double in the place of `torch.cuda`, in a test that needs a GPU."""
    if not request.config.getoption(OPTION) or request.node.get_closest_marker("gpu") is None:
        yield
        return
    from tests.cuda_double.dali import dali_on  # not above: pytest must see the tests' modules first
    from tests.cuda_double.double import Double
    from tests.cuda_double.patches import installed

    planted = request.node.originalname in PLANTED
    double = Double(VirtualClock() if planted else RealClock())
    if planted:
        double.call_ns, double.cost = CALL_NS, lambda name: (0, KERNEL_NS)
    with installed(double), dali_on(double):
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    on_double = config.getoption(OPTION)
    if torch.cuda.is_available():
        if on_double:
            raise pytest.UsageError(f"{OPTION}: there is a real GPU here, so the tests run on it. Leave the option out")
        return
    for item in items:
        if item.get_closest_marker("gpu") is None:
            continue
        why = "needs a CUDA device, and torch finds none here"
        if on_double:
            why = IMPOSSIBLE.get(getattr(item, "originalname", item.name), "")
        if why:
            item.add_marker(pytest.mark.skip(reason=why))
