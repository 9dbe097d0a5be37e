"""A module whose import queries CUDA."""

import torch

torch.cuda.is_available()
