"""Advice in PyTorch's own terms, for a user's own loop without loaderlab's settings."""

from __future__ import annotations

from loaderlab.diagnosis.evidence import Advice

IN_TORCH = {  # loaderlab setting to its equivalent in PyTorch code
    "loader.num_workers": "DataLoader(num_workers={value})",
    "loader.prefetch_factor": "DataLoader(prefetch_factor={value})",
    "loader.persistent_workers": "DataLoader(persistent_workers=True)",
    "loader.pin_memory": "DataLoader(pin_memory=True)",
    "loader.non_blocking": "tensor.to(device, non_blocking=True)",
    "batch_size": "batch_size={value}",
    "model.compile": "torch.compile(model)",
    "precision": "torch.autocast(device.type, torch.{dtype})",
}
DTYPES = {"bf16": "bfloat16"}


def in_torch_terms(advice: Advice) -> str:
    """How to follow the advice in PyTorch code; empty if PyTorch has no such setting."""
    template = IN_TORCH.get(advice.setting, "")
    if advice.setting == "precision" and advice.value not in DTYPES:
        return ""
    return template.format(value=advice.value, dtype=DTYPES.get(str(advice.value), ""))
