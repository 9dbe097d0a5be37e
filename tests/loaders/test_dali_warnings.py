"""DALI's warnings about CUDA libraries that no graph uses are ignored; its other warnings are not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from nvidia.dali import backend

from loaderlab.loaders import dali_graph


@pytest.fixture
def runtime_check(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Builds a pipeline whose build runs DALI's own runtime check with these versions, -1 if a library is missing."""

    def check(cuda: int, cufft: int, npp: int) -> None:
        monkeypatch.setattr(backend, "cuda_checked", False)  # it runs once in a process
        for name, version in (("Cuda", cuda), ("Cufft", cufft), ("Npp", npp)):
            monkeypatch.setattr(backend, f"Get{name}Version", lambda version=version: version)
        dali_graph.build(SimpleNamespace(build=backend.check_cuda_runtime))

    return check


@pytest.mark.parametrize(("cufft", "npp"), [(-1, -1), (-1, 12000), (11000, -1), (11000, 12000)])
def test_missing_libraries_that_are_not_used_are_no_warning(
    cufft: int, npp: int, runtime_check: Callable[..., None]
) -> None:
    runtime_check(13000, cufft, npp)
    assert backend.cuda_checked


def test_a_missing_gpu_is_still_a_warning(runtime_check: Callable[..., None]) -> None:
    with pytest.raises(Warning, match="GPU is not available"):
        runtime_check(-1, -1, -1)


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ("nvidia-dali-cuda120 is no longer supported", "nvidia.dali.backend"),
        ("nvidia-dali-cuda120 is no longer shipped with CUDA runtime. You need to install it separately. nvJPEG is", "nvidia.dali.backend"),
        ("nvidia-dali-cuda120 is no longer shipped with CUDA runtime. You need to install it separately. NPP is", "other"),
    ],
)  # fmt: skip
def test_other_warnings_are_not_ignored(text: str, module: str) -> None:
    def build() -> None:
        warnings.warn_explicit(text, Warning, "backend.py", 58, module=module)

    with pytest.raises(Warning, match="is no longer"):
        dali_graph.build(SimpleNamespace(build=build))


def test_the_filter_ends_with_the_build(monkeypatch: pytest.MonkeyPatch, runtime_check: Callable[..., None]) -> None:
    runtime_check(13000, -1, -1)
    monkeypatch.setattr(backend, "cuda_checked", False)
    with pytest.raises(Warning, match="cuFFT is typically"):
        backend.check_cuda_runtime()
