"""Feeds ``mrcar predict`` and the recognizer odd inputs for some seconds, and prints what came of it as JSON.

In a process of its own, where the heap gives back what is free before each look, and oneDNN, which keeps what it
compiled for the last 1024 shapes, keeps 64 (set by the caller, as it is read at the start).
"""

import ctypes
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from mrcar_timm import ExpressionRecognizer, ImageError

from .command import mrcar
from .conftest import EXAMPLES

PORTRAIT = Image.open(EXAMPLES / "collins.jpg").convert("RGB")
NAMES = (
    "photo",
    "me [happy]",
    "фото 写真",
    "two\nlines",
    "\x1b[31mred",
    "\u202egpj",
    "caf\udce9",
    "12:30:00",
    "x" * 150,
)
#: Kinds of inputs, and whether they are images that can be read; None is not looked at in a folder.
KINDS = {
    "jpeg": True, "turned": True, "resized": True, "rgba": True, "grey": True, "palette": True, "16-bit": True,
    "noise": True, "tiny": True, "large": True, "webp": True, "wrong suffix": True,
    "empty": False, "text": False, "cut": False, "garbage": False, "too large": False, "broken link": False,
    "loop": False, "pipe": None, "device": None, "folder": None, "notes": None,
}  # fmt: skip


def make(kind: str, rng: np.random.Generator, folder: Path) -> Path:
    """Write an input of a kind."""
    place = folder / f"{rng.choice(NAMES)} {rng.integers(1 << 30)}"
    jpg, png = place.with_name(f"{place.name}.jpg"), place.with_name(f"{place.name}.png")
    size = tuple(np.exp(rng.uniform(np.log(24), np.log(900), 2)).astype(int).tolist())
    match kind:
        case "jpeg":
            PORTRAIT.save(jpg, quality=int(rng.integers(5, 100)))
        case "turned":
            exif = Image.Exif()
            exif[0x0112] = int(rng.integers(1, 10))
            PORTRAIT.save(jpg, exif=exif)
        case "resized" | "webp":
            jpg = jpg.with_suffix(".webp") if kind == "webp" else jpg
            PORTRAIT.resize(size).save(jpg)
        case "rgba" | "grey" | "palette":
            PORTRAIT.resize(size).convert({"rgba": "RGBA", "grey": "LA", "palette": "P"}[kind]).save(jpg := png)
        case "16-bit":
            wide = np.asarray(PORTRAIT.convert("L")).astype(np.uint16) << np.uint16(rng.integers(9))
            Image.fromarray(wide).save(jpg := png)
        case "noise":
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(jpg := png)
        case "tiny":
            PORTRAIT.resize(tuple(rng.integers(1, 24, 2).tolist())).save(jpg := png)
        case "large":
            PORTRAIT.resize((3000, 2000)).save(jpg)
        case "wrong suffix":
            PORTRAIT.save(jpg := place.with_name(f"{place.name}.jpg_large"), "PNG")
        case "empty" | "text":
            jpg.write_text("" if kind == "empty" else "no image")
        case "cut" | "garbage":
            data = bytearray((EXAMPLES / "collins.jpg").read_bytes())
            head = 2 if kind == "garbage" else int(rng.integers(20, len(data) // 2))
            jpg.write_bytes(data[:head] + (rng.bytes(500) if kind == "garbage" else b""))
        case "too large":
            Image.new("1", (20_000, 10_000)).save(jpg := png)
        case "broken link" | "loop" | "device":
            target = {"broken link": folder / "nothing", "loop": jpg, "device": Path("/dev/zero")}[kind]
            jpg.symlink_to(target)
        case "pipe":
            os.mkfifo(jpg)
        case "folder":
            jpg.mkdir()
        case "notes":
            (jpg := jpg.with_suffix(".txt")).write_text("no image")
    return jpg


def look(folder: Path, rng: np.random.Generator, kinds: list[str]) -> None:
    """Run ``mrcar predict`` on a folder, or on its files by name, with some options."""
    by_name = rng.random() < 0.3
    files = {make(kind, rng, folder): kind for kind in kinds}
    given = [*files] if by_name else [folder]
    shown = {kind for kind in kinds if (by_name and kind != "folder") or KINDS[kind] is not None}
    expected = {file: KINDS[kind] for file, kind in files.items() if kind in shown}
    options = [["--json"], [], ["--largest"], ["--missing", "full_image"], ["--min-size", "20"]][rng.integers(5)]
    if rng.random() < 0.3:
        options = [*options, "--annotate", folder.parent / "out"]
    done = mrcar("predict", *given, *options)
    what = (sorted(kinds), options, by_name, done.stderr[-2000:])
    assert done.returncode == (0 if all(expected.values()) and expected else 1), what
    assert "Traceback" not in done.stderr, what
    if "--json" in options:
        results = {Path(result["file"]): result for result in map(json.loads, done.stdout.splitlines())}
        assert results.keys() == expected.keys(), what
        for file, readable in expected.items():
            assert ("error" in results[file]) != bool(readable), (files[file], results[file])
    elif "--annotate" in options:
        # Whoever is not read has no image; each file has its own.
        drawn = sum(file.is_file() for file in (folder.parent / "out").rglob("*"))
        assert drawn == sum(map(bool, expected.values())), what


def hand_over(recognizer: ExpressionRecognizer, rng: np.random.Generator, folder: Path, kind: str) -> None:
    """Give the recognizer an input as a path, as bytes, or as an open file."""
    file = make(kind, rng, folder)
    is_file = file.is_file() and kind != "device"
    given = [lambda: file, lambda: file.read_bytes(), lambda: io.BytesIO(file.read_bytes())]
    source = given[rng.integers(3) if is_file else 0]()
    try:
        faces = recognizer(source)
        assert KINDS[kind], kind
        assert all(0 <= face.probability <= 1 for face in faces)
    except ImageError:
        assert not KINDS[kind], kind


def in_use() -> float:
    """Megabytes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss / 1e6


def main(seconds: float) -> None:
    rng = np.random.default_rng(0)
    recognizer = ExpressionRecognizer()
    seen: Counter[str] = Counter()
    memory = []
    opened = psutil.Process().num_fds()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        home = Path(tempfile.mkdtemp())
        try:
            (home / "in").mkdir()
            kinds = rng.choice(list(KINDS), rng.integers(1, 8), replace=False).tolist()
            look(home / "in", rng, kinds)
            (home / "given").mkdir()
            kind = str(rng.choice(list(KINDS)))
            hand_over(recognizer, rng, home / "given", kind)
            seen.update([*kinds, kind])
        finally:
            shutil.rmtree(home)
        memory.append(in_use())
    quarter = len(memory) // 4
    grown = float(np.median(memory[-quarter:]) - np.median(memory[quarter : 2 * quarter]))
    files = psutil.Process().num_fds() - opened
    print(json.dumps({"rounds": len(memory), "seen": seen, "grown": grown, "most": max(memory), "files": files}))


if __name__ == "__main__":
    main(float(sys.argv[1]))
