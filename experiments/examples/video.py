"""Video: a clip of frames and the times at which they were recorded; the model predicts a velocity. A batch is a dict."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset


class Clips(Dataset[dict[str, Tensor]]):
    """A bright ball that moves over a noisy background. An item depends only on the seed and its index.

    Its ``frames`` are (T, 3, H, W) uint8, ``times_s`` (T,) float32 from 0, not evenly spaced, and ``velocity`` (2,) float32: down and
    to the right, in pixels per second. The ball returns at the opposite side of the picture when it leaves it.
    """

    def __init__(self, num_samples: int, num_frames: int, image_px: int, seed: int) -> None:
        self._num_samples, self._num_frames, self._image_px, self._seed = num_samples, num_frames, image_px, seed

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self._seed, index))
        size, num_frames = self._image_px, self._num_frames
        times_s = np.cumsum(rng.uniform(0.8, 1.2, num_frames)) / num_frames
        times_s -= times_s[0]
        velocity = rng.uniform(-size / 2, size / 2, 2)
        places = rng.uniform(0, size, 2) + times_s[:, None] * velocity  # (T, 2)
        pixels = np.arange(size)
        away_y, away_x = (  # (T, size): distance from the ball, also across the border
            np.abs((pixels - places[:, [axis]] + size / 2) % size - size / 2) for axis in (0, 1)
        )
        ball = away_y[:, :, None] ** 2 + away_x[:, None, :] ** 2 <= (size / 8) ** 2  # (T, size, size)
        frames = rng.integers(0, 120, (num_frames, 3, size, size), dtype=np.uint8)
        frames += (ball * rng.integers(80, 130)).astype(np.uint8)[:, None]
        return {
            "frames": torch.from_numpy(frames),
            "times_s": torch.from_numpy(times_s.astype(np.float32)),
            "velocity": torch.from_numpy(velocity.astype(np.float32)),
        }


def make_datasets(
    num_train: int = 512, num_val: int = 96, num_frames: int = 8, image_px: int = 32
) -> tuple[Clips, Clips]:
    """The training and the validation set."""
    return Clips(num_train, num_frames, image_px, seed=0), Clips(num_val, num_frames, image_px, seed=1)


class VelocityNet(nn.Module):
    """Frames (B, T, 3, H, W) uint8 and their times (B, T) to velocities (B, 2) in picture heights per second.

    The time since the frame before is a fourth channel.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_block(4, width, stride=(1, 2, 2)),
            *_block(width, 2 * width, stride=(2, 2, 2)),
            *_block(2 * width, 4 * width, stride=(2, 2, 2)),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(4 * width, 2)

    def forward(self, frames: Tensor, times_s: Tensor) -> Tensor:
        pauses_s = times_s.diff(dim=1, prepend=times_s[:, :1])
        pauses = pauses_s[:, None, :, None, None].expand(-1, 1, -1, *frames.shape[3:])
        clip = torch.cat([frames.float().transpose(1, 2) / 128 - 0.5, pauses], 1)  # (B, 4, T, H, W)
        return torch.as_tensor(self.head(self.body(clip)))


def _block(channels: int, width: int, stride: tuple[int, int, int]) -> list[nn.Module]:
    return [nn.Conv3d(channels, width, 3, stride, padding=1), nn.GroupNorm(4, width), nn.ReLU()]


def make_model(width: int = 8) -> VelocityNet:
    """The network. ``width``: channels of its first layer."""
    return VelocityNet(width)


def step(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean squared error, and as a metric the mean error of the velocity in pixels per second. Nothing here waits for the device."""
    size = batch["frames"].shape[-1]
    errors = model(batch["frames"], batch["times_s"]) - batch["velocity"] / size
    return errors.square().mean(), {"error_px_per_s": size * errors.detach().norm(dim=1).mean()}


def evaluate(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The loss and the error of the velocity."""
    loss, metrics = step(model, batch)
    return {"loss": loss, **metrics}
