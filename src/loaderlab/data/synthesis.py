"""Generated pictures that cost as much to read and decode as photographs: coloured noise textures with a 1/f spectrum, partly
in focus and partly blurred, cut by contours, with the bytes per pixel of ImageNet's files."""

from __future__ import annotations

import io
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from PIL import Image

from loaderlab.data.spec import FLOAT32

Generator = np.random.Generator
Plane = npt.NDArray[np.floating]

QUALITY = 95  # most of ImageNet's files have this JPEG quality or more
SIDE_PX = 1024  # of a texture, which repeats without visible edges
SLOPES = {"fine": 0.8, "rough": 1.2, "smooth": 2.0}  # amplitude as frequency ** -slope; photographs have about 1
LAYOUT = 4  # each class has its own coarse layout: a grid of this many colours on each side
DETAIL, DETAIL_SPREAD = (
    16.3,
    0.75,
)  # of the fine texture: median, and standard deviation of the logarithm; chosen to give `BYTES_PER_PX`
BYTES_PER_PX = 0.59  # mean over many files: 110 kB for 500x375
SHAPES = (  # share of the files, width and height relative to the most common size, upright
    (0.55, (1.0, 1.0), False),
    (0.18, (1.0, 1.0), True),
    (0.09, (1.0, 0.89), False),
    (0.04, (1.0, 0.89), True),
    (0.06, (0.8, 1.07), False),
    (0.05, (1.28, 1.28), False),
    (0.03, (0.64, 0.64), False),
)
MEAN_AREA = sum(share * width * height for share, (width, height), _ in SHAPES)


class Painter:
    """Makes the picture for any index, the same in every process.

    Args:
        seed: of the whole set.
        width_px, height_px: the most common size; the other sizes vary as in ImageNet, and some pictures are upright.
    """

    def __init__(self, seed: int, width_px: int, height_px: int) -> None:
        self._seed, self._width_px, self._height_px = seed, width_px, height_px
        rng = np.random.default_rng([seed, 0])
        self._fine, self._rough, self._smooth = (texture(rng, slope) for slope in SLOPES.values())

    def jpeg(self, index: int, label: int) -> bytes:
        """A JPEG file, 4:2:0. Pictures of one label share coarse colours; everything else depends on the index."""
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
        """Luma and both chroma planes, each (height, width), mostly within 0 to 255."""
        shape = cut(rng, self._smooth, height, width)
        mask = np.clip(shape * rng.uniform(2, 30) + 0.5, 0, 1)  # of an object in front of a background
        surface = cut(rng, self._fine, height, width) * detail + cut(rng, self._rough, height, width) * 10
        surface *= np.exp(0.6 * cut(rng, self._smooth, height, width))  # in focus or not
        inside, outside = np.exp(rng.normal(0, 0.4, 2))
        surface *= (inside - outside) * mask + outside
        planes = [120 + surface + 25 * shape + 30 * rng.uniform(-1, 1) * mask + 40 * enlarge(layout[0], height, width)]
        half = -(-height // 2), -(-width // 2)
        for colours in layout[1:]:  # 4:2:0 keeps every second chroma pixel
            before, behind = rng.uniform(-15, 15, 2)
            chroma = (before - behind) * mask[::2, ::2] + behind
            chroma += 4 * cut(rng, self._rough, *half) + 20 * enlarge(colours, *half)
            planes.append(128 + enlarge(chroma, height, width))
        return planes


def texture(rng: Generator, slope: float) -> FLOAT32:
    """Noise (SIDE_PX, SIDE_PX) of mean 0 and standard deviation 1 whose amplitude falls as frequency ** -slope."""
    frequency = np.hypot(np.fft.fftfreq(SIDE_PX)[:, None], np.fft.rfftfreq(SIDE_PX)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((SIDE_PX, SIDE_PX))) * frequency**-slope
    made = np.fft.irfft2(spectrum, (SIDE_PX, SIDE_PX))
    scaled: FLOAT32 = (made / made.std()).astype(np.float32)
    return scaled


def cut(rng: Generator, whole: FLOAT32, height: int, width: int) -> FLOAT32:
    """A random piece (height, width) of a texture, which wraps around at its edges."""
    top, left = rng.integers(SIDE_PX, size=2)
    rows, columns = np.arange(top, top + height) % SIDE_PX, np.arange(left, left + width) % SIDE_PX
    piece: FLOAT32 = whole.take(rows, 0).take(columns, 1)
    return piece


def enlarge(plane: Plane, height: int, width: int) -> FLOAT32:
    """The picture enlarged to (height, width), smoothly."""
    image = Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    made: FLOAT32 = np.asarray(image, np.float32)
    return made


def spread(index: int) -> tuple[float, float]:
    """Two numbers between 0 and 1 that cover the unit square evenly for any range of indices, so that a few files have the same
    mean as many (the R2 sequence: Roberts, The Unreasonable Effectiveness of Quasirandom Sequences, 2018)."""
    plastic = 1.32471795724474602596
    first, second = ((0.5 + (index + 1) / plastic**power) % 1 for power in (1, 2))
    return first, min(max(second, 1e-6), 1 - 1e-6)
