"""Devices by their names, checked before anything is loaded onto them."""

from __future__ import annotations

import torch

from .errors import DeviceError


def as_device(device: torch.device | str) -> torch.device:
    """A device that PyTorch can use here.

    Raises:
        DeviceError: If there is no such device, saying which there are.

    Example:
        >>> as_device("gpu")
        Traceback (most recent call last):
        mrcar_timm.errors.DeviceError: no device 'gpu'; there are cpu, cuda, cuda:1, mps and others of PyTorch's
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        raise DeviceError(f"no device {device!r}; there are cpu, cuda, cuda:1, mps and others of PyTorch's") from None
    if found.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available():
            built = torch.version.cuda or torch.version.hip
            why = "no GPU is found" if built else "this PyTorch is for the CPU alone"
            raise DeviceError(f"device {str(device)!r}: {why}; use cpu")
        if found.index is not None and found.index >= count:
            raise DeviceError(f"device {str(device)!r}: there are {count} GPUs, from cuda:0 on")
    elif found.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps': no Apple GPU is found; use cpu")
    return found
