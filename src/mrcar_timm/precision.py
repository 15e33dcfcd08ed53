"""Which number format is fast where."""

from __future__ import annotations

from typing import Any

import torch


def fast_precision(device: torch.device) -> torch.dtype:
    """bfloat16 on processors and GPUs with instructions for it, else float32.

    Without them a convolution in bfloat16 takes ten times as long as one in float32.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    # Older releases of PyTorch do not tell.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if device.type == "cpu" and capabilities.get("avx512_bf16") else torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """Autocast to :func:`fast_precision`; off where that is float32."""
    precision = fast_precision(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16)
