"""Measure what docs/deploy.md says; one command a file in results/.

python -m tools.deploy scores DATA         # results/export.json: both precisions on the validation split of its data
python -m tools.deploy runtime             # results/runtime.json: start, memory, detection, video; nothing else may run
python -m tools.deploy browser ORT PHOTOS  # results/browser.json: headless Chromium, by playwright
"""

import functools
import gzip
import http.server
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image, ImageOps

from mrcar_timm import ExpressionRecognizer, FaceTracker, MTCNNDetector, runtime
from mrcar_timm.checkpoints.packaged import PACKAGED, default_name
from mrcar_timm.cli.console import bar
from mrcar_timm.experiments.benchmark import time_in_turn
from mrcar_timm.export import export
from mrcar_timm.exported import NETWORK_NAME
from mrcar_timm.frames import VideoWriter
from mrcar_timm.provenance import provenance
from mrcar_timm.video import follow_video

ROOT = Path(__file__).parent.parent
RESULTS, EXAMPLES = ROOT / "results", ROOT / "examples"
#: The data that each weights' validation split is of.
DATA = {"everyday": "ferplus", "ferplus": "ferplus", "fer2013": "fer2013"}
_SIZE, _FRAMES = (640, 480), 250

app = typer.Typer(no_args_is_help=True)


def write(name: str, record: dict[str, Any]) -> None:
    text = json.dumps({"made_by": provenance(), **record}, indent=2, ensure_ascii=False)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


@app.command()
def scores(data: Annotated[Path, typer.Argument(help="FER2013, with FER+'s votes in it.")]) -> None:
    """Score the packaged weights in float32 and 8 bits."""
    rows = []
    for name in PACKAGED:
        with tempfile.TemporaryDirectory() as folder:
            plain, small = Path(folder) / "float32", Path(folder) / "int8"
            export(name, plain)
            exported = export(name, small, int8=True, data=data, name=DATA[name.split(".")[1]], progress=bar)
            megabytes = {part.name: (part / NETWORK_NAME).stat().st_size / 1e6 for part in (plain, small)}
        rows.append(
            {"network": name, "sha256": exported.sha256, "megabytes": megabytes, **exported.record["scores"],
             "calibration": exported.record["calibration"]}
        )  # fmt: skip
    write("export", {"rows": rows})


_ALONE = """
import json, sys, time
start = time.perf_counter()
import mrcar_timm.runtime
mrcar_timm.runtime.load(sys.argv[1])(sys.argv[2])
seconds = time.perf_counter() - start
import psutil
print(json.dumps({"seconds": seconds, "megabytes": psutil.Process().memory_info().rss / 1e6}))
"""


@app.command(name="runtime")
def measure_runtime() -> None:
    """Time the runtime without PyTorch, detection with and without it, and video with either backend."""
    with tempfile.TemporaryDirectory() as place:
        plain = Path(place) / "out"
        export(None, plain)
        starts = [
            json.loads(subprocess.run(
                [sys.executable, "-c", _ALONE, plain, EXAMPLES / "collins.jpg"], capture_output=True, check=True
            ).stdout)
            for _ in range(7)
        ]  # fmt: skip
        record: dict[str, Any] = {
            "network": default_name(),
            "start": {key: median(start[key] for start in starts) for key in ("seconds", "megabytes")},
            "detection": [_detection(plain, threads) for threads in (1, torch.get_num_threads())],
            "video": _video(Path(place)),
        }
    write("runtime", record)


