"""The page: three tabs, and an API of the same functions."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from ..drawing import LAYERS
from ..errors import MRCARError
from . import worker
from .camera import camera_component
from .pool import Worker
from .uploads import UploadedFile, UploadedImage
from .visitors import Visitor, Visitors
from .worker import Choice

TITLE = "Facial expressions · mrcar-timm"
NOTE = (
    "An expression is what a face shows, **not what a person feels**. Do not use this to decide about people. The EU's "
    "AI Act forbids inferring emotions at work and in education. Photos, films and frames are computed on the machine "
    "that serves this page, sent nowhere else, and deleted when the page is closed, at the latest after an hour."
)
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_PASTE = (Path(__file__).parent / "paste.js").read_text(encoding="utf-8")
_ASKED_AGAIN = 0.5  # seconds after which a film is looked at again
_DARK = "() => document.body.classList.toggle('dark')"
_COLUMNS = ("face", "expression", "probability", "score", "x1", "y1", "x2", "y2")


def build_page(work: Worker, visitors: Visitors, models: list[str]) -> gr.Blocks:
    """Make the page.

    Args:
        work: What computes.
        visitors: Who is there.
        models: Names of the networks that can be chosen, the first one first.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 3600)) as page:
        _add_api(work, visitors, models)
        with gr.Row(elem_id="head"):
            gr.Markdown("# Facial expressions")
            network = gr.Dropdown(models, label="Network", value=models[0], elem_id="network", interactive=True)
            which = gr.Radio(["all", "largest"], value="all", label="Faces", elem_id="which", interactive=True)
            gr.Button("Dark / light", size="sm", min_width=80, elem_id="dark", scale=0).click(
                None, js=_DARK, api_visibility="private"
            )
        with gr.Tab("Photo", id="photo"):
            PhotoTab(work, visitors).build(network, which)
        with gr.Tab("Camera", id="camera"):
            camera = camera_component(work, visitors)
        with gr.Tab("Video", id="video"):
            VideoTab(work, visitors).build(network, which)
        gr.Markdown(NOTE, elem_id="note")

        def choose(network: str, which: str, request: gr.Request) -> None:
            visitors[_session(request)].choice = Choice(network, which)

        for changed in (network, which):
            changed.change(choose, [network, which], None, queue=False, api_visibility="private")

        def greet(request: gr.Request) -> Any:
            return gr.HTML(visitor=_session(request))  # calls from the camera's script have no session

        page.load(None, js=_PASTE, api_visibility="private")
        page.load(greet, None, camera, queue=False, show_progress="hidden", api_visibility="private")

        async def leave(request: gr.Request) -> None:
            film = visitors[_session(request)].film
            if film is not None:
                await work.run(worker.stop_film, film)
            visitors.leave(_session(request))

        page.unload(leave)
    return page


