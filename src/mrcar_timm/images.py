"""Convert any supported image to an RGB uint8 array, or raise an error that says what is wrong."""

from __future__ import annotations

import io
import math
import os
import re
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeGuard, Union

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from .errors import ImageError
from .exposure import to_8_bits

if TYPE_CHECKING:
    import torch

ImageLike: TypeAlias = Union[
    str, os.PathLike[str], bytes, bytearray, memoryview, IO[bytes], Image.Image, np.ndarray, "torch.Tensor"
]

#: More pixels than this are refused, in files and in memory (Pillow's own limit for files). JPEG files may have
#: :data:`JPEG_FACTOR` times as many, since they are reduced while they are decoded.
MAX_PIXELS, JPEG_FACTOR = 178_956_970, 2.8
#: Files of more pixels are reduced to fewer.
REDUCED_PIXELS = 50_000_000
_STRIP = 8_000_000  # pixels that are converted at once where an image is reduced
_CHANNELS = (1, 2, 3, 4)
# What Pillow registers, but cannot decode by itself.
_NOT_DECODED = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF")
# Formats that are known by their first bytes, whatever a file is called.
_BY_CONTENT = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "HEIF")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_HEIC_SUFFIXES = {".heic", ".heif", ".hif"}
_HEIC_HINT = 'HEIC, which needs pillow-heif: pip install "mrcar-timm[heic]"'
_HEAD = 32  # bytes that tell the format


class UnreadableFolderWarning(UserWarning):
    """A folder in a folder could not be looked into."""


@dataclass(frozen=True)
class FoundImages:
    """What is in a folder.

    Attributes:
        files: Image files, sorted.
        left_out: What else there is, with the reason.
        unreadable: Folders that could not be looked into, with the error.
    """

    files: list[Path]
    left_out: dict[Path, str]
    unreadable: dict[Path, str]


def find_images(folder: Path) -> FoundImages:
    """Image files in a folder and its subfolders, and what else is there.

    Images are known by their suffix, else by their first bytes. Linked folders are looked into, each folder once;
    hidden folders, whose names begin with a dot, are left out.

    Args:
        folder: The folder.
    """
    files: list[Path] = []
    left_out: dict[Path, str] = {}
    unreadable: dict[Path, str] = {}

    def note(error: OSError) -> None:
        unreadable[Path(error.filename)] = f"cannot be read ({error.strerror})"

    seen: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=note, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        left_out |= {Path(place, name): "a hidden folder" for name in folders if name[0] == "."}
        folders[:] = [name for name in folders if name[0] != "."]
        for name in names:
            file = Path(place, name)
            reason = _why_no_image(file)
            if reason is None:
                files.append(file)
            else:
                left_out[file] = reason
    return FoundImages(sorted(files), dict(sorted(left_out.items())), dict(sorted(unreadable.items())))


def is_image_file(file: Path) -> bool:
    """Whether a file seems to be an image."""
    return _why_no_image(file) is None


def is_image_name(name: str) -> bool:
    """Whether a file is an image by its name.

    Example:
        >>> is_image_name("photo.JPG"), is_image_name("photo.json"), is_image_name("._photo.jpg")
        (True, False, False)
    """
    return not name.startswith("._") and Path(name).suffix.lower() in _suffixes() | _HEIC_SUFFIXES