def _detection(folder: Path, threads: int) -> dict[str, Any]:
    """All faces of the group in examples/, with PyTorch and without, in turn."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with Image.open(EXAMPLES / "group.jpg") as image:
            pixels = np.asarray(ImageOps.fit(image.convert("RGB"), _SIZE))
        detectors = {"torch": MTCNNDetector(), "onnx": runtime.load_detector(folder)}
        calls = {name: functools.partial(detector, pixels) for name, detector in detectors.items()}
        times = {name: median(values) for name, values in time_in_turn(calls, 60, 5).items()}
    finally:
        torch.set_num_threads(before)
    return {"threads": threads, "ms": times, "ratio": times["onnx"] / times["torch"]}


def _video(place: Path) -> dict[str, Any]:
    """Frames a second of 640×480 with one face: read, followed, drawn and written; three times in turn, the median."""
    clip = place / "clip.mp4"
    with Image.open(EXAMPLES / "collins.jpg") as image:
        portrait = image.convert("RGB")
    with VideoWriter(clip, 25) as writer:
        for k in range(_FRAMES):
            canvas = Image.new("RGB", _SIZE, (90, 100, 110))
            canvas.paste(portrait, (round(60 + 50 * np.sin(k / 40)), round(-10 + 20 * np.cos(k / 30))))
            writer.write(np.asarray(canvas), k / 25)
    photos = place / "photos"
    photos.mkdir()
    for k in range(5):
        with Image.open(EXAMPLES / "group.jpg") as image:
            image.convert("RGB").point(lambda v, k=k: v * (1 - 0.1 * k)).save(photos / f"{k}.png")
    export(None, place / "int8", int8=True, images=[photos])
    recognizers = {
        "torch": ExpressionRecognizer(backend="torch"),
        "onnx": ExpressionRecognizer(backend="onnx"),
        "onnx, int8": ExpressionRecognizer(place / "int8"),
    }
    rates: dict[str, list[float]] = {name: [] for name in recognizers}
    for _ in range(3):
        for name, recognizer in recognizers.items():
            summary = follow_video(clip, FaceTracker(recognizer), place / "annotated.mp4", place / "faces.csv")
            assert summary.faces[1].frames == _FRAMES
            rates[name].append(summary.frames_per_second)
    return {"frames_per_second": {name: median(values) for name, values in rates.items()}}


@app.command()
def browser(
    ort: Annotated[Path, typer.Argument(help="Folder dist of onnxruntime-web.", exists=True)],
    photos: Annotated[Path, typer.Argument(help="Photos to calibrate the 8 bits with.", exists=True)],
    chromium: Annotated[str, typer.Option(help="Chromium.")] = "/usr/bin/chromium",
) -> None:
    """Run examples/browser.html in headless Chromium, and compare with ONNX Runtime here."""
    from playwright.sync_api import sync_playwright

    with Image.open(EXAMPLES / "collins.jpg") as image:
        face = image.convert("RGB").crop((164, 62, 284, 182)).resize((112, 112), Image.Resampling.LANCZOS)
    rows = []
    for precision in ("float32", "int8"):
        with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
            root = Path(place)
            int8 = precision == "int8"
            exported = export(None, root / "out", int8=int8, images=[photos] if int8 else ())
            shutil.copy(EXAMPLES / "browser.html", root / "index.html")
            (root / "ort").symlink_to(ort.resolve())
            face.save(root / "face.png")
            values = (np.asarray(face, np.float32).transpose(2, 0, 1) / 255 - 0.5) / 0.25
            (logits,) = exported.session("network_face.onnx")(faces=values[None])
            expected = dict(zip(exported.labels, np.exp(logits[0]) / np.exp(logits[0]).sum(), strict=True))
            with _served(root) as address:
                page = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
                page.goto(address)
                page.wait_for_function("() => Boolean(window.recognize)", timeout=60_000)
                found, milliseconds = page.evaluate(_MEASURE)
                version = page.context.browser.version if page.context.browser else ""
        apart = max(abs(found[label] - float(expected[label])) for label in expected)
        assert max(found, key=found.__getitem__) == max(expected, key=expected.__getitem__)
        rows.append({"precision": precision, "ms": median(milliseconds), "apart": apart, "found": found})
    package = json.loads((ort.parent / "package.json").read_text(encoding="utf-8"))
    wasm = len(gzip.compress((ort / "ort-wasm-simd-threaded.wasm").read_bytes())) / 1e6
    about = {"chromium": version, "onnxruntime_web": package["version"], "wasm_megabytes_compressed": wasm}
    write("browser", {**about, "rows": rows})


_MEASURE = """async () => {
  const face = await createImageBitmap(await (await fetch("face.png")).blob());
  const found = await recognize(face);
  const times = [];
  for (let k = 0; k < 30; k++) {
    const start = performance.now();
    await recognize(face);
    times.push(performance.now() - start);
  }
  return [found, times];
}"""


@contextmanager
def _served(root: Path) -> Iterator[str]:
    """The address of a folder on a server of this process."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    app()