class PhotoTab:
    """Upload, faces, what each of them shows, and why."""

    def __init__(self, work: Worker, visitors: Visitors) -> None:
        self.work, self.visitors = work, visitors

    def build(self, network: gr.Dropdown, which: gr.Radio) -> None:
        found = gr.State({})
        with gr.Row():
            with gr.Column(scale=2):
                photo = UploadedImage(
                    label="Photo", type="filepath", sources=["upload", "clipboard"], image_mode=None, height=240,
                    elem_id="photo",
                )  # fmt: skip
                examples = sorted(map(str, self.visitors.examples.iterdir()))
                gr.Examples(examples, photo, api_visibility="private", label="Examples")
                bars = gr.Label(label="Click a face", num_top_classes=10, elem_id="bars", show_heading=False)
                faces = gr.Radio([], label="Face", visible=False, elem_id="faces")
            with gr.Column(scale=3):
                drawn = gr.Image(
                    label="Faces", type="filepath", interactive=False, elem_id="drawn", height=520,
                    buttons=["fullscreen"],
                )  # fmt: skip
                layers = gr.CheckboxGroup(list(LAYERS), value=["boxes", "labels"], label="Layers", elem_id="layers")
                message = gr.Markdown(elem_id="message")
        table = gr.Dataframe(headers=list(_COLUMNS), label="Faces", visible=False, interactive=False, elem_id="table")
        with gr.Row():
            files = [_download(kind, kind) for kind in ("CSV", "JSON", "PNG")]
        why = gr.Checkbox(False, label="Why? Evidence for the expression of the chosen face", elem_id="why")
        evidence = gr.Image(
            label="Evidence", type="filepath", interactive=False, visible=False, elem_id="evidence",
            buttons=["download", "fullscreen"],  # Gradio's third would upload it to the Hugging Face Hub
        )  # fmt: skip

        seen = [found, drawn, bars, faces, table, *files, message]
        again = [found, why]
        gr.on(
            [photo.change, network.change, which.change],
            self.recognize, [photo, network, which, layers], seen,
            trigger_mode="always_last", concurrency_id="photo", api_visibility="private", show_progress_on=drawn,
        ).then(
            self.explain, again, evidence, concurrency_id="photo", api_visibility="private"
        )  # fmt: skip
        layers.change(
            self.draw, [found, layers], [drawn, files[2]], trigger_mode="always_last", show_progress="hidden",
            concurrency_id="photo", api_visibility="private",
        )  # fmt: skip
        gr.on(
            [drawn.select, faces.input, table.select],
            self.choose, [found, faces, layers], [found, drawn, bars, faces, files[2]],
            trigger_mode="always_last", show_progress="hidden", concurrency_id="photo", api_visibility="private",
        ).then(
            self.explain, again, evidence, concurrency_id="photo", api_visibility="private"
        )  # fmt: skip
        why.change(self.explain, again, evidence, concurrency_id="photo", api_visibility="private")

    async def recognize(
        self, photo: str | None, network: str, which: str, layers: list[str], request: gr.Request
    ) -> list[Any]:
        """Everything that is shown of a photo."""
        if photo is None:
            self.visitors.begin(_session(request), "photo")
            return self._shown({}, None, "")
        folder = self.visitors.begin(_session(request), "photo", photo)
        try:
            found = await self.work.run(worker.recognize, Path(photo), Choice(network, which), folder)
        except MRCARError as error:
            return self._shown({}, None, f"**{_for_visitors(error)}**")
        found |= {"folder": folder, "photo": Path(photo), "choice": Choice(network, which), "chosen": 0}
        drawn = await self.work.run(worker.draw, folder, found["faces"], found["scale"], layers, 0)
        count = len(found["faces"])
        several = f"{count} faces. Click one, in the image or the table."
        text = {0: "**No face found.**", 1: "One face."}.get(count, several)
        return self._shown(found, drawn, text)

    def _shown(self, found: dict[str, Any], drawn: Path | None, text: str) -> list[Any]:
        faces = found.get("faces", [])
        rows = [[_cell(_flat(face)[name]) for name in _COLUMNS] for face in faces]
        names = [(f"{face['number']} {face['expression']}", index) for index, face in enumerate(faces)]
        files = [found["folder"] / "faces.csv", found["folder"] / "faces.json", drawn] if found else [None] * 3
        return [
            found,
            gr.Image(value=drawn),
            _bars(faces, 0),
            gr.Radio(names, value=0 if faces else None, visible=len(faces) > 1),
            gr.Dataframe(value=rows, visible=bool(faces)),
            *(gr.DownloadButton(value=file, visible=bool(found)) for file in files),
            text,
        ]

    async def draw(self, found: dict[str, Any], layers: list[str]) -> list[Any]:
        """The photo with other layers."""
        if not found:
            return [None, None]
        drawn = await self.work.run(
            worker.draw, found["folder"], found["faces"], found["scale"], layers, found["chosen"]
        )
        return [drawn, drawn]

    async def choose(
        self, found: dict[str, Any], face: int | None, layers: list[str], event: gr.EventData
    ) -> list[Any]:
        """Another face: the one that was clicked in the image, in the table, or in the list."""
        if not found or not found["faces"]:
            return [found, gr.skip(), gr.skip(), gr.skip(), gr.skip()]
        index = event._data.get("index") if event._data else None
        if isinstance(index, (list, tuple)) and event.target.elem_id == "drawn":
            face = _face_at(found["faces"], [value / found["scale"] for value in index])
        elif isinstance(index, (list, tuple)):
            face = index[0]
        if face is None or not 0 <= face < len(found["faces"]):
            return [found, gr.skip(), gr.skip(), gr.skip(), gr.skip()]
        found = {**found, "chosen": face}
        drawn, file = await self.draw(found, layers)
        return [found, drawn, _bars(found["faces"], face), face, file]

    async def explain(self, found: dict[str, Any], why: bool) -> Any:
        """The drawing of the evidence, where it is asked for."""
        if not why or not found or not found["faces"]:
            return gr.Image(value=None, visible=False)
        with _told():
            explained = await self.work.run(
                worker.explain, found["photo"], found["choice"], found["chosen"], found["folder"]
            )
        return gr.Image(value=explained["drawn"], visible=True)


