"""Thousands of images, whole and broken: a result, a typed absence of faces, or an error of ours; never else."""

import io
import math
import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcar_timm import Faces, ImageError, MRCARError

from .scenes import crowd, heads, texture, turn

pytestmark = pytest.mark.slow

MODES = (
    "1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F",
    "LA", "PA", "RGBX", "RGBa", "La", "I;16", "I;16L", "I;16B", "I;16N",
)  # fmt: skip
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000", "ICO", "PCX", "SGI", "DIB", "IM")


def outcome(recognizer, image) -> str:
    """What came of an image: "faces", "none" or the name of our error. Anything else fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about damaged files
        (result,) = recognizer.stream([image])
    if isinstance(result, MRCARError):
        assert str(result)
        return type(result).__name__
    assert isinstance(result, Faces)
    assert result.missing == (len(result) == 0)
    width, height = result.size
    assert width > 0
    assert height > 0
    for face in result:
        assert np.isfinite(face.box).all()
        assert np.isfinite(face.landmarks).all()
        assert face.box[0] < face.box[2]
        assert face.box[1] < face.box[3]
        assert face.box[0] < width
        assert face.box[1] < height
        assert face.box[2] > 0
        assert face.box[3] > 0
        assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-4)
        assert face.probability == face.probabilities[face.expression]
        assert face.source in ("detector", "crop")
        assert (face.score is None) == (face.source == "crop")
    return "faces" if result else "none"


def content(kind: str, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    if kind == "noise":
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    if kind == "flat":
        return Image.new("RGB", (width, height), tuple(rng.integers(0, 256, 3).tolist()))
    if kind == "texture":
        return texture((width, height), rng)
    head = heads()[int(rng.integers(2))].image
    return head.resize((width, height))  # stretched, where the sides are


def random_size(rng: np.random.Generator, most: float) -> tuple[int, int]:
    """Sides of 1 to 4,000 pixels, all magnitudes alike, of no more than ``most`` pixels together."""
    while True:
        width, height = (int(side) for side in np.exp(rng.uniform(0, math.log(4000), 2)).round())
        if width * height <= most:
            return width, height


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode.startswith("I;16"):
        values = np.asarray(image.convert("L")).astype(np.uint16) * 257
        return Image.frombytes(mode, image.size, values.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    # Pillow makes these from their unmultiplied relatives only.
    return image.convert({"RGBa": "RGBA", "La": "LA"}.get(mode, mode)).convert(mode)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_at_every_size(recognizer, mode):
    rng = np.random.default_rng(MODES.index(mode))
    for k in range(50):
        size = random_size(rng, 150_000)
        image = in_mode(content(("noise", "flat", "texture", "face")[k % 4], *size, rng), mode)
        assert image.mode == mode
        assert outcome(recognizer, image) in ("faces", "none")
    face = heads()[0].image
    assert outcome(recognizer, in_mode(face, mode)) == "faces"


@pytest.mark.parametrize(
    ("width", "height"), [(4000, 4000), (4000, 1), (1, 4000), (4000, 30), (30, 4000), (3999, 47), (2, 2)]
)
def test_extreme_sizes(recognizer, width, height):
    rng = np.random.default_rng(0)
    for kind in ("noise", "texture", "face"):
        outcome(recognizer, content(kind, width, height, rng))


@pytest.mark.parametrize("name", FORMATS)
def test_broken_files(recognizer, tmp_path, name):
    """Cut off or with flipped bits at random places, by which headers are hit too."""
    rng = np.random.default_rng(FORMATS.index(name))
    buffer = io.BytesIO()
    heads()[0].image.resize((96, 112)).save(buffer, name)
    data = buffer.getvalue()
    file = tmp_path / f"image.{name.lower()}"
    seen: Counter[str] = Counter()
    for k in range(120):
        damaged = bytearray(data)
        if k % 4 == 0:
            damaged = damaged[: int(rng.integers(len(data)))]
        else:
            reach = len(data) if k % 4 == 1 else min(len(data), 64)
            for place in rng.integers(0, reach, 1 + k // 8):
                damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        seen[outcome(recognizer, file)] += 1
    assert set(seen) <= {"faces", "none", "ImageError"}
    assert seen["ImageError"] > 5, seen
    file.write_bytes(data)
    assert outcome(recognizer, file) == "faces"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_give_the_same_face(recognizer, tmp_path, portrait, orientation):
    """What a viewer shows is what counts: the file is stored turned the other way."""
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = portrait.transpose(back[orientation]) if orientation in back else portrait
    stored.save(tmp_path / "turned.png", exif=exif)
    (face,) = recognizer(tmp_path / "turned.png")
    (upright,) = recognizer(portrait)
    assert face == upright


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims to be large, and whose data unpack to a large part of that."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(50_000_000), 9))


@pytest.mark.parametrize("size", [(60_000, 60_000), (2_000_000_000, 1), (1, 2_000_000_000), (15_000, 12_001)])
def test_decompression_bombs(recognizer, tmp_path, size):
    file = tmp_path / "bomb.png"
    file.write_bytes(bomb(*size))
    with pytest.raises(ImageError, match=r"bomb\.png"):
        recognizer(file)


@pytest.mark.parametrize("degrees", range(0, 181, 15))
def test_turned_faces(recognizer, degrees):
    """Up to 45° the face is found; beyond, it may be missing, but no other is found."""
    head = heads()[0]
    for side in (-1, 1):
        turned, centre = turn(head, 1.0, side * degrees)
        canvas = texture((400, 400), np.random.default_rng(degrees))
        canvas.paste(turned, (60, 60), turned.getchannel("A"))
        assert outcome(recognizer, canvas) in ("faces", "none")
        faces = recognizer(canvas)
        assert len(faces) == 1 or degrees > 45
        for face in faces:
            middle = np.array(face.box).reshape(2, 2).mean(0)
            assert np.linalg.norm(middle - centre - 60) < 0.5 * head.height


def test_faces_of_all_heights_at_all_borders(recognizer):
    """16 to 1,500 pixels, slid over each border until nothing is left of them."""
    rng = np.random.default_rng(0)
    seen: Counter[str] = Counter()
    for height in np.exp(np.linspace(math.log(16), math.log(1500), 12)):
        head = heads()[int(rng.integers(2))]
        turned, centre = turn(head, height / head.height, 0)
        room = int(1.3 * max(turned.size))
        background = texture((room, room), rng)
        for way in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            for part in (0, 0.25, 0.5, 0.75, 1.0) if height < 500 else (0, 0.4):
                shift = np.array(way) * (room / 2 + (part - 0.5) * height) if part else np.zeros(2)
                corner = np.round(room / 2 + shift - centre).astype(int)
                canvas = background.copy()
                canvas.paste(turned, tuple(corner.tolist()), turned.getchannel("A"))
                seen[result := outcome(recognizer, canvas)] += 1
                assert result == "faces" or part or height < 24, height
    assert seen["faces"] > 60, seen


@pytest.mark.parametrize("count", [0, 1, 20])
def test_numbers_of_faces(recognizer, count):
    for seed in range(3):
        empty = texture((800, 600), np.random.default_rng(seed))
        assert len(recognizer(crowd(count, (800, 600), seed)[0] if count else empty)) == count


def test_memory_stays_flat():
    """Over 2,000 images of mixed sizes it grows by less than 50 MB once the largest have been through."""
    env = {**os.environ, "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
    command = [sys.executable, "-m", "tests.memory_growth"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], env=env)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 50e6
