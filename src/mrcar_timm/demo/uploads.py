"""What comes in from browsers: refused before it is read where it is too large, and stored in a place of its own."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import route_utils, routes
from gradio.data_classes import FileData, ImageData
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_ENVELOPE = 1_000_000  # bytes of a request around the file that it brings


class UploadLimits:
    """ASGI middleware that refuses some requests before reading anything of them.

    It refuses requests that announce too many bytes; Gradio cuts off those that do not announce their size as they
    grow. It also refuses screen recordings: this page does not offer them, and Gradio would never delete the files.

    Args:
        app: The application behind it.
        most: Most bytes of a file.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refused(scope) if scope["type"] == "http" else None
        if refused is None:
            await self.app(scope, receive, send)
            return
        status, text = refused
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        """Status and text for a request that is refused."""
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if int(announced or 0) > self.most + _ENVELOPE:
            return 413, f"The file is larger than {self.most / 1e6:,.0f} MB, the most that is taken here."
        if scope["path"].rstrip("/").endswith("/process_recording"):
            return 404, "Not found."
        return None


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


class _Upload(route_utils.GradioUploadFile):
    """A file whose folder nobody else has.

    Gradio names the folder by a digest of the content, so that two visitors who send the same file would share it, and
    lose it when one of them leaves. A random beginning makes every digest another one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sha.update(secrets.token_bytes(32))


class _Parser(route_utils.GradioMultiPartParser):
    """Reads the files of a request, and deletes them if the request is interrupted."""

    async def parse(self) -> FormData:
        try:
            return await super().parse()
        except BaseException as error:
            for file in self._files_to_close_on_error:
                file.close()
                Path(file.name).unlink(missing_ok=True)
            if isinstance(error, ClientDisconnect):  # a closed page is no reason for a traceback
                raise MultiPartException("The upload was interrupted.") from None
            raise


def prepare_uploads() -> None:
    """Let Gradio store each upload in a folder of its own, and delete interrupted ones."""
    route_utils.GradioUploadFile = _Upload
    for module in (route_utils, routes):
        module.GradioMultiPartParser = _Parser