def _why_no_image(file: Path) -> str | None:
    """Why a file of a folder is no image; None if it seems to be one, or reading it will tell."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return "a named pipe, socket or device"
    except OSError:
        return None  # a broken link, or no permission
    if file.name.startswith("._"):
        return "kept by macOS beside another file"
    if is_image_name(file.name):
        return None
    try:
        with open_file(file) as opened:
            head = opened.read(_HEAD)
    except OSError:
        return "not readable, and no image by its name"
    return None if _is_heic(head) or any(_accepts(name, head) for name in _BY_CONTENT) else "no image"


@lru_cache
def _suffixes() -> frozenset[str]:
    """Suffixes of the formats that can be read; where it is installed, pillow-heif is registered."""
    with suppress(ImportError, OSError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    known = Image.registered_extensions()  # loads all of Pillow's readers
    return frozenset(suffix for suffix, name in known.items() if name in Image.OPEN and name not in _NOT_DECODED)


def _accepts(name: str, head: bytes) -> bool:
    """Whether bytes are the beginning of a file of a format."""
    accept = Image.OPEN[name][1] if name in Image.OPEN else None
    return bool(head and accept is not None and accept(head) is True)


def _is_heic(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS


def to_rgb(image: ImageLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Convert any supported image to an RGB uint8 array (H, W, 3).

    The EXIF orientation of files and PIL images is applied; the first frame of an animation is taken;
    transparency is composited over white; 16-bit values are scaled, also those of fewer bits.
    Files of more than 50 megapixels are reduced (see :func:`read_rgb`).

    Args:
        image: A path; the bytes of a file, or a file opened for reading bytes; a PIL image of any mode; an array
            (H, W), (H, W, C) or a tensor (H, W), (C, H, W) with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA)
            channels. Values: uint8; uint16 of 8 to 16 bits; other integers in 0…255; floats in 0…1, or in 0…255 where
            one is above 1.
        max_pixels: Images of more pixels are refused before they are decoded; JPEG files, which are reduced while they
            are decoded, may have 2.8 times as many.

    Raises:
        ImageError: Naming the file, where there is one, and the cause.
    """
    return read_rgb(image, max_pixels)[0]