class VideoTab:
    """A film in; the film with its faces, a table and a timeline out."""

    def __init__(self, work: Worker, visitors: Visitors) -> None:
        self.work, self.visitors = work, visitors

    def build(self, network: gr.Dropdown, which: gr.Radio) -> None:
        with gr.Row():
            with gr.Column(scale=2):
                film = UploadedFile(label="Film", file_types=["video"], elem_id="film")
                message = gr.Markdown(elem_id="film-message")
                stop = gr.Button("Stop", visible=False, elem_id="stop", size="sm")
                files = [_download(kind, f"film-{kind}") for kind in ("CSV", "MP4", "PNG")]
            with gr.Column(scale=3):
                followed = gr.Video(label="Faces", interactive=False, elem_id="followed", height=480, buttons=[])
        table = gr.Dataframe(
            headers=["face", "frames", "from s", "to s", "expressions, in parts of the frames"],
            visible=False, interactive=False, label="Faces", elem_id="film-table",
        )  # fmt: skip
        timeline = gr.Image(
            label="Expressions over time", interactive=False, visible=False, elem_id="timeline", buttons=["fullscreen"]
        )
        running = film.upload(
            self.follow, [film, network, which], [message, stop, followed, table, timeline, *files],
            concurrency_id="film", concurrency_limit=1, api_visibility="private", show_progress="minimal",
            show_progress_on=message,
        )  # fmt: skip
        stop.click(self.stop, None, None, queue=False, api_visibility="private")
        film.clear(self.stop, None, None, queue=False, api_visibility="private", cancels=[running])

    async def stop(self, request: gr.Request) -> None:
        """End the visitor's film early; what was done is shown."""
        name = self.visitors[_session(request)].film
        if name is not None:
            await self.work.run(worker.stop_film, name)

    async def follow(self, film: str | None, network: str, which: str, request: gr.Request) -> AsyncIterator[list[Any]]:
        """Progress, and at the end what came out."""
        session = _session(request)
        hidden = [gr.Dataframe(visible=False), gr.Image(visible=False), *[gr.DownloadButton(visible=False)] * 3]
        if film is None:
            yield ["", gr.Button(visible=False), None, *hidden]
            return
        folder = self.visitors.begin(session, "film", film)
        yield ["Opening the film …", gr.Button(visible=True), None, *hidden]
        state: dict[str, Any] = {}
        try:
            async for state in _film_states(
                self.work, self.visitors[session], Path(film), Choice(network, which), folder
            ):
                of = f" of {state['total']}" if state["total"] else ""
                yield [f"Frame {state['done']}{of}", *[gr.skip()] * 7]
        except MRCARError as error:
            yield [f"**{_for_visitors(error)}**", gr.Button(visible=False), None, *hidden]
            return
        result = state["result"]
        files = result["files"]
        damages = " ".join(f"**{damage}.**" for damage in result["damages"])
        yield [
            f"{result['frames']} frames, {result['speed']:.1f} a second. {damages}",
            gr.Button(visible=False),
            files.get("out"),
            gr.Dataframe(value=result["rows"], visible=True),
            gr.Image(value=files.get("plot"), visible="plot" in files),
            *(gr.DownloadButton(value=files.get(key), visible=key in files) for key in ("table", "out", "plot")),
        ]


async def _film_states(
    work: Worker, visitor: Visitor, film: Path, choice: Choice, folder: Path
) -> AsyncIterator[dict[str, Any]]:
    """How far a film is, until its result is there; if nobody waits for that any more, the film is stopped.

    Raises:
        MRCARError: If it cannot be read.
    """
    visitor.film = name = await work.run(worker.start_film, film, choice, folder)
    try:
        while True:
            state = await work.run(worker.look_at_film, name)
            if state["error"]:
                raise MRCARError(state["error"])
            yield state
            if state["result"]:
                return
            await asyncio.sleep(_ASKED_AGAIN)
    finally:
        visitor.film = None
        await work.run(worker.forget_film, name)


