"""The network's time for one face, beside that of timm's resnet18."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import timm
import torch

from .folding import fold_for_inference
from .mrcar_resnet import mrcar_resnet


@dataclass(frozen=True)
class NetworkTiming:
    """One network at batch 1 in float32, on one thread.

    Attributes:
        network: What runs.
        pixels: Shape of the input.
        parameters: How many it has.
        ms: Median of its times.
        fastest_ms: The shortest: what it takes where nothing else runs.
        ratio: Median of resnet18 over this median.
    """

    network: str
    pixels: str
    parameters: int
    ms: float
    fastest_ms: float
    ratio: float


def time_networks(repeats: int = 100) -> Iterator[NetworkTiming]:
    """Time the three-region network, as timm makes it and as the recognizer runs it, and resnet18 at 112×112."""
    regions, face = torch.rand(1, 3, 3, 44, 44), torch.rand(1, 3, 112, 112)
    folded = mrcar_resnet().eval()
    fold_for_inference(folded)
    networks: dict[str, tuple[Any, torch.Tensor]] = {
        "mrcar_resnet": (mrcar_resnet().eval(), regions),
        "mrcar_resnet, folded": (folded, regions),
        "resnet18": (timm.create_model("resnet18", num_classes=7).eval(), face),
    }
    times = time_in_turn(networks, repeats)
    for name, (network, x) in networks.items():
        yield NetworkTiming(
            network=name,
            pixels="×".join(map(str, x.shape[1:])),
            parameters=sum(p.numel() for p in network.parameters()),
            ms=median(times[name]),
            fastest_ms=min(times[name]),
            ratio=median(times["resnet18"]) / median(times[name]),
        )


@torch.inference_mode()
def time_in_turn(networks: dict[str, tuple[Any, torch.Tensor]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of networks with their inputs on one thread.

    All take their turn in each repetition, with weights and pictures in channels-last order, the fastest on a CPU.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # Regions have five dimensions; of them the network takes its branches' inputs.
        networks = {
            name: (
                network.to(memory_format=torch.channels_last),
                x.to(memory_format=torch.channels_last) if x.ndim == 4 else x,
            )
            for name, (network, x) in networks.items()
        }
        times: dict[str, list[float]] = {name: [] for name in networks}
        for repetition in range(repeats + 10):  # the first ten warm up
            for name, (network, x) in networks.items():
                taken = _time(network, x)
                if repetition >= 10:
                    times[name].append(taken)
        return times
    finally:
        torch.set_num_threads(threads)


def _time(network: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> float:
    start = time.perf_counter()
    network(x)
    return (time.perf_counter() - start) * 1000
