"""Measure and simulate what docs/scale.md says: results/scale.json.

python -m tools.scale measure     # ten minutes; nothing else may run
python -m tools.scale simulate    # from what was measured
"""

import heapq
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import psutil
import pyarrow
import torch
import typer
from PIL import Image
from tests.conftest import write_fer_folder

from mrcar_timm import ExpressionRecognizer, FaceTracker
from mrcar_timm.cli.console import bar
from mrcar_timm.frames import VideoReader, VideoWriter
from mrcar_timm.images import read_rgb
from mrcar_timm.provenance import provenance
from mrcar_timm.scoring.local import AHEAD
from mrcar_timm.scoring.results import Results
from mrcar_timm.scoring.scorer import IMAGES, Scored
from mrcar_timm.scoring.table import table_schema
from mrcar_timm.training.engine import read_log
from mrcar_timm.video import follow_video

from .deploy import EXAMPLES, RESULTS, write

SIZES = {"small": (640, 480), "medium": (1920, 1440), "large": (4000, 3000)}
FILMS = {"640×480": (640, 480), "1280×720": (1280, 720)}
_FRAMES = 150
_FEW, _MANY = 200, 800  # photos of a command; the difference is without the start
_REPEATS = 3
_GPU_IMAGES = 28_006  # of an epoch in results/everyday/first

app = typer.Typer(no_args_is_help=True)


