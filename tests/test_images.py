"""Every kind of image gives the right pixels, or an error that names file and cause."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mrcar_timm import ExpressionRecognizer, ImageError, images
from mrcar_timm.images import read_rgb, to_rgb

from .conftest import EXAMPLES

COLOUR = (204, 102, 51)  # in the palette that Pillow converts to


@pytest.fixture
def image():
    return Image.new("RGB", (20, 10), COLOUR)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr", "HSV"])
def test_color_modes(image, mode):
    image = image.convert(mode)
    assert np.abs(to_rgb(image).astype(int) - COLOUR).max() <= 4


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_modes(mode):
    assert (to_rgb(Image.new("L", (20, 10), 255).convert(mode)) == 255).all()


def test_transparency_is_white():
    assert (to_rgb(Image.new("LA", (4, 4), (90, 128)).convert("La"))[0, 0] == 172).all()
    assert (to_rgb(Image.new("RGBA", (4, 4), (255, 0, 0, 0))) == 255).all()
    assert (to_rgb(np.zeros((4, 4, 2), np.uint8)) == 255).all()
    assert (to_rgb(np.array([[[0, 0, 0, 255]]], np.uint8)) == 0).all()


@pytest.mark.parametrize("kind", ["I;16", "I;16B", "I", "F", "uint16", ">u2"])
def test_sixteen_bits_are_scaled(tmp_path, kind):
    values = np.full((10, 20), 128 * 257, np.uint16)
    if kind in ("uint16", ">u2"):
        image = values.astype(kind)
    elif kind == "I;16B":
        image = Image.frombytes(kind, (20, 10), values.astype(">u2").tobytes())
    elif kind == "F":
        image = Image.fromarray(np.full((10, 20), 128, np.float32))
    else:
        Image.fromarray(values).save(tmp_path / "16.png")
        image = Image.open(tmp_path / "16.png").convert(kind) if kind == "I" else tmp_path / "16.png"
    assert (to_rgb(image) == 128).all()


def test_first_frame_of_an_animation(tmp_path, image):
    file = tmp_path / "two.gif"
    image.save(file, save_all=True, append_images=[Image.new("RGB", (20, 10), "blue")])
    assert np.abs(to_rgb(file).astype(int) - COLOUR).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations(tmp_path, orientation):
    """A red corner that a viewer shows top left stands there whatever the orientation."""
    shown = np.zeros((8, 12, 3), np.uint8)
    shown[:4, :6] = (255, 0, 0)
    stored = {
        1: shown, 2: shown[:, ::-1], 3: shown[::-1, ::-1], 4: shown[::-1],
        5: shown.swapaxes(0, 1), 6: np.rot90(shown), 7: np.rot90(shown, 2).swapaxes(0, 1), 8: np.rot90(shown, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(to_rgb(tmp_path / "turned.png"), shown)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8])
@pytest.mark.parametrize("scale", [1, 255])
def test_array_types(dtype, scale):
    if scale == 1 and not np.issubdtype(dtype, np.floating):
        dtype, scale = np.uint8, 255
    array = (np.array(COLOUR) / 255 * scale * np.ones((10, 20, 1))).round(3 if scale == 1 else 0).astype(dtype)
    assert np.abs(to_rgb(array).astype(int) - COLOUR).max() <= 1
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    np.testing.assert_array_equal(to_rgb(tensor), to_rgb(array))


def test_small_arrays():
    assert to_rgb(np.zeros((1, 1), np.uint8)).shape == (1, 1, 3)
    assert to_rgb(np.ones((2, 3), bool)).tolist() == np.full((2, 3, 3), 255).tolist()
    assert to_rgb(torch.zeros(1, 5, 4)).shape == (5, 4, 3)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full((4, 4, 3), np.nan), "NaN"),
        (np.full((4, 4, 3), -1.0), "normalized already"),
        (np.full((4, 4, 3), 300.0), "0…255"),
        (np.full((4, 4, 3), 300), "0…255"),
        (np.full((4, 4, 3), -1), "0…255"),
        (np.zeros((4, 4, 3), complex), "numbers"),
        (np.zeros((3, 40, 50), np.uint8), r"\(C, H, W\)\?"),
        (torch.zeros(40, 50, 3), r"\(H, W, C\)\?"),
        (np.zeros((4, 4, 5), np.uint8), "1 to 4 channels"),
        (np.zeros((2, 4, 4, 3), np.uint8), "list for several"),
        (torch.zeros(2, 3, 4, 4), "list for several"),
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), "without pixels"),
        (np.broadcast_to(np.uint8(0), (20_000, 20_000, 3)), "178,956,970 pixels"),
        (12, "int"),
        (None, "NoneType"),
    ],
)
def test_wrong_values(value, message):
    with pytest.raises(ImageError, match=message):
        to_rgb(value)


def png(width, height):
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tiff", "webp", "bmp"])
def test_truncated_files(tmp_path, portrait, suffix):
    portrait.save(tmp_path / f"whole.{suffix}")
    data = (tmp_path / f"whole.{suffix}").read_bytes()
    for keep in (10, 100, len(data) // 2):
        file = tmp_path / f"cut{keep}.{suffix}"
        file.write_bytes(data[:keep])
        with pytest.raises(ImageError, match=file.name):
            to_rgb(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty file"), (b"hello", "not an image"), (png(20_000, 20_000), "178,956,970 pixels")],
)
def test_files_that_are_no_images(tmp_path, content, message):
    file = tmp_path / "odd.png"
    file.write_bytes(content)
    with pytest.raises(ImageError, match=f"odd.png: .*{message}"):
        to_rgb(file)


def test_no_file(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        to_rgb(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="folder"):
        to_rgb(tmp_path)


def large(folder, name, size, **options):
    """A file of the portrait, enlarged by whole pixels, so that writing it takes no memory to speak of."""
    with Image.open(EXAMPLES / "collins.jpg") as portrait:
        portrait.convert("RGB").resize(size, Image.Resampling.NEAREST).save(folder / name, **options)
    return folder / name


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "reduced"), [("jpg", (4200, 3000)), ("png", (4200, 3000))])
def test_more_than_50_megapixels_are_reduced(tmp_path, recognizer, suffix, reduced):
    """Boxes and landmarks are in pixels of the file all the same."""
    file = large(tmp_path, f"large.{suffix}", (8400, 6000))
    image, size = read_rgb(file)
    assert size == (8400, 6000)
    assert image.shape[1::-1] == reduced
    faces = recognizer(file)
    assert faces.size == (8400, 6000)
    small = recognizer(EXAMPLES / "collins.jpg")[0]
    scale = np.array([8400 / 512, 6000 / 512])
    (face,) = faces
    assert np.abs(np.array(face.landmarks) - np.array(small.landmarks) * scale).max() < 100
    assert face.expression == small.expression
    x1, y1, x2, y2 = face.box
    with Image.open(file) as whole:
        assert len(recognizer(whole.crop((x1 - 600, y1 - 600, x2 + 600, y2 + 600)))) == 1
    (again,) = recognizer(file, boxes=[face.box])
    assert np.abs(np.subtract(again.landmarks, face.landmarks)).max() < 60
    (known,) = recognizer(file, landmarks=[face.landmarks])
    assert known.probabilities == pytest.approx(face.probabilities, abs=1e-3)
    tall = ExpressionRecognizer(recognizer.network.model, min_size=face.box_full[3] - face.box_full[1] - 5)
    assert len(tall(file)) == 1


@pytest.mark.slow
def test_a_large_file_that_lies_on_its_side(tmp_path, recognizer):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° to the right
    with Image.open(EXAMPLES / "collins.jpg") as portrait:
        turned = portrait.convert("RGB").rotate(90, expand=True).resize((6000, 8800), Image.Resampling.NEAREST)
    for name in ("turned.jpg", "turned.png"):
        turned.save(tmp_path / name, exif=exif)
        faces = recognizer(tmp_path / name)
        assert faces.size == (8800, 6000)
        (face,) = faces
        assert face.landmarks[0][0] < face.landmarks[1][0]
        assert face.landmarks[0][1] < face.landmarks[3][1]


@pytest.mark.slow
@pytest.mark.parametrize("progressive", [False, True])
def test_two_hundred_megapixels(tmp_path, progressive):
    """In a process of its own: what it takes at most beyond what it had, in bytes a pixel, and the faces."""
    file = large(tmp_path, "200.jpg", (16384, 12288), progressive=progressive)
    code = (
        "import resource; from mrcar_timm import ExpressionRecognizer\n"
        f"recognizer = ExpressionRecognizer(); recognizer({str(EXAMPLES / 'collins.jpg')!r})\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"faces = recognizer({str(file)!r})\n"
        "print(len(faces), faces.size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 (16384, 12288)")
    assert int(done.stdout.split()[-1]) * 1024 < (4.5 if progressive else 2.5) * 16384 * 12288


def test_still_larger_files_are_refused(tmp_path, monkeypatch):
    file = large(tmp_path, "small.jpg", (600, 400))
    png = large(tmp_path, "small.png", (600, 400))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90_000)
    monkeypatch.setattr(images, "REDUCED_PIXELS", 50_000)
    monkeypatch.setattr(images, "_STRIP", 60_000)  # below Pillow's limit, as it is
    assert to_rgb(file, 180_000).shape == (100, 150, 3)
    for refused, limit in ((file, 80_000), (png, 180_000)):
        with pytest.raises(ImageError, match=f"more than {limit:,} pixels"):
            to_rgb(refused, limit)
    assert to_rgb(png, 240_000).shape == (134, 200, 3)  # Pillow's own limit is lower
