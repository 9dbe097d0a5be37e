"""The stage of a stack, and the line to which its time belongs."""

from __future__ import annotations

from pathlib import Path

import pytest

from loaderlab.lines.stacks import Frame
from loaderlab.lines.stages import in_loader, place_of
from loaderlab.system.source_places import OWN
from tests.lines.planted import COLLATES, FETCH, ITEMS, WAITS, WORKER, line_with

SOURCE = """\
image = Image.open(path)
data = open(path, "rb").read()
points = np.load(path)
image = self.transform(image)
total += value
tokens = tokenizer(text)
pixels = cv2.imread(path)
pass
"""
DATASETS = str(Path(FETCH).parents[1] / "dataset.py")
LIBRARY = str(Path(FETCH).parents[4] / "PIL" / "Image.py")  # in site-packages


@pytest.fixture
def user(tmp_path: Path) -> str:
    """A file of the user's."""
    path = tmp_path / "data.py"
    path.write_text(SOURCE, encoding="utf-8")
    return str(path)


def item(user: str, line: int, *inner: Frame) -> tuple[Frame, ...]:
    return (Frame(WORKER, 1, "_worker_loop"), ITEMS, Frame(user, line, "__getitem__"), *inner)


@pytest.mark.parametrize(
    ("line", "inner", "kind"),
    [
        (1, (Frame(LIBRARY, 1, "open"),), "decode"),
        (7, (), "decode"),
        (2, (), "read"),
        (3, (), "read"),
        (5, (), "dataset"),
        (6, (), "dataset"),
        (8, (Frame(LIBRARY, 1, "resize"), Frame(LIBRARY.replace("Image.py", "ImageFile.py"), 1, "load")), "decode"),
        (8, (Frame(LIBRARY, 1, "resize"),), "dataset"),
    ],
)
def test_work_below_getitem(user: str, line: int, inner: tuple[Frame, ...], kind: str) -> None:
    place = place_of(item(user, line, *inner))
    assert (place.stage.kind, place.line.line, place.line.function) == (kind, line, "__getitem__")
    assert place.line.text == SOURCE.splitlines()[line - 1]


def test_a_transform_is_named_by_the_class_of_the_called_object(user: str) -> None:
    compose = Frame("/site-packages/torchvision/transforms/transforms.py", 90, "__call__", "Compose")
    stack = item(user, 4, compose, Frame(user, 5, "__call__", "ElasticDeform"), Frame(user, 2, "load"))
    place = place_of(stack)
    assert (place.stage.kind, place.stage.name, place.line.line) == ("transform", "ElasticDeform", 2)


def test_a_transform_may_be_a_function(user: str) -> None:
    assert place_of(item(user, 4, Frame(user, 5, "augmented"))).stage.name == "augmented"


def test_collating_and_waiting(user: str) -> None:
    worker = Frame(WORKER, 1, "_worker_loop")
    assert place_of((worker, COLLATES, Frame(user, 5, "pad"))).stage.kind == "collate"
    assert place_of(WAITS).stage.kind == "waiting"
    assert place_of((worker, Frame("/lib/queues.py", 9, "put"))).stage.kind == "hand-over"
    assert place_of((Frame(user, 8, "<module>"),)).stage.kind == "waiting"  # the training itself, without workers


def test_a_comprehension_belongs_to_the_function_around_it(user: str) -> None:
    line = place_of(item(user, 5, Frame(user, 5, "<listcomp>"))).line
    assert (line.line, line.function) == (5, "__getitem__")


def test_without_user_code_the_line_is_that_of_the_package() -> None:
    place = place_of((Frame(WORKER, 1, "_worker_loop"), ITEMS, Frame(LIBRARY, 8, "load"), Frame(LIBRARY, 9, "inner")))
    assert (place.line.line, place.line.function) == (8, "load")


def test_the_frames_of_the_program_are_not_the_loaders(user: str) -> None:
    program = (Frame("train.py", 9, "<module>"), Frame("/x/loaderlab/attach/watch.py", 1, "batches"))
    forked = item(user, 4)
    assert in_loader((*program, *forked)) == forked
    assert in_loader((*program, Frame(user, 4, "__getitem__"))) == (program[1], Frame(user, 4, "__getitem__"))
    assert place_of((*program, *forked)) == place_of(forked)
    assert place_of((*program, *WAITS)).stage.kind == "waiting"


