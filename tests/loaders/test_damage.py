"""What each decoder does with damaged files is what docs/loaders.md says."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from loaderlab import data, loaders
from loaderlab.config import PROJECT, DaliLoader, ImageFolderData, LoaderConfig, NativeLoader, TransformConfig
from loaderlab.data.spec import DataError
from loaderlab.device.cpu import Cpu
from loaderlab.device.cuda import Cuda
from loaderlab.loaders.contract import EpochPlan
from tests.loaders.damage import (
    DALI_CPU,
    DALI_MIXED,
    DAMAGED,
    DECODED,
    DECODERS,
    EITHER,
    EXPECTED,
    FILES,
    HOST,
    JPEG,
    REFUSED,
    expectation,
)

LOADERS: list[tuple[LoaderConfig, str]] = [
    (NativeLoader(num_workers=0), HOST),
    (NativeLoader(num_workers=0, decoder="pillow"), HOST),
    (DaliLoader(num_threads=1, decode="cpu"), DALI_CPU),
]
ON_CUDA = pytest.param(DaliLoader(num_threads=1, decode="mixed"), DALI_MIXED, id="dali mixed", marks=pytest.mark.gpu)


def outcome(config: LoaderConfig, content: bytes, folder: Path) -> str:
    """Whether a file with this content is decoded, in a batch with a good one, or refused by its name."""
    ending = "png" if content[1:4] == b"PNG" else "jpg"
    (folder / "a").mkdir()
    (folder / "a" / f"damaged.{ending}").write_bytes(content)
    (folder / "a" / "good.jpg").write_bytes(JPEG)
    transform = TransformConfig(image_size=24, train_crop="center", flip=0.0)
    split = data.build(ImageFolderData(root=str(folder), val_fraction=0.0, transform=transform), lambda *_: None).train
    device = Cuda() if getattr(config, "decode", "cpu") == "mixed" else Cpu()
    with contextlib.closing(loaders.build(config, split, EpochPlan(2, 2, False, False), device)) as loader:
        try:
            (batch,) = loader.epoch(0)
        except DataError as error:
            return REFUSED if "damaged." in str(error) else f"another error: {error}"
        assert loader.transfer(batch).inputs.shape == (2, 3, 24, 24)
        return DECODED


@pytest.mark.parametrize(("damage", "name"), FILES)
@pytest.mark.parametrize(("config", "decoder"), [*LOADERS, ON_CUDA])
def test_a_decoder_does_what_is_expected(
    config: LoaderConfig, decoder: str, damage: str, name: str, tmp_path: Path
) -> None:
    assert expectation(damage, decoder) in (outcome(config, DAMAGED[damage][name], tmp_path), EITHER)


def test_the_page_has_the_same_table() -> None:
    page = (PROJECT / "docs" / "loaders.md").read_text(encoding="utf-8")
    assert f"| damage | {' | '.join(DECODERS)} |" in page
    for damage, expected in EXPECTED.items():
        assert f"| {damage} | {' | '.join(expected)} |" in page


def test_every_damage_has_an_expectation_and_only_a_gpu_may_choose() -> None:
    assert DAMAGED.keys() == EXPECTED.keys()
    for host, dali_cpu, _ in EXPECTED.values():
        assert EITHER not in (host, dali_cpu)
