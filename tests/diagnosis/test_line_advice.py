"""Advice and metrics from hand-made profiles of a loader's lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from loaderlab import metrics
from loaderlab.diagnosis.evidence import Evidence
from loaderlab.diagnosis.line_advice import advice_by_lines
from loaderlab.diagnosis.line_figures import IDLE, NO_WAITS, Wait, line_figures
from loaderlab.diagnosis.line_figures import line_record as profile_of
from loaderlab.diagnosis.verdict import judge
from loaderlab.lines.shares import LEAST_BUSY_S
from loaderlab.lines.stacks import Recording
from tests.diagnosis.profiled_lines import Spent, line_record
from tests.diagnosis.test_verdict import FED, SETUP, STARVED

REST = "return image, label"  # a line without advice


@pytest.mark.parametrize(
    ("line", "owner", "text"),
    [
        ("ids = self.tokenizer(text, truncation=True)", "", "tokenise the texts once"),
        ("ids = tok.encode(text)", "", "tokenise the texts once"),
        ("ids = self.tokenizer.encode_plus(text)", "", "tokenise the texts once"),
        ("ids = tokenize_all(texts)", "", "tokenise the texts once"),
        ("with h5py.File(self.path) as file:", "", "open the file once in each worker"),
        ("with open(self.paths[index], 'rb') as file:", "", "open the file once in each worker"),
        ("row = np.load(self.path)[index]", "", "open the file once in each worker"),
        ("image = pixels.astype(np.float32) / 255", "", "send bytes (uint8)"),
        ("image = torch.from_numpy(pixels).float()", "", "send bytes (uint8)"),
        ("return tensor.sub(self.mean).div(self.std)", "Normalize", "send bytes (uint8)"),
        ("pixels = np.asarray(self.frames[index])", "", "avoid this copy"),
        ("window = self.series[start:end].copy()", "", "avoid this copy"),
        ("field = gaussian_filter(noise, 4)", "ElasticDeform", "apply this to whole batches on the device"),
    ],
)
def test_each_costly_kind_of_line_gets_its_advice_with_the_gain(
    line: str, owner: str, text: str, tmp_path: Path
) -> None:
    lines = line_record(tmp_path, {line: Spent(3.0, owner), REST: 1.0}).lines(STARVED)
    assert lines is not None
    (advice,) = advice_by_lines(lines, SETUP)
    assert advice.text.startswith("data.py:1 ")
    assert text in advice.text
    assert advice.at_most
    assert advice.gain_x == pytest.approx(2.0)  # the loader would make 4x; the device can take 2x


@pytest.mark.parametrize(
    "line",
    [
        "image = self.images[index]",
        "time.sleep(0.002)",
        "text = text.encode()",
        "self.lock.acquire()",
        "total = sum(value * value for value in row)",
        "reopened(path)",
        "ids = self.tokenized[index]",
        "batch = self.tokenizer.pad(rows)",
    ],
)
def test_other_lines_get_none(line: str, tmp_path: Path) -> None:
    lines = line_record(tmp_path, {line: 3.0, REST: 1.0}).lines(STARVED)
    assert lines is not None
    assert advice_by_lines(lines, SETUP) == []


@pytest.mark.parametrize(("file", "is_given"), [("tokenized_dataset.py", False), ("bpe_tokenizer.py", True)])
def test_the_name_of_a_tokenisers_file_counts(file: str, is_given: bool, tmp_path: Path) -> None:
    lines = line_record(tmp_path, {"total += merges[pair]": 3.0}).lines(STARVED)
    assert lines is not None
    lines = replace(lines, lines=(replace(lines.top, line=replace(lines.top.line, file=str(tmp_path / file))),))
    assert bool(advice_by_lines(lines, SETUP)) == is_given


def test_lines_of_one_kind_are_added_up_and_the_largest_gain_comes_first(tmp_path: Path) -> None:
    spent = {"a = np.array(row)": 0.5, "b = b.copy()": 0.5, "f = open(path)": 2.0, REST: 1.0}
    lines = line_record(tmp_path, dict(spent)).lines(replace(STARVED, ceiling=5000.0))
    assert lines is not None
    opened, copied = advice_by_lines(lines, SETUP)
    assert "data.py:3 __getitem__: open the file" in opened.text
    assert opened.gain_x == pytest.approx(2.0)
    assert "and 1 more line: avoid this copy" in copied.text
    assert copied.gain_x == pytest.approx(4 / 3)


def test_without_workers_only_the_wait_shrinks(tmp_path: Path) -> None:
    lines = line_record(tmp_path, {"f = open(path)": 1.0, REST: 1.0}, num_workers=0).lines(STARVED)
    assert lines is not None
    (advice,) = advice_by_lines(lines, SETUP)
    assert advice.gain_x == pytest.approx(1 / (1 - 0.5 * 0.5))


def test_without_workers_an_asynchronous_device_works_during_a_part_of_the_wait(tmp_path: Path) -> None:
    """The step takes as long as the loader, 98 % of it; the device is done after a quarter of that."""
    evidence = replace(STARVED, wait_pct=98, starved_pct=75, ceiling=None)
    lines = line_record(tmp_path, {"f = open(path)": 1.0, REST: 1.0}, num_workers=0).lines(evidence)
    assert lines is not None
    assert lines.gain(lines.top).run_x == pytest.approx(1 / (1 - 0.98 * 0.5))
    assert lines.gain(lines.top).device_x == pytest.approx(4)
    fed = line_record(tmp_path, {REST: 1.0}, num_workers=0).lines(replace(evidence, starved_pct=1))
    assert fed is not None
    assert fed.is_free


@pytest.mark.parametrize(("others", "cores", "is_given"), [(3.0, 4, True), (0.1, 2, False), (3.0, 64, False)])
def test_thread_pools_in_workers_are_named_if_they_exceed_the_cores(
    others: float, cores: int, is_given: bool, tmp_path: Path
) -> None:
    record = line_record(tmp_path, {"image = cv2.warpAffine(image, m, size)": Spent(4.0, others=others)})
    lines = record.lines(STARVED)
    assert lines is not None
    texts = [advice.text for advice in advice_by_lines(lines, replace(SETUP, cores=cores))]
    assert bool(texts) == is_given
    if is_given:
        assert "use 3.0 cores more, and there are 4: cv2.setNumThreads(0)" in texts[0]


def test_a_line_that_nothing_waits_for_is_free_and_gets_no_advice(tmp_path: Path) -> None:
    record = line_record(tmp_path, {"f = open(path)": 3.0, REST: 1.0}, waited=False)
    evidence = replace(FED, lines=record.lines(FED))
    verdict = judge(evidence, SETUP)
    assert "is free: the training does not wait for it" in verdict.slow_line
    assert not any("open the file" in text for text in verdict.to_try)
    assert line_figures(evidence.lines)[metrics.LINES_EXPOSED_PCT] == 0
    assert line_figures(evidence.lines)[metrics.LINES_RUN_X] < 1.1


def test_the_verdict_names_the_line_next_to_its_grade(tmp_path: Path) -> None:
    evidence = replace(STARVED, lines=line_record(tmp_path, {"f = open(path)": 3.0, REST: 1.0}).lines(STARVED))
    verdict = judge(evidence, SETUP)
    assert verdict.grade == "starved"
    assert "75 % of the workers' time is data.py:1 __getitem__" in verdict.tags()["slow_line"]
    assert f"Slow line: {verdict.slow_line}." in str(verdict)
    assert "open the file once" in verdict.to_try[0]
    assert judge(STARVED, SETUP).slow_line == ""


def test_the_metrics_of_a_profile(tmp_path: Path) -> None:
    figures = line_figures(line_record(tmp_path, {"f = open(path)": 3.0, REST: 1.0}).lines(STARVED))
    assert figures == pytest.approx(
        {
            metrics.LINES_SHARE_PCT: 75,
            metrics.LINES_EXPOSED_PCT: 75,
            metrics.LINES_BUSY_PCT: 100,
            metrics.LINES_LOADER_X: 4,
            metrics.LINES_RUN_X: 2,
            metrics.LINES_COST_PCT: 2,
        }
    )
    assert line_figures(None) == {}


def test_a_profile_without_a_result_says_why(tmp_path: Path) -> None:
    evidence = Evidence(100, 50, 50)
    short = line_record(tmp_path, {REST: LEAST_BUSY_S / 2})
    assert (short.lines(evidence), short.problem(None)) == (None, IDLE)
    broken = replace(short, recording=Recording(problem="SIGPROF is in use"))
    assert (broken.lines(evidence), broken.problem(None)) == (None, "SIGPROF is in use")
    assert broken.profiled(evidence).sentence == "no slow line: SIGPROF is in use"


def test_a_wait_counts_from_the_moment_when_the_device_has_no_more_work() -> None:
    waits = [Wait(0, 10, 4), Wait(20, 30, 0), Wait(40, 50, 90), Wait(60, 70)]
    assert profile_of(Recording(), waits, 2).waits == [(6, 10), (40, 50), (60, 70)]
    assert profile_of(Recording(), waits, 0).waits == [(0, 10), (20, 30), (40, 50), (60, 70)]  # loading delays the step


def test_a_profile_with_a_single_wait_says_nothing() -> None:
    assert profile_of(Recording(), [Wait(0, 10)], 1).problem(None) == NO_WAITS
    assert profile_of(Recording(problem="not begun"), [], 1).problem(None) == "not begun"


def test_if_too_few_steps_were_measured_the_profiled_ones_count(tmp_path: Path) -> None:
    record = line_record(tmp_path, {"f = open(path)": 3.0, REST: 1.0})
    second = 10**9
    record = replace(record, waits=[(0, second), (2 * second, 3 * second), (4 * second, 4 * second)])
    lines = record.lines(Evidence(3, 90, 90))
    assert lines is not None
    assert lines.waits_pct == pytest.approx(50)
