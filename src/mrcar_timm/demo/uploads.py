"""What comes in from browsers: refused before it is read where it is too large, and stored in a place of its own."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import gradio as gr
from gradio import route_utils
from gradio.data_classes import FileData, ImageData

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_ENVELOPE = 1_000_000  # bytes of a request around the file that it brings


class SizeLimit:
    """ASGI middleware that refuses requests that announce more than a number of bytes, before anything is read.

    Those that do not announce their size are cut off by Gradio as they grow.

    Args:
        app: The application behind it.
        most: Most bytes of a file.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        announced = dict(scope.get("headers") or ()).get(b"content-length", b"0")
        if scope["type"] == "http" and int(announced or 0) > self.most + _ENVELOPE:
            text = f"The file is larger than {self.most / 1e6:,.0f} MB, the most that is taken here.".encode()
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 413, "headers": headers})
            await send({"type": "http.response.body", "body": text})
            return
        await self.app(scope, receive, send)


class UploadedFile(gr.File):
    """Gives functions the path of what was sent; Gradio's component leaves an empty file behind for each."""

    is_template = True  # the browser knows it as the class above

    def preprocess(self, payload: FileData | None) -> str | None:
        return None if payload is None else payload.path


class UploadedImage(gr.Image):
    """Gives functions the path of what was sent, image or not; Gradio's component raises errors of its own."""

    is_template = True

    def preprocess(self, payload: ImageData | None) -> str | None:
        return None if payload is None else payload.path


def store_apart() -> None:
    """Let Gradio store each upload in a folder of its own.

    Gradio names the folder by a digest of the content, so that two visitors who send the same file would share it, and
    lose it when one of them leaves. A random beginning makes every digest another one.
    """

    class Upload(route_utils.GradioUploadFile):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.sha.update(secrets.token_bytes(32))

    route_utils.GradioUploadFile = Upload
