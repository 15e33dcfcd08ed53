"""Speed on this machine: the face path, the network and training, each against what would be used instead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image, ImageOps
from timm.layers.coord_attn import CoordAttn as TimmCoordAttn

from ..data.image_set import ImageSet
from ..data.labels import SEVEN
from ..devices import as_device
from ..exported import Session
from ..faces.detector import Detections, overlaps
from ..faces.mtcnn import MTCNNDetector
from ..graphs.int8 import quantized
from ..graphs.network import network_graph
from ..images import to_rgb
from ..layers import attention_parameters, insert_attention, insertions, soft_cross_entropy
from ..models.inference import optimize_for_inference
from ..network import load_network
from ..precision import fast_precision
from ..regions.cut import cut_regions
from ..regions.geometry import REGIONS, template_landmarks
from ..training.batches import RegionBatches
from ..training.engine import training_logits
from ..training.recipe import Augmentation
from ..training.step import Stopwatch

SIZES = ((640, 480), (1280, 720), (1920, 1080))
_MIN_FACE = 20
_SAME = 0.4


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def time_in_turn(calls: dict[str, Callable[[], Any]], repeats: int, warm_up: int) -> dict[str, list[float]]:
    """Milliseconds of each call; all take their turn in each repetition."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(warm_up + repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repetition >= warm_up:
                times[name].append((time.perf_counter() - start) * 1000)
    return times


@dataclass(frozen=True)
class FaceTiming:
    """One image in one size.

    Attributes:
        image: Its name.
        size: Width×height.
        search: "all faces" or "main face".
        facenet_ms: ``facenet_pytorch.MTCNN.detect(landmarks=True)``, which has no search for the main face alone.
        ours_ms: Boxes, landmarks and regions.
        facenet_faces, our_faces: How many were found.
        only_facenet, only_ours: Faces that the other has not found; of the main face: whether it is none of
            facenet-pytorch's.
    """

    image: str
    size: str
    search: str
    facenet_ms: float
    ours_ms: float
    facenet_faces: int
    our_faces: int
    only_facenet: int
    only_ours: int

    @property
    def ratio(self) -> float:
        """How many times as fast ours is."""
        return self.facenet_ms / self.ours_ms


def time_faces(files: Iterable[Path], repeats: int = 7) -> Iterator[FaceTiming]:
    """Time the detector and facenet-pytorch's on one thread, on photos fitted to each of :data:`SIZES`.

    Args:
        files: Photos.
        repeats: Repetitions; the median counts.
    """
    from facenet_pytorch import MTCNN

    with one_thread():
        facenet = MTCNN(keep_all=True, min_face_size=_MIN_FACE)
        ours = MTCNNDetector(min_face_size=_MIN_FACE)
        for file in files:
            photo = Image.fromarray(to_rgb(file))
            for size in SIZES:
                image = np.asarray(ImageOps.fit(photo, size, Image.Resampling.LANCZOS, centering=(0.5, 0.25)))
                yield from _time_one(file.name, image, facenet, ours, repeats)


def _time_one(name: str, image: np.ndarray, facenet: Any, ours: MTCNNDetector, repeats: int) -> Iterator[FaceTiming]:
    def cut(found: Detections) -> Detections:
        cut_regions(image, found.landmarks)
        return found

    calls: dict[str, Callable[[], Any]] = {
        "facenet": lambda: facenet.detect(image, landmarks=True),
        "all faces": lambda: cut(ours(image)),
        "main face": lambda: cut(ours.largest(image)),
    }
    times = time_in_turn(calls, repeats, warm_up=1)
    results = {key: call() for key, call in calls.items()}
    boxes = results["facenet"][0]
    boxes = np.zeros((0, 4)) if boxes is None else boxes.astype(np.float64)
    for key in ("all faces", "main face"):
        same = overlaps(results[key].boxes, boxes) > _SAME
        yield FaceTiming(
            image=name,
            size=f"{image.shape[1]}×{image.shape[0]}",
            search=key,
            facenet_ms=median(times["facenet"]),
            ours_ms=median(times[key]),
            facenet_faces=len(boxes),
            our_faces=len(results[key]),
            only_facenet=int((~same.any(0)).sum()) if key == "all faces" else int(len(boxes) > 0 and not len(same)),
            only_ours=int((~same.any(1)).sum()),
        )


#: Faces at once, besides one.
SOME = 16