def read_rgb(image: ImageLike, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, tuple[int, int]]:
    """Convert any supported image as :func:`to_rgb` does, and say how large it was.

    Files of more than 50 megapixels are reduced by a whole factor, JPEG files while they are decoded.

    Returns:
        The array (H, W, 3), uint8; and width and height of the upright image before it was reduced.

    Raises:
        ImageError: Naming the file, where there is one, and the cause.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _read(io.BytesIO(image), f"{len(image)} bytes", max_pixels)
    if isinstance(image, (str, os.PathLike)):
        return _read_path(image, max_pixels)
    if isinstance(image, Image.Image):
        array = _from_pil(image, max_pixels)
    elif _is_tensor(image):
        array = _from_tensor(image, max_pixels)
    elif isinstance(image, np.ndarray):
        array = _from_array(image, max_pixels)
    elif hasattr(image, "read"):
        return _read_stream(image, max_pixels)
    else:
        raise ImageError(f"expected a path, bytes, PIL image, array or tensor, got {type(image).__name__}")
    return array, (array.shape[1], array.shape[0])


def _read_path(path: str | os.PathLike[str], max_pixels: int) -> tuple[np.ndarray, tuple[int, int]]:
    name = os.fspath(path)
    if isinstance(path, str) and (problem := _no_path(name)):
        raise ImageError(problem)
    try:
        with open_file(name) as file:
            return _read(file, name, max_pixels)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name}: a folder, not an image") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _no_path(text: str) -> str | None:
    """What a text is that is no path; None if it may be one."""
    if re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE):
        return f"{text[:80]}: URLs are not opened; download the file and pass its bytes, or its path"
    if text.startswith("data:") or (len(text) > 255 and re.fullmatch(r"[A-Za-z0-9+/=\s_-]+", text)):
        return f"{text[:20]}…: text, not a path; if it is base64, pass base64.b64decode(text.split(',')[-1])"
    return None


def open_file(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a regular file; of others, reading may never end."""
    # Opening a named pipe would wait for who writes into it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{path}: a folder")
        if not stat.S_ISREG(mode):
            raise OSError("neither a file nor a folder: a named pipe, socket or device")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _read_stream(stream: Any, max_pixels: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Read an open file, also one that can only be read from its beginning to its end."""
    name = str(getattr(stream, "name", type(stream).__name__))
    try:
        content = stream.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise ImageError(f"{name}: cannot be read ({error})") from error
    if not isinstance(content, (bytes, bytearray)):
        raise ImageError(f"{name}: expected a file opened for reading bytes, got {type(content).__name__}")
    return _read(io.BytesIO(content), name, max_pixels)


def _read(file: IO[bytes], name: str, max_pixels: int) -> tuple[np.ndarray, tuple[int, int]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with _open(file, max_pixels) as image:
                width, height = image.size
                lies = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
                return _from_pil(_reduced(image, max_pixels), max_pixels), (height, width) if lies else (width, height)
    except UnidentifiedImageError as error:
        file.seek(0)
        head = file.read(_HEAD)
        what = _HEIC_HINT if _is_heic(head) else "not an image, or damaged" if head else "empty file"
        raise ImageError(f"{name}: {what}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: more than {max_pixels:,} pixels") from error
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    # Pillow's decoders raise these for damaged files of one format or another.
    except (OSError, ValueError, SyntaxError, EOFError, LookupError, MemoryError, ArithmeticError, TypeError) as error:
        raise ImageError(f"{name}: cannot be read ({error})") from error


def _open(file: IO[bytes], max_pixels: int) -> Image.Image:
    """Open a file by its content, within the limit on pixels, which Pillow has none for each call of."""
    _suffixes()  # registers what there is
    try:
        image = Image.open(file)
    except Image.DecompressionBombError:
        file.seek(0)
        head = file.read(_HEAD)
        file.seek(0)
        name = next((name for name in Image.ID if _accepts(name, head)), None)
        if name is None:
            raise
        image = Image.OPEN[name][0](file, "")
    factor = JPEG_FACTOR if isinstance(image, JpegImageFile) else 1
    if image.width * image.height > factor * max_pixels:
        image.close()
        raise Image.DecompressionBombError
    return image


def _reduced(image: Image.Image, max_pixels: int) -> Image.Image:
    """The image, reduced to 50 megapixels: JPEG files while they are decoded, others in strips, to save memory."""
    most = min(REDUCED_PIXELS, max_pixels)
    if image.width * image.height <= most:
        return image
    factor = math.ceil(math.sqrt(image.width * image.height / most))
    if isinstance(image, JpegImageFile):
        # Of the reductions that its decoder knows, the least that suffices.
        power = next(power for power in (2, 4, 8) if power >= min(factor, 8))
        image.draft(None, (image.width // power, image.height // power))
        return image
    image.load()
    exif = image.getexif()
    wide = _is_wide(image)
    parts = [_block_means(strip, factor) if wide else _reduced_rgb(strip, factor) for strip in _strips(image, factor)]
    image.close()  # its memory is needed no more
    reduced = Image.fromarray(np.concatenate(parts))
    reduced.info["exif"] = exif.tobytes()
    return reduced


def _is_wide(image: Image.Image) -> bool:
    """Whether an image has more than 8 bits a channel."""
    return image.mode.startswith("I") or image.mode == "F"


def _strips(image: Image.Image, factor: int) -> Iterator[Image.Image]:
    """An image in strips over its whole width, whose height is a multiple of the factor."""
    rows = factor * max(1, _STRIP // (image.width * factor))
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _reduced_rgb(strip: Image.Image, factor: int) -> np.ndarray:
    return np.asarray(Image.fromarray(_pil_to_rgb(strip)).reduce(factor))


def _block_means(strip: Image.Image, factor: int) -> np.ndarray:
    """Means over blocks of a strip of more than 8 bits, in its own type."""
    values = np.asarray(strip)
    rows, columns = (np.arange(0, side, factor) for side in values.shape)
    sums = np.add.reduceat(np.add.reduceat(values, columns, 1, np.float64), rows, 0)
    sizes = [np.diff([*starts, side]) for starts, side in zip((rows, columns), values.shape, strict=True)]
    means = sums / np.outer(*sizes)
    return (means if values.dtype.kind == "f" else means.round()).astype(values.dtype.newbyteorder("="))


def _from_pil(image: Image.Image, max_pixels: int) -> np.ndarray:
    _check_size(image.width, image.height, max_pixels)
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # it would be copied all the same
        image = ImageOps.exif_transpose(image)
    return _pil_to_rgb(image)


def _pil_to_rgb(image: Image.Image) -> np.ndarray:
    if _is_wide(image):
        values = np.asarray(image)
        if image.mode == "I" and values.size and values.max() > 255:
            # Pillow reads some 16-bit files as 32-bit integers.
            if values.min() < 0 or values.max() > 65535:
                raise ImageError(f"integer values {values.min()}…{values.max()} are neither 8 nor 16 bits")
            values = values.astype(np.uint16)
        return _to_rgb_channels(_to_uint8(values))
    if image.mode == "La":
        image = image.convert("LA")  # Pillow converts it to nothing else
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _is_tensor(image: object) -> TypeGuard[torch.Tensor]:
    """Whether this is a tensor; where PyTorch was not imported, nothing is."""
    return "torch" in sys.modules and isinstance(image, sys.modules["torch"].Tensor)


def _from_tensor(tensor: torch.Tensor, max_pixels: int) -> np.ndarray:
    if tensor.ndim == 3:
        if tensor.shape[0] not in _CHANNELS and tensor.shape[2] in _CHANNELS:
            raise ImageError(f"tensors are (C, H, W), got {tuple(tensor.shape)}; is this (H, W, C)?")
        tensor = tensor.permute(1, 2, 0)
    elif tensor.ndim != 2:
        raise ImageError(_rank_error(tuple(tensor.shape), "(H, W) or (C, H, W)"))
    tensor = tensor.detach().cpu()
    return _from_array((tensor.float() if tensor.is_floating_point() else tensor).numpy(), max_pixels)


def _from_array(array: np.ndarray, max_pixels: int) -> np.ndarray:
    if array.ndim not in (2, 3):
        raise ImageError(_rank_error(array.shape, "(H, W) or (H, W, C)"))
    if array.ndim == 3 and array.shape[2] not in _CHANNELS:
        hint = "; is this (C, H, W)?" if array.shape[0] in _CHANNELS else ""
        raise ImageError(f"arrays are (H, W, C) with 1 to 4 channels, got {array.shape}{hint}")
    _check_size(array.shape[1], array.shape[0], max_pixels)
    return _to_rgb_channels(_to_uint8(array))


def _to_rgb_channels(values: np.ndarray) -> np.ndarray:
    """RGB of uint8 values of 1 to 4 channels."""
    if values.ndim == 2:
        values = values[:, :, None]
    channels = values.shape[2]
    if channels in (2, 4):
        return _pil_to_rgb(Image.fromarray(np.ascontiguousarray(values)))
    return np.repeat(values, 3, axis=2) if channels == 1 else np.ascontiguousarray(values)


def _to_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if np.issubdtype(array.dtype, np.uint16):  # of either byte order
        return to_8_bits(array)
    if np.issubdtype(array.dtype, np.integer):
        if array.min() < 0 or array.max() > 255:
            raise ImageError(f"values of {array.dtype} must be in 0…255, got {array.min()}…{array.max()}")
        return array.astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ImageError("values must be finite, got NaN or infinity")
        low, high = float(array.min()), float(array.max())
        if low < 0 or high > 255:
            raise ImageError(f"float values must be in 0…1 or 0…255, got {low:.3g}…{high:.3g}; normalized already?")
        return np.round(array.astype(np.float64) * (255 if high <= 1 else 1)).astype(np.uint8)
    raise ImageError(f"values must be numbers, got {array.dtype}")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width == 0 or height == 0:
        raise ImageError(f"an image without pixels ({width}×{height})")
    if width * height > max_pixels:
        raise ImageError(f"{width}×{height} are more than {max_pixels:,} pixels")


def _rank_error(shape: tuple[int, ...], expected: str) -> str:
    hint = "; pass a list for several images" if len(shape) == 4 else ""
    return f"expected {expected}, got shape {shape}{hint}"
