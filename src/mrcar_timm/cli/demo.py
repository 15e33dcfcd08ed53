"""``mrcar demo``."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from ..errors import MRCARError

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A network to choose besides the packaged ones: a run folder, hf-hub:ORG/NAME; can be repeated."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is all of this machine's.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; the first free one from 7860 on if left out.")
    ] = None,
    auth: Annotated[str | None, typer.Option(metavar="USER:PASSWORD", help="Ask visitors for these.")] = None,
    max_upload: Annotated[str, typer.Option(help="Largest file that is taken, such as 20mb or 2gb.")] = "500mb",
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Show the page in a browser.")] = True,
) -> None:
    """Serve a page for photos, the camera and films, on this machine alone, until Ctrl-C.

    Example: `mrcar demo`
    """
    from ..demo import launch

    user, colon, password = (auth or "").partition(":")
    if auth is not None and not (user and colon and password):
        raise MRCARError("--auth takes USER:PASSWORD")
    launch(
        model or (),
        host=host,
        port=port,
        auth=(user, password) if auth else None,
        max_upload=_bytes(max_upload),
        open_browser=open_browser,
    )


def _bytes(size: str) -> int:
    """The number of bytes of a size with a unit."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]b)?", size.strip().lower())
    if found is None or not float(found[1]):
        raise MRCARError(f"--max-upload takes a size such as 20mb or 2gb, got {size}")
    return round(float(found[1]) * _UNITS[found[2] or ""])
