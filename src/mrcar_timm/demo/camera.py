"""The camera's tab: frames go to the worker one by one, and only what was found comes back."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import MRCARError
from . import worker
from .pool import Worker
from .visitors import Visitors

_SCRIPT = (Path(__file__).parent / "camera.js").read_text(encoding="utf-8")
_MOST_BYTES = 4_000_000  # of a frame
_TEMPLATE = """
<div class="camera">
  <div class="stage"><video muted playsinline></video><canvas></canvas></div>
  <div class="side"><button type="button">Start the camera</button><p class="status" role="status"></p>
  <div class="bars"></div></div>
</div>
"""


def camera_component(work: Worker, visitors: Visitors) -> gr.HTML:
    """The component, within :class:`gradio.Blocks`."""

    async def follow_frame(data: dict[str, Any]) -> dict[str, Any]:
        """Faces of a frame: whose camera it is of, an image as a data URL, and its time in seconds."""
        try:
            session = str(data["visitor"])
            frame = base64.b64decode(data["image"].partition(",")[2], validate=True)
            time = float(data["time"])
        except (binascii.Error, KeyError, AttributeError, TypeError, ValueError):
            return {"error": "This is no frame of a camera."}
        if len(frame) > _MOST_BYTES:
            return {"error": "The frames of this camera are too large."}
        try:
            faces = await work.run(worker.follow, session, visitors[session].choice, frame, time)
        except MRCARError as error:
            return {"error": str(error)}
        return {"faces": faces or [], "late": faces is None}

    return gr.HTML(
        html_template=_TEMPLATE,
        js_on_load=_SCRIPT,
        server_functions=[follow_frame],
        elem_id="camera-tab",
        container=False,
    )
