"""Files by their path, or by an address that fsspec opens, such as ``s3://bucket/photo.jpg``."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..errors import DataError, MRCARError
from ..images import open_file

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:(//|:)", re.IGNORECASE)
#: No image has more bytes. A file of more is not read into memory.
MOST_BYTES = 2**30


def is_address(name: str) -> bool:
    """Whether a name is an address rather than a path.

    Example:
        >>> is_address("s3://bucket/photo.jpg"), is_address("C:/photo.jpg")
        (True, False)
    """
    return _ADDRESS.match(name) is not None


@contextmanager
def opened(name: str) -> Iterator[IO[bytes]]:
    """A file for reading bytes.

    Raises:
        DataError: Naming it, if it cannot be opened, or not be read.
        MRCARError: If what opens such an address is not installed.
    """
    try:
        if is_address(name):
            system, path = filesystem(name)
            with system.open(path, "rb") as file:
                yield file
        else:
            with open_file(name) as file:
                yield file
    except MRCARError:
        raise
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # each system has errors of its own, which have no base
        if not is_address(name):
            raise
        raise DataError(f"{name}: cannot be read ({type(error).__name__}: {error})") from error


def read_bytes(name: str) -> bytes:
    """The content of a file.

    Raises:
        DataError: Naming it, if it cannot be read, or is larger than any image.
        MRCARError: If what opens such an address is not installed.
    """
    with opened(name) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DataError(f"{name}: larger than {MOST_BYTES:,} bytes")
    return content


def filesystem(address: str) -> tuple[Any, str]:
    """What opens an address, and the path in it.

    Raises:
        MRCARError: If it is not installed, or there is no such thing.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise MRCARError(f"{address}: {error}") from error
    except ValueError as error:
        raise MRCARError(f"{address}: no such kind of address ({error})") from error


def beside(name: str, entry: str) -> str:
    """The path or address of an entry of a list, relative to the list.

    Raises:
        DataError: If it is an address, or leads out of the folder of a list that has one: what is opened over a
            network is named by the user, and not by a file that may be from elsewhere.
    """
    if is_address(entry):
        raise DataError(f"{entry}: an address in a list is not opened; name it on the command line")
    if not is_address(name):
        return str(Path(name).parent / entry)
    if entry.startswith("/") or ".." in entry.split("/"):
        raise DataError(f"{entry}: leads out of the folder of {name}")
    return posixpath.join(posixpath.dirname(name), entry)
