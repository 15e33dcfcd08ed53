"""The weights in the package."""

from __future__ import annotations

from pathlib import Path

from ..errors import WeightsError
from .record import Record

WEIGHTS_DIR = Path(__file__).parent.parent / "weights"

#: The tag that ``pretrained=True`` loads, by architecture.
DEFAULT_TAGS = {"mrcar_mobilenet": "everyday", "mrcar_resnet": "fer2013"}

#: The records of the packaged weights, by name; each in a folder of that name.
PACKAGED: dict[str, Record] = {
    file.parent.name: Record.read(file.parent) for file in sorted(WEIGHTS_DIR.glob("*/record.json"))
}


def default_name(architecture: str = "mrcar_mobilenet") -> str:
    """The name of the weights that ``pretrained=True`` loads; those of the recognizer if no architecture is named.

    Raises:
        WeightsError: If they are not installed.
    """
    name = f"{architecture}.{DEFAULT_TAGS.get(architecture)}"
    if name not in PACKAGED:
        raise WeightsError(f"no weights of {architecture!r} are installed with this package")
    return name
