"""Convert any supported image to an RGB uint8 array, or raise an error that says what is wrong."""

from __future__ import annotations

import math
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeGuard, Union

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from .errors import ImageError
from .exposure import to_8_bits

if TYPE_CHECKING:
    import torch

ImageLike: TypeAlias = Union[str, os.PathLike[str], Image.Image, np.ndarray, "torch.Tensor"]

#: More pixels than this are refused, in files and in memory (Pillow's own limit for files), and in JPEG files, which
#: can be reduced while they are decoded.
MAX_PIXELS, MAX_JPEG_PIXELS = 178_956_970, 500_000_000
#: Files of more pixels are reduced to fewer.
REDUCED_PIXELS = 50_000_000
# Modes that Pillow can reduce.
_REDUCIBLE = ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr")
_CHANNELS = (1, 2, 3, 4)
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


def find_images(folder: Path) -> list[Path]:
    """Image files in a folder and its subfolders, by their suffix, sorted."""
    return sorted(file for file in folder.rglob("*") if is_image_name(file.name))


def is_image_name(name: str) -> bool:
    """Whether a file's suffix is that of an image."""
    return os.path.splitext(name)[1].lower() in _SUFFIXES


def to_rgb(image: ImageLike) -> np.ndarray:
    """Convert any supported image to an RGB uint8 array (H, W, 3).

    The EXIF orientation of files and PIL images is applied; the first frame of an animation is taken;
    transparency is composited over white; 16-bit values are scaled, also those of fewer bits.
    Files of more than 50 megapixels are reduced (see :func:`read_rgb`).

    Args:
        image: A path; a PIL image of any mode; an array (H, W), (H, W, C) or a tensor (H, W),
            (C, H, W) with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA) channels. Values: uint8;
            uint16 of 8 to 16 bits; other integers in 0…255; floats in 0…1, or in 0…255 where
            one is above 1.

    Raises:
        ImageError: Naming the file, where there is one, and the cause.
    """
    return read_rgb(image)[0]


def read_rgb(image: ImageLike) -> tuple[np.ndarray, tuple[int, int]]:
    """Convert any supported image as :func:`to_rgb` does, and say how large it was.

    Files of more than 50 megapixels are reduced by a whole factor, JPEG files while they are decoded.

    Returns:
        The array (H, W, 3), uint8; and width and height of the upright image before it was reduced.

    Raises:
        ImageError: Naming the file, where there is one, and the cause.
    """
    if isinstance(image, (str, os.PathLike)):
        return _read(Path(image))
    if isinstance(image, Image.Image):
        array = _from_pil(image)
    elif _is_tensor(image):
        array = _from_tensor(image)
    elif isinstance(image, np.ndarray):
        array = _from_array(image)
    else:
        raise ImageError(f"expected a path, PIL image, array or tensor, got {type(image).__name__}")
    return array, (array.shape[1], array.shape[0])


def _read(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with _open(path) as image:
                width, height = image.size
                lies = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
                return _from_pil(_reduced(image)), (height, width) if lies else (width, height)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path}: a folder, not an image") from error
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0
        raise ImageError(f"{path}: {'empty file' if empty else 'not an image, or damaged'}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: more than {MAX_PIXELS:,} pixels") from error
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    # Pillow's decoders raise these for damaged files of one format or another.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, MemoryError, OverflowError) as error:
        raise ImageError(f"{path}: cannot be read ({error})") from error


def _open(path: Path) -> Image.Image:
    """Open a file; JPEG files also beyond Pillow's limit, since they can be reduced while they are decoded."""
    try:
        return Image.open(path)
    except Image.DecompressionBombError:
        with open(path, "rb") as file:
            if file.read(2) != b"\xff\xd8":
                raise
        image = JpegImageFile(path)
        if not MAX_PIXELS < image.width * image.height <= MAX_JPEG_PIXELS:
            image.close()
            raise
        return image


def _reduced(image: Image.Image) -> Image.Image:
    """The image, reduced to 50 megapixels where its format and mode allow."""
    if image.width * image.height <= REDUCED_PIXELS:
        return image
    factor = math.ceil(math.sqrt(image.width * image.height / REDUCED_PIXELS))
    if isinstance(image, JpegImageFile):
        # Of the reductions that its decoder knows, the least that suffices.
        power = next(power for power in (2, 4, 8) if power >= min(factor, 8))
        image.draft(None, (image.width // power, image.height // power))
    elif image.mode in _REDUCIBLE:
        exif = image.getexif()
        image = image.reduce(factor)
        image.info["exif"] = exif.tobytes()
    return image


def _from_pil(image: Image.Image) -> np.ndarray:
    _check_size(image.width, image.height)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if image.mode == "I" and values.size and values.max() > 255:
            # Pillow reads some 16-bit files as 32-bit integers.
            if values.min() < 0 or values.max() > 65535:
                raise ImageError(f"integer values {values.min()}…{values.max()} are neither 8 nor 16 bits")
            values = values.astype(np.uint16)
        return _from_array(values)
    if image.mode == "La":
        image = image.convert("LA")  # Pillow converts it to nothing else
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _is_tensor(image: object) -> TypeGuard[torch.Tensor]:
    """Whether this is a tensor; where PyTorch was not imported, nothing is."""
    return "torch" in sys.modules and isinstance(image, sys.modules["torch"].Tensor)


def _from_tensor(tensor: torch.Tensor) -> np.ndarray:
    if tensor.ndim == 3:
        if tensor.shape[0] not in _CHANNELS and tensor.shape[2] in _CHANNELS:
            raise ImageError(f"tensors are (C, H, W), got {tuple(tensor.shape)}; is this (H, W, C)?")
        tensor = tensor.permute(1, 2, 0)
    elif tensor.ndim != 2:
        raise ImageError(_rank_error(tuple(tensor.shape), "(H, W) or (C, H, W)"))
    tensor = tensor.detach().cpu()
    return _from_array((tensor.float() if tensor.is_floating_point() else tensor).numpy())


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.ndim not in (2, 3):
        raise ImageError(_rank_error(array.shape, "(H, W) or (H, W, C)"))
    if array.ndim == 3 and array.shape[2] not in _CHANNELS:
        hint = "; is this (C, H, W)?" if array.shape[0] in _CHANNELS else ""
        raise ImageError(f"arrays are (H, W, C) with 1 to 4 channels, got {array.shape}{hint}")
    _check_size(array.shape[1], array.shape[0])
    values = _to_uint8(array)
    if values.ndim == 2:
        values = values[:, :, None]
    channels = values.shape[2]
    if channels in (2, 4):
        return _from_pil(Image.fromarray(np.ascontiguousarray(values)))
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


def _check_size(width: int, height: int) -> None:
    if width == 0 or height == 0:
        raise ImageError(f"an image without pixels ({width}×{height})")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}×{height} are more than {MAX_PIXELS:,} pixels")


def _rank_error(shape: tuple[int, ...], expected: str) -> str:
    hint = "; pass a list for several images" if len(shape) == 4 else ""
    return f"expected {expected}, got shape {shape}{hint}"