def _add_api(work: Worker, visitors: Visitors, models: list[str]) -> None:
    """Endpoints for programs, which have no place on the page."""
    with gr.Row(visible=False):
        image, button = UploadedFile(label="image"), gr.Button()
        network = gr.Dropdown(models, value=models[0], label="network")
        which = gr.Radio(["all", "largest"], value="all", label="faces")
        number = gr.Number(1, precision=0, label="face")
        film = UploadedFile(label="film")
        answer, drawing, files = gr.JSON(), gr.Image(type="filepath"), [gr.File() for _ in range(3)]

    async def recognize(image: str | None, network: str, faces: str, request: gr.Request) -> dict[str, Any]:
        """Faces of a photo: box, landmarks, expression and probabilities of each."""
        with _told():
            path = _sent(image)
            folder = visitors.begin(_session(request), "api", path)
            found = await work.run(worker.recognize, path, Choice(network, faces), folder)
        return {"faces": found["faces"]}

    async def explain(
        image: str | None, network: str, faces: str, face: int, request: gr.Request
    ) -> tuple[dict[str, Any], Path]:
        """Where the evidence for the expression of a face lies: numbers for each region, and heat maps as an image."""
        with _told():
            path = _sent(image)
            folder = visitors.begin(_session(request), "api", path)
            found = await work.run(worker.explain, path, Choice(network, faces), face - 1, folder)
        return {key: value for key, value in found.items() if key != "drawn"}, found["drawn"]

    async def follow(film: str | None, network: str, faces: str, request: gr.Request) -> tuple[Any, ...]:
        """Faces of a film: number, frames, first and last second, expressions; the film, a table, and a plot."""
        session = _session(request)
        with _told():
            path = _sent(film)
            folder = visitors.begin(session, "api", path)
            states = _film_states(work, visitors[session], path, Choice(network, faces), folder)
            *_, last = [state async for state in states]
        result = last["result"]
        return result["rows"], *(result["files"].get(key) for key in ("out", "table", "plot"))

    button.click(recognize, [image, network, which], answer, concurrency_id="photo", api_name="recognize")
    button.click(
        explain, [image, network, which, number], [answer, drawing], concurrency_id="photo", api_name="explain"
    )
    button.click(follow, [film, network, which], [answer, *files], concurrency_id="film", api_name="follow")


def _download(text: str, elem_id: str) -> gr.DownloadButton:
    return gr.DownloadButton(text, visible=False, elem_id=elem_id, size="sm")


def _session(request: gr.Request) -> str:
    """The visitor's name; programs that have none are another visitor each time."""
    return request.session_hash or secrets.token_hex(16)


def _sent(path: str | None) -> Path:
    """The file that a program sent.

    Raises:
        MRCARError: If it sent none.
    """
    if path is None:
        raise MRCARError("no file was sent")
    return Path(path)


@contextmanager
def _told() -> Iterator[None]:
    """Tell visitors what the package's errors say."""
    try:
        yield
    except MRCARError as error:
        raise gr.Error(_for_visitors(error), print_exception=False) from None


def _for_visitors(error: MRCARError) -> str:
    """What a visitor is told: without the places of files on this machine."""
    text = str(error)
    head, colon, rest = text.partition(": ")
    name = Path(head).name if colon and "/" in head else head
    return f"{name}{colon}{rest}"


def _flat(face: dict[str, Any]) -> dict[str, Any]:
    return {**face, "face": face["number"], **dict(zip(("x1", "y1", "x2", "y2"), face["box"], strict=True))}


def _cell(value: Any) -> Any:
    return "" if value is None else value


def _bars(faces: list[dict[str, Any]], index: int) -> Any:
    if not faces:
        return gr.Label(value=None, label="Click a face")
    face = faces[index]
    return gr.Label(value=face["probabilities"], label=f"Face {face['number']}")


def _face_at(faces: list[dict[str, Any]], point: list[float]) -> int | None:
    """The smallest face whose box has a point, or None."""
    x, y = point
    hit = []
    for index, face in enumerate(faces):
        x1, y1, x2, y2 = face["box"]
        if x1 <= x <= x2 and y1 <= y <= y2:
            hit.append(((x2 - x1) * (y2 - y1), index))
    return min(hit)[1] if hit else None
