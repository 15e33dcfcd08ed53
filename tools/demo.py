"""Measure what docs/demo.md says of the page: results/demo.json. Needs Chromium; nothing else may run.

python -m tools.demo
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import typer
from gradio_client import Client, handle_file
from playwright.sync_api import sync_playwright
from tests.page_server import PageServer
from tests.test_browser import camera_film, launch_chromium

from mrcar_timm import ExpressionRecognizer, FaceTracker
from mrcar_timm.cli.console import bar
from mrcar_timm.frames import VideoReader

from .deploy import EXAMPLES, write

_CAMERA_SECONDS = 20
PHOTO = EXAMPLES / "collins.jpg"


def main(starts: int = 5) -> None:
    """Measure the start, the first photo, and the camera.

    Args:
        starts: Starts of the page and of `mrcar predict`, in turn.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = [_start(Path(folder) / str(k)) for k in bar(range(starts), "starting")]
        seconds = {key: median(row[key] for row in rows) for key in rows[0]}
        write("demo", {"photo": PHOTO.name, "starts": starts, "seconds": seconds, "camera": _camera(Path(folder))})


def _start(folder: Path) -> dict[str, float]:
    """Seconds to the page and to the faces of a first photo, and of the command line to those and to its imports."""
    begin = time.perf_counter()
    with PageServer(folder) as server:
        page = time.perf_counter() - begin
        client = Client(server.url, verbose=False)
        client.predict(handle_file(PHOTO), api_name="/recognize")
        first = time.perf_counter() - begin
        client.close()
    return {
        "page": page,
        "first_photo": first,
        "command_line": _seconds("-m", "mrcar_timm.cli", "predict", str(PHOTO)),
        "import_timm": _seconds("-c", "import timm"),
    }


def _seconds(*args: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *args], check=True, capture_output=True)
    return time.perf_counter() - begin


def _camera(folder: Path) -> dict[str, Any]:
    """Frames a second at 640×480 with one face: of the page in a browser on the same machine, and of the tracker."""
    film = folder / "camera.y4m"
    camera_film(film)
    with PageServer(folder / "camera") as server, sync_playwright() as playwright:
        browser = launch_chromium(playwright, film)
        page = browser.new_page()
        page.goto(server.url)
        page.get_by_role("tab", name="Camera").click()
        page.wait_for_timeout(2000)
        page.click("#camera-tab button")
        page.wait_for_function("() => document.querySelector('#camera-tab .status').dataset.rate > 0")
        page.wait_for_timeout(3000)
        rates = []
        for _ in range(_CAMERA_SECONDS):
            page.wait_for_timeout(1000)
            rates.append(float(page.evaluate("document.querySelector('#camera-tab .status').dataset.rate")))
        version = browser.version
        browser.close()
    tracker = FaceTracker(ExpressionRecognizer())
    with VideoReader(film) as video:
        frames = [np.ascontiguousarray(image) for image, _ in video]
    for k, frame in enumerate(frames):  # once to warm up
        tracker(frame, k / 30)
    begin = time.perf_counter()
    for k, frame in enumerate(frames):
        tracker(frame, 10 + k / 30)
    alone = len(frames) / (time.perf_counter() - begin)
    return {"size": [640, 480], "chromium": version, "page": median(rates), "tracker_alone": alone}


if __name__ == "__main__":
    typer.run(main)