def test_a_text_is_not_decoded_like_an_image(tmp_path: Path) -> None:
    path = tmp_path / "data.py"
    path.write_text("text = raw.decode()\ntext = raw.decode('utf-8')\nimage = decode(raw)\nimage = self.decode(raw)\n")
    kinds = [place_of(item(str(path), line)).stage.kind for line in (1, 2, 3, 4)]
    assert kinds == ["dataset", "dataset", "decode", "decode"]


def test_only_a_call_decodes(tmp_path: Path) -> None:
    path = tmp_path / "data.py"
    lines = 'batch["decoder_input_ids"] = ids', "row = self.decoded[index]", "cv2.imdecode(raw, 1)", "self._decode(raw)"
    path.write_text("\n".join(lines) + "\n")
    kinds = [place_of(item(str(path), line)).stage.kind for line in (1, 2, 3, 4)]
    assert kinds == ["dataset", "dataset", "decode", "decode"]


def ours(file: str, function: str) -> Frame:
    """A frame of a file of this package's loaders."""
    return Frame(f"{OWN}loaders/{file}", 1, function)


SUBSET = Frame(DATASETS, line_with(DATASETS, "return [self.dataset[self.indices[idx]] for idx"), "__getitems__")
OF_ITEMS = (ours("fetch.py", "__getitems__"), ours("user_items.py", "build"), ours("user_items.py", "_items"))


@pytest.mark.parametrize(
    "callers",
    [
        (),
        (Frame(FETCH, ITEMS.line, "<listcomp>"),),
        (SUBSET,),
        (SUBSET, Frame(DATASETS, SUBSET.line, "<listcomp>")),
        (*OF_ITEMS, ours("user_items.py", "<listcomp>")),
    ],
    ids=["Python 3.12", "Python 3.11", "Subset", "Subset, Python 3.11", "suite"],
)
def test_without_user_code_the_line_is_the_datasets(callers: tuple[Frame, ...], tmp_path: Path) -> None:
    path = tmp_path / "site-packages" / "folder.py"
    path.parent.mkdir()
    path.write_text("sample = self.loader(path)\nsample = self.transform(sample)\n")
    crop = Frame(str(path.with_name("transforms.py")), 9, "forward", "RandomResizedCrop")
    inner = {1: Frame(str(path), 3, "pil_loader"), 2: crop}
    places = [
        place_of((WAITS[0], ITEMS, *callers, Frame(str(path), line, "__getitem__"), inner[line])) for line in (1, 2)
    ]
    assert [place.stage.name for place in places] == ["decode", "RandomResizedCrop"]
    assert [(place.line.line, place.line.function) for place in places] == [(1, "__getitem__"), (2, "__getitem__")]


IN_PROCESS = ours("native.py", "_fetched_in_process")


@pytest.mark.parametrize(
    ("stack", "kind"),
    [
        ((ITEMS, *OF_ITEMS[:2], ours("user_items.py", "collate_items"), ours("slot_writer.py", "stacked")), "collate"),
        ((IN_PROCESS, *OF_ITEMS[:2], ours("user_items.py", "collate_items")), "collate"),
        ((COLLATES, ours("worker.py", "as_sent"), ours("slot_writer.py", "message")), "hand-over"),
        ((ITEMS, ours("fetch.py", "_memory"), ours("slot_writer.py", "batch_memory")), "hand-over"),
        ((IN_PROCESS, ours("native.py", "_pinned"), ours("contract.py", "pin_memory")), "hand-over"),
        ((IN_PROCESS, ours("contract.py", "batches"), ours("contract.py", "ids")), "dataset"),
    ],
)
def test_collating_and_sending_in_the_suite(stack: tuple[Frame, ...], kind: str) -> None:
    assert place_of(stack).stage.kind == kind


def test_a_worker_of_another_package_waits_too() -> None:
    loop = Frame("/site-packages/torchdata/stateful_dataloader/worker.py", 190, "_worker_loop")
    assert place_of((loop, WAITS[1])).stage.kind == "waiting"
    assert in_loader((Frame("train.py", 9, "<module>"), loop, ITEMS)) == (loop, ITEMS)