@dataclass(frozen=True)
class NetworkTiming:
    """One network on one thread, in float32 where its name does not say int8.

    Attributes:
        network: Name of the network, and what runs it: PyTorch as timm makes it; "folded", as the recognizer runs it;
            or ONNX Runtime.
        pixels: Shape of the input.
        parameters: Number of parameters.
        ms: Median time in milliseconds for one face.
        fastest_ms: The shortest time: what it takes where nothing else runs.
        ratio: Median of resnet18 over this median.
        ms_of_some: Median for :data:`SOME` faces at once, a face.
        speedup: Median of the folded network over this median; None for resnet18.
        speedup_of_some: The same for :data:`SOME` faces at once.
    """

    network: str
    pixels: str
    parameters: int
    ms: float
    fastest_ms: float
    ratio: float
    ms_of_some: float
    speedup: float | None
    speedup_of_some: float | None


@torch.inference_mode()
def time_networks(repeats: int = 100) -> list[NetworkTiming]:
    """Time the networks of three regions, as timm makes them, as the recognizer runs them and in ONNX Runtime, and
    resnet18.

    Random values calibrate the 8 bits: no values take longer than others.
    """
    networks: dict[str, tuple[Callable[[torch.Tensor], Any], torch.Tensor, int]] = {}
    for name in ("mrcar_mobilenet", "mrcar_resnet"):
        network = load_network(name)
        regions = torch.rand(SOME, len(network.regions), network.in_chans, *network.size)
        parameters = sum(p.numel() for p in network.model.parameters())
        folded = optimize_for_inference(network.model).to(memory_format=torch.channels_last)
        ways: dict[str, Callable[[torch.Tensor], Any]] = {
            "": network.model,
            ", folded": folded,
            ", ONNX Runtime": _in_onnx_runtime(network_graph(network)),
            ", ONNX Runtime, int8": _in_onnx_runtime(quantized(network_graph(network, pooled=False), regions.numpy())),
        }
        networks |= {f"{name}{way}": (call, regions, parameters) for way, call in ways.items()}
    resnet18 = timm.create_model("resnet18", num_classes=7).eval().to(memory_format=torch.channels_last)
    faces = torch.rand(SOME, 3, 112, 112).to(memory_format=torch.channels_last)
    networks["resnet18"] = (resnet18, faces, sum(p.numel() for p in resnet18.parameters()))

    with one_thread():
        one = time_in_turn({key: partial(call, x[:1]) for key, (call, x, _) in networks.items()}, repeats, 10)
        some = time_in_turn({key: partial(call, x) for key, (call, x, _) in networks.items()}, max(1, repeats // 4), 3)
    rows = []
    for name, (_, x, count) in networks.items():
        folded_name = f"{name.split(',')[0]}, folded"
        speedups = [
            median(times[folded_name]) / median(times[name]) if folded_name in times else None for times in (one, some)
        ]
        rows.append(
            NetworkTiming(
                network=name,
                pixels="×".join(map(str, x.shape[1:])),
                parameters=count,
                ms=median(one[name]),
                fastest_ms=min(one[name]),
                ratio=median(one["resnet18"]) / median(one[name]),
                ms_of_some=median(some[name]) / SOME,
                speedup=speedups[0],
                speedup_of_some=speedups[1],
            )
        )
    return rows


def _in_onnx_runtime(graph: Any) -> Callable[[torch.Tensor], Any]:
    session = Session(content=graph.SerializeToString())
    return lambda x: session(regions=x.numpy())


NETWORKS = ("resnet18", "resnet50", "efficientnet_b0", "mobilenetv3_large_100", "regnety_002", "convnext_atto")


@dataclass(frozen=True)
class AttentionTiming:
    """One network of timm's with attention on its residual branches, at batch 1 and 224×224 on one thread.

    Attributes:
        network: Name of the network.
        places: In how many places attention was inserted.
        ms: Median time without it, in milliseconds.
        coord: Median with :class:`~mrcar_timm.layers.CoordAttn`, over that without.
        timm_coord: Median with timm's own coordinate attention, over that without.
        se: Median with squeeze-and-excitation, over that without.
        parameters: Parameters of the network.
        added: Parameters of the coordinate attention.
    """

    network: str
    places: int
    ms: float
    coord: float
    timm_coord: float
    se: float
    parameters: int
    added: int


def time_attention(repeats: int = 30) -> Iterator[AttentionTiming]:
    """Time networks with and without inserted attention, all ways in turn."""
    x = torch.rand(1, 3, 224, 224).to(memory_format=torch.channels_last)
    for name in NETWORKS:
        plain = timm.create_model(name).eval()
        networks = {"none": plain}
        for key, attention in (("coord", "coord"), ("timm_coord", TimmCoordAttn), ("se", "se")):
            networks[key] = insert_attention(deepcopy(plain), attention, neutral=key == "coord")
        calls = {key: _call_of(network, x) for key, network in networks.items()}
        with one_thread(), torch.inference_mode():
            times = {key: median(values) for key, values in time_in_turn(calls, repeats, warm_up=3).items()}
        yield AttentionTiming(
            network=name,
            places=len(insertions(networks["coord"])),
            ms=times["none"],
            **{key: times[key] / times["none"] for key in ("coord", "timm_coord", "se")},
            parameters=sum(p.numel() for p in plain.parameters()),
            added=sum(p.numel() for p in attention_parameters(networks["coord"])),
        )


def _call_of(network: Any, x: torch.Tensor) -> Callable[[], Any]:
    network = network.to(memory_format=torch.channels_last)  # the fastest on a CPU
    return lambda: network(x)


@dataclass(frozen=True)
class TrainingSpeed:
    """One way to train.

    Attributes:
        way: "float32", and what was added to the way before it: "channels_last", "bfloat16", "compile".
        ms: Milliseconds a image.
        phases: Milliseconds a image by phase: data (augmentation included), forward, backward, optimizer.
        ratio: How many times as fast as the first way.
        used: Whether ``mrcar train`` does so on this machine.
    """

    way: str
    ms: float
    phases: dict[str, float]
    ratio: float
    used: bool


def time_training(
    batch_size: int = 64, steps: int = 4, device: torch.device | str = "cpu", compiled: bool = False
) -> Iterator[TrainingSpeed]:
    """Time training steps of ``mrcar_resnet`` with three regions, AdamW and all augmentation.

    The images are noise: no way takes longer for some than for others.

    Args:
        batch_size: Images a step.
        steps: Steps that are timed, after two that warm up.
        device: Device to train on.
        compiled: Time ``torch.compile`` too; it takes minutes to compile.
    """
    device = as_device(device)
    rng = np.random.default_rng(0)
    count = batch_size * steps
    images = ImageSet(
        rng.integers(0, 255, (count, 48, 48), np.uint8), rng.integers(0, 7, count), SEVEN, np.arange(count)
    )
    landmarks = np.broadcast_to(template_landmarks(48, 48), (count, 5, 2))
    batches = RegionBatches(images, landmarks, REGIONS, (44, 44), device)
    fast = fast_precision(device)
    ways = [
        ("float32", torch.contiguous_format, torch.float32, False),
        ("channels_last", torch.channels_last, torch.float32, False),
        ("bfloat16", torch.channels_last, torch.bfloat16, False),
    ]
    if compiled:
        ways.append(("compile", torch.channels_last, fast, True))
    first = None
    for way, layout, precision, compile_it in ways:
        phases = _time(batches, layout, precision, compile_it, batch_size)
        ms = sum(phases.values())
        first = first or ms
        used = way == "channels_last" or (way == "bfloat16" and fast == torch.bfloat16)
        yield TrainingSpeed(way, ms, phases, first / ms, used)


def _time(
    batches: RegionBatches, layout: torch.memory_format, precision: torch.dtype, compile_it: bool, batch_size: int
) -> dict[str, float]:
    model = timm.create_model("mrcar_resnet", in_chans=1).to(batches.device, memory_format=layout).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True)
    logits_of = torch.compile(training_logits) if compile_it else training_logits

    def run(steps: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> Stopwatch:
        watch = Stopwatch(batches.device)
        watch.start()
        for regions, targets in steps:
            watch.lap("data")
            with torch.autocast(batches.device.type, precision, enabled=precision != torch.float32):
                logits = logits_of(model, regions)
            loss = soft_cross_entropy(logits, targets)
            watch.lap("forward")
            optimizer.zero_grad()
            loss.backward()
            watch.lap("backward")
            optimizer.step()
            watch.lap("optimizer")
        return watch

    def epoch() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return batches.training(batch_size, Augmentation(), torch.Generator().manual_seed(0))

    warming = epoch()
    run(batch for batch, _ in zip(warming, range(2), strict=False))
    return {phase: 1000 * seconds / len(batches) for phase, seconds in run(epoch()).seconds().items()}