@app.command()
def measure() -> None:
    """Time the stages, the commands, films and training on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        photos = {name: _write_photos(place / name, size) for name, size in SIZES.items()}
        before = json.loads((RESULTS / "scale.json").read_text()) if (RESULTS / "scale.json").exists() else {}
        found = {
            "sizes": SIZES,
            "many": _MANY,
            "gpu": _gpu(),
            "photos": {name: _stages(files) for name, files in photos.items()},
            "commands": _commands(place, [*photos["small"], *photos["small"], *photos["medium"]]),
            "memory": _memory(place, photos),
            "bytes_a_face": {"plain": _bytes_a_face(place, False), "embeddings": _bytes_a_face(place, True)},
            "films": {name: _film(place / f"{size[0]}.mp4", size) for name, size in FILMS.items()},
            "training": _training(place),
        }
        write("scale", {**before, **found, "made_by": provenance()})


def _gpu() -> dict[str, Any]:
    """Images a second that five networks were trained with, together on a GPU: from the last lines of its log."""
    folder = RESULTS / "everyday" / "first"
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    last = {row["network"]: row for row in rows if "epoch" in row}
    rate = sum(row["epoch"] * _GPU_IMAGES / row["seconds"] for row in last.values())
    machine = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["machine"]
    return {"images_a_second": rate, "machine": machine, "networks": list(last)}


def _write_photos(folder: Path, size: tuple[int, int], count: int = 12) -> list[Path]:
    """Photos of one face, of each fourth of five, with a camera's noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = []
    for number in range(count):
        with Image.open(EXAMPLES / ("group.jpg" if number % 4 == 3 else "collins.jpg")) as image:
            pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), np.float32)
        noisy = pixels + rng.normal(0, 3, pixels.shape)
        files.append(folder / f"{number:02}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(files[-1], quality=88)
    return files


def _stages(files: list[Path]) -> dict[str, float]:
    """Milliseconds a photo of each stage, on one thread; bytes and faces a photo."""
    torch.set_num_threads(1)
    recognizer = ExpressionRecognizer()
    times: dict[str, list[float]] = {"read": [], "detect": [], "all": []}
    faces = 0
    list(recognizer.stream(files[:8]))
    for _ in bar(range(_REPEATS), "stages"):
        for file in files:
            begin = time.perf_counter()
            image, _ = read_rgb(file)
            read = time.perf_counter()
            recognizer.locate([image])
            detected = time.perf_counter()
            faces += len(recognizer(file))
            ends = (read - begin, detected - read, time.perf_counter() - detected)
            for name, seconds in zip(times, ends, strict=True):
                times[name].append(seconds * 1000)
    # Photos differ, and have one or five faces: the mean over them of the median of each.
    ms = {name: fmean(median(each[k :: len(files)]) for k in range(len(files))) for name, each in times.items()}
    return {
        "read_ms": ms["read"],
        "detect_ms": ms["detect"],
        "network_ms": max(0.0, ms["all"] - ms["read"] - ms["detect"]),
        "all_ms": ms["all"],
        "bytes": fmean(file.stat().st_size for file in files),
        "faces": faces / len(files) / _REPEATS,
    }


def _commands(place: Path, photos: list[Path]) -> dict[str, dict[str, float]]:
    """Seconds of `mrcar score` in turn: one process, two, and two actors of Ray."""
    ways = {"one": ("--workers", "1"), "two": ("--workers", "2"), "ray": ("--workers", "2", "--ray")}
    seconds: dict[str, dict[int, list[float]]] = {way: {_FEW: [], _MANY: []} for way in ways}
    for _ in bar(range(_REPEATS), "commands"):
        for count in (_FEW, _MANY):
            listed = place / f"{count}.txt"
            listed.write_text("\n".join(map(str, islice(cycle(photos), count))))
            for way, args in ways.items():
                begin = time.perf_counter()
                _score(listed, Path(tempfile.mkdtemp(dir=place)), *args)
                seconds[way][count].append(time.perf_counter() - begin)
    middle = {way: {count: median(each) for count, each in counts.items()} for way, counts in seconds.items()}
    return {
        way: {
            "seconds_of_few": counts[_FEW],
            "seconds_of_many": counts[_MANY],
            "images_a_second": (_MANY - _FEW) / (counts[_MANY] - counts[_FEW]),
        }
        for way, counts in middle.items()
    }


def _score(inputs: Path, out: Path, *args: str) -> None:
    subprocess.run([*_MRCAR, "score", str(inputs), "--out", str(out), *args], check=True, capture_output=True)


_MRCAR = (sys.executable, "-m", "mrcar_timm.cli")


def _memory(place: Path, photos: dict[str, list[Path]]) -> dict[str, float]:
    """Most bytes that processes have to themselves: a scoring one, with each size of photo; what starts it; Ray's."""
    most: dict[str, float] = {}
    for name, files in photos.items():
        processes = _watched("score", *map(str, files * 4), "--out", str(place / f"memory-{name}"), "--workers", "2")
        most[name] = max(size for what, size in processes.items() if "spawn_main" in what)
        most["command"] = max(size for what, size in processes.items() if "mrcar_timm.cli" in what)
    args = ("--out", str(place / "memory-ray"), "--workers", "2", "--ray")
    processes = _watched("score", *map(str, photos["small"] * 20), *args)
    most["ray"] = sum(size for what, size in processes.items() if "spawn_main" not in what)
    return most


def _watched(*args: str) -> dict[str, float]:
    """Most bytes of its own that each process of a command had."""
    most: dict[str, float] = {}
    process = subprocess.Popen([*_MRCAR, *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        for what, size in _sizes(process.pid):
            most[what] = max(most.get(what, 0), size)
        time.sleep(0.1)
    return most


def _sizes(pid: int) -> list[tuple[str, float]]:
    """What each process of a command is, and how many bytes it has to itself."""
    found = []
    with suppress(psutil.Error):  # one may end while it is asked
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            found.append((f"{' '.join(each.cmdline())} {each.pid}", each.memory_full_info().uss))  # noqa: PERF401
    return found


def _bytes_a_face(place: Path, embeddings: bool) -> float:
    """Bytes of results a face, of random numbers, which no compression makes smaller."""
    rng = np.random.default_rng(0)
    recognizer = ExpressionRecognizer(embeddings=embeddings)
    (face,) = recognizer(EXAMPLES / "collins.jpg")
    schema = table_schema(recognizer.labels, embeddings)
    count = 1000
    columns: dict[str, Any] = {
        "file": [f"s3://bucket/photos/{number:08}.jpg" for number in range(count)],
        "face": [1] * count,
        "source": [face.source] * count,
        "expression": rng.choice(recognizer.labels, count),
        "error": [None] * count,
        "landmarks": list(rng.random((count, 10), np.float32)),
    }
    if face.embedding is not None:
        columns["embedding"] = list(rng.random((count, len(face.embedding)), np.float32))
    columns |= {name: rng.random(count, np.float32) for name in schema.names if name not in columns}
    with closing(Results(place / f"bytes-{embeddings}", {"network": {}}, {})) as results:
        scored = Scored(0, 0, 0, count, pyarrow.table(columns, schema))
        list(results.write([scored]))
    (part,) = (place / f"bytes-{embeddings}").glob("*.parquet")
    return part.stat().st_size / count


def _film(file: Path, size: tuple[int, int]) -> dict[str, float]:
    """Core-seconds a frame of reading and of following one face, and bytes a frame."""
    torch.set_num_threads(1)
    with Image.open(EXAMPLES / "collins.jpg") as image:
        portrait = image.convert("RGB")
    with VideoWriter(file, 25) as writer:
        for number in range(_FRAMES):
            frame = portrait.resize(
                size, Image.Resampling.BICUBIC, (number % 20, 0, portrait.width, portrait.height - 20)
            )
            writer.write(np.asarray(frame), number / 25)
    begin = time.process_time()
    with VideoReader(file) as reader:
        frames = sum(1 for _ in reader)
    read = time.process_time()
    follow_video(file, FaceTracker(ExpressionRecognizer()), table=file.with_suffix(".csv"))
    end = time.process_time()
    return {
        "read_seconds": (read - begin) / frames,
        "all_seconds": (end - read) / frames,
        "bytes": file.stat().st_size / frames,
    }


def _training(place: Path) -> dict[str, float]:
    """Seconds of an epoch of the paper's network on 512 images: one process with one thread and with two, and two."""
    with Image.open(EXAMPLES / "collins.jpg") as portrait:
        data = write_fer_folder(place, portrait.convert("RGB"), 256)
    command = [
        "-m",
        "mrcar_timm",
        "train",
        "--data",
        str(data),
        "--epochs",
        "3",
        "--batch-size",
        "128",
        "--recipe",
        "fer2013",
    ]
    alone, together = (sys.executable,), (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    found = {}
    for name, start, threads in (("one", alone, "1"), ("one_two_threads", alone, "2"), ("two", together, "1")):
        run = place / f"run-{name}"
        given = [*start, *command, "--run-folder", str(run)]
        subprocess.run(given, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": threads})
        found[name] = min(row["seconds"] for row in read_log(run / "log.csv"))
    return found


@app.command()
def simulate() -> None:
    """Simulate clusters that score a million photos, of which some machines are slow."""
    record = json.loads((RESULTS / "scale.json").read_text(encoding="utf-8"))
    seconds = [record["photos"][size]["all_ms"] / 1000 for size in ("small", "small", "medium", "large")]
    rng = random.Random(0)
    rows = []
    for workers in (2, 16, 64, 256, 1024):
        count = 1_000_000 // IMAGES
        chunks = [sum(rng.choices(seconds, k=IMAGES)) for _ in range(count)]
        ideal = sum(chunks) / workers
        slow = [3.0 if worker % 16 == 15 else 1.0 for worker in range(workers)]
        even = [1.0] * workers
        rows.append(
            {
                "workers": workers,
                "hours": ideal / 3600,
                "queue": ideal / makespan(chunks, even, AHEAD * workers),
                "queue_slow": ideal / makespan(chunks, slow, AHEAD * workers),
                "queue_slow_of_four": ideal / makespan(chunks, slow, 4 * workers),
                "shares_slow": ideal / shares(chunks, slow),
                "best_slow": fmean(1 / each for each in slow),
            }
        )
    record["simulation"] = {"made_by": provenance(), "images": 1_000_000, "chunk": IMAGES, "ahead": AHEAD, "rows": rows}
    write("scale", record)


def makespan(chunks: Sequence[float], slowness: Sequence[float], ahead: int) -> float:
    """Seconds until workers that take the next chunk when they are free have done all.

    Args:
        chunks: Seconds of each on a worker of full speed, in order.
        slowness: How many times as long each worker takes.
        ahead: A chunk is begun once the one so many before it, and all before that, are done and written.
    """
    free = [(0.0, worker) for worker in range(len(slowness))]
    written: list[float] = []  # when each chunk, and all before it, were done
    for number, seconds in enumerate(chunks):
        begin, worker = heapq.heappop(free)
        if number >= ahead:
            begin = max(begin, written[number - ahead])
        end = begin + seconds * slowness[worker]
        written.append(max(end, written[-1] if written else 0.0))
        heapq.heappush(free, (end, worker))
    return written[-1]


def shares(chunks: Sequence[float], slowness: Sequence[float]) -> float:
    """Seconds until all is done where each worker has its share beforehand."""
    return max(sum(chunks[worker :: len(slowness)]) * slow for worker, slow in enumerate(slowness))


if __name__ == "__main__":
    app()
