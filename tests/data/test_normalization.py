from __future__ import annotations

import torch

from loaderlab.data.normalization import mean_and_std
from loaderlab.data.spec import Normalization
from loaderlab.loaders.fetch import normalize
from loaderlab.parity.samples import levels
from loaderlab.training.models import Normalize

CPU = torch.device("cpu")
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), on_device=False)


def test_the_tensors_are_made_once_for_each_device() -> None:
    mean, std = mean_and_std(IMAGENET, CPU)
    assert mean.shape == std.shape == (3, 1, 1)
    assert (mean.dtype, std.flatten().tolist()) == (torch.float32, torch.tensor(IMAGENET.std).tolist())
    assert mean_and_std(IMAGENET, torch.device("cpu"))[0] is mean


def test_all_code_normalizes_with_the_same_numbers() -> None:
    """Bit by bit the same as with freshly made tensors."""
    images = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    mean, std = torch.tensor(IMAGENET.mean), torch.tensor(IMAGENET.std)
    on_host = images.float().mul_(1 / 255).sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))
    assert torch.equal(normalize(images, IMAGENET), on_host)
    front = Normalize(IMAGENET, channels_last=False)
    assert torch.equal(front.mean, (255 * mean).view(1, -1, 1, 1))
    assert torch.equal(front.scale, (1 / (255 * std)).view(1, -1, 1, 1))
    assert torch.equal(levels(on_host, IMAGENET), images.float())
    front.mean.zero_()
    assert torch.equal(mean_and_std(IMAGENET, CPU)[0].flatten(), mean)  # the module has its own memory
