"""Pictures made of noise that cost what photographs cost: coloured textures with a 1/f spectrum, in focus here and out of
focus there, cut by contours, at the bytes per pixel of ImageNet's files."""

from __future__ import annotations

import io
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from PIL import Image

from loaderlab.data.spec import FLOAT32

Generator = np.random.Generator
Plane = npt.NDArray[np.floating]

QUALITY = 95  # as most of ImageNet's files have it or more
SIDE_PX = 1024  # of a texture, which continues over its edges
SLOPES = {"fine": 0.8, "rough": 1.2, "smooth": 2.0}  # amplitude as frequency ** -slope; photographs have about 1
LAYOUT = 4  # a class has a coarse layout of its own: this many colours down and across
DETAIL, DETAIL_SPREAD = (
    16.3,
    0.75,
)  # of the fine texture: median, and deviation of its logarithm; set for `BYTES_PER_PX`
BYTES_PER_PX = 0.59  # over many files of any size: 110 kB of 500x375
SHAPES = (  # share of the files, width and height by those of most
    (0.55, (1.0, 1.0), False),
    (0.18, (1.0, 1.0), True),  # upright
    (0.09, (1.0, 0.89), False),
    (0.04, (1.0, 0.89), True),
    (0.06, (0.8, 1.07), False),
    (0.05, (1.28, 1.28), False),
    (0.03, (0.64, 0.64), False),
)
MEAN_AREA = sum(share * width * height for share, (width, height), _ in SHAPES)


class Painter:
    """Makes the picture of any index, the same in every process.

    Args:
        seed: of the whole set.
        width_px, height_px: of most pictures; the others vary about it as ImageNet's do, some of them upright.
    """

    def __init__(self, seed: int, width_px: int, height_px: int) -> None:
        self._seed, self._width_px, self._height_px = seed, width_px, height_px
        rng = np.random.default_rng([seed, 0])
        self._fine, self._rough, self._smooth = (texture(rng, slope) for slope in SLOPES.values())

    def jpeg(self, index: int, label: int) -> bytes:
        """A JPEG file, 4:2:0. Pictures of one label have coarse colours in common, all else differs by index."""
        shape_draw, detail_draw = spread(index)
        width, height = self._size(shape_draw)
        detail = DETAIL * np.exp(DETAIL_SPREAD * NormalDist().inv_cdf(detail_draw))
        layout = np.random.default_rng([self._seed, 1, label]).uniform(-1, 1, (3, LAYOUT, LAYOUT)).astype(np.float32)
        planes = self._planes(np.random.default_rng([self._seed, 2, index]), height, width, float(detail), layout)
        images = [Image.fromarray(plane.clip(0, 255).astype(np.uint8)) for plane in planes]
        out = io.BytesIO()
        Image.merge("YCbCr", images).save(out, "JPEG", quality=QUALITY, subsampling="4:2:0")
        return out.getvalue()

    def _size(self, draw: float) -> tuple[int, int]:
        ends = np.cumsum([share for share, _, _ in SHAPES])
        _, (width, height), upright = SHAPES[min(int(np.searchsorted(ends, draw, "right")), len(SHAPES) - 1)]
        size = round(width * self._width_px), round(height * self._height_px)
        return size[::-1] if upright else size

    def _planes(self, rng: Generator, height: int, width: int, detail: float, layout: FLOAT32) -> list[Plane]:
        """Luma (height, width) and both chromas, 0 to 255 and somewhat beyond."""
        shape = cut(rng, self._smooth, height, width)
        mask = np.clip(shape * rng.uniform(2, 30) + 0.5, 0, 1)  # of an object before its background
        surface = cut(rng, self._fine, height, width) * detail + cut(rng, self._rough, height, width) * 10
        surface *= np.exp(0.6 * cut(rng, self._smooth, height, width))  # in focus or not
        inside, outside = np.exp(rng.normal(0, 0.4, 2))
        surface *= (inside - outside) * mask + outside
        planes = [120 + surface + 25 * shape + 30 * rng.uniform(-1, 1) * mask + 40 * enlarge(layout[0], height, width)]
        half = -(-height // 2), -(-width // 2)
        for colours in layout[1:]:  # 4:2:0 keeps every second pixel of them
            before, behind = rng.uniform(-15, 15, 2)
            chroma = (before - behind) * mask[::2, ::2] + behind
            chroma += 4 * cut(rng, self._rough, *half) + 20 * enlarge(colours, *half)
            planes.append(128 + enlarge(chroma, height, width))
        return planes


def texture(rng: Generator, slope: float) -> FLOAT32:
    """(SIDE_PX, SIDE_PX) of mean 0 and deviation 1 whose amplitude falls with frequency ** slope, as in photographs."""
    frequency = np.hypot(np.fft.fftfreq(SIDE_PX)[:, None], np.fft.rfftfreq(SIDE_PX)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((SIDE_PX, SIDE_PX))) * frequency**-slope
    made = np.fft.irfft2(spectrum, (SIDE_PX, SIDE_PX))
    scaled: FLOAT32 = (made / made.std()).astype(np.float32)
    return scaled


def cut(rng: Generator, whole: FLOAT32, height: int, width: int) -> FLOAT32:
    """A piece of a texture from anywhere, over its edges too."""
    top, left = rng.integers(SIDE_PX, size=2)
    rows, columns = np.arange(top, top + height) % SIDE_PX, np.arange(left, left + width) % SIDE_PX
    piece: FLOAT32 = whole.take(rows, 0).take(columns, 1)
    return piece


def enlarge(plane: Plane, height: int, width: int) -> FLOAT32:
    """The same picture (height, width) of so many pixels, without edges between its old ones."""
    image = Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    made: FLOAT32 = np.asarray(image, np.float32)
    return made


def spread(index: int) -> tuple[float, float]:
    """Two draws of above 0 to below 1 that cover the square evenly over any stretch of indexes, so that few files have the mean
    of many (the R2 sequence: Roberts, The Unreasonable Effectiveness of Quasirandom Sequences, 2018)."""
    plastic = 1.32471795724474602596
    first, second = ((0.5 + (index + 1) / plastic**power) % 1 for power in (1, 2))
    return first, min(max(second, 1e-6), 1 - 1e-6)
