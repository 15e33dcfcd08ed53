"""Provenance of a result: command, versions, commit and machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import timm
import torch

from .version import __version__


def provenance() -> dict[str, Any]:
    """Provenance of a result: command, versions, commit where there is one, and the machine."""
    commit = os.environ.get("MRCAR_COMMIT")  # of a copy on another machine or in a container
    root = Path(__file__).resolve().parents[2]
    if commit is None and (root / ".git").exists():
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        commit = done.stdout.strip() or None
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "mrcar_timm": __version__,
        "commit": commit,
        "torch": str(torch.__version__),  # a subclass, which cannot be loaded as weights alone
        "timm": timm.__version__,
        "machine": machine(),
    }


def machine() -> str:
    """Processor, or GPU where there is one, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name}, {os.cpu_count()} cores"
