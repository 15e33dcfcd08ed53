"""The page in a real browser: Debian's Chromium, with a camera that shows a film."""

import base64
import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from .conftest import EXAMPLES
from .page_server import PageServer
from .test_demo import eventually, film_of

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)
#: Where screenshots go, to be looked at.
SHOTS = os.environ.get("SCREENSHOTS")


def camera_film(path):
    """Two seconds of the portrait, which sways, at 640×480, as Chromium's fake camera takes them."""
    with Image.open(EXAMPLES / "collins.jpg") as image:
        portrait = image.convert("RGB").resize((480 * image.width // image.height // 2 * 2, 480))
    canvas = Image.new("RGB", (640, 480), (90, 90, 90))
    canvas.paste(portrait, ((640 - portrait.width) // 2, 0))
    with av.open(str(path), "w", format="yuv4mpegpipe") as container:
        stream = container.add_stream("wrapped_avframe", rate=30)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for k in range(60):
            pixels = np.roll(np.asarray(canvas), round(10 * np.sin(k * np.pi / 30)), 1)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with PageServer(tmp_path_factory.mktemp("server"), "--max-upload", "20mb") as running:
        yield running


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    film = tmp_path_factory.mktemp("camera") / "camera.y4m"
    camera_film(film)
    with sync_playwright() as playwright:
        browser = launch_chromium(playwright, film)
        yield browser
        browser.close()


def launch_chromium(playwright, film):
    """Chromium without a screen, whose camera shows a film and may be used by every page."""
    camera = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    return playwright.chromium.launch(
        executable_path=shutil.which("chromium") or "/usr/bin/chromium",
        args=["--no-sandbox", *camera, f"--use-file-for-fake-video-capture={film}"],
    )


@pytest.fixture
def known():
    """What Gradio itself says in the console."""
    return ["Method not implemented."]


@pytest.fixture
def page(chromium, server, known):
    """The page, opened; at its end no error is in the console, and nothing was asked of anybody else."""
    opened = chromium.new_page(viewport={"width": 1280, "height": 1000}, accept_downloads=True)
    said, asked = [], []
    opened.on("console", lambda message: said.append((message.type, message.text)))
    opened.on("pageerror", lambda error: said.append(("error", str(error))))
    opened.on("request", lambda request: asked.append(request.url))
    opened.set_default_timeout(60_000)
    opened.goto(server.url)
    opened.wait_for_selector("#photo")
    yield opened
    opened.close()
    assert [each for each in said if each[0] in ("error", "warning") and each[1] not in known] == []
    assert [url for url in asked if not url.startswith((server.url, "data:", f"blob:{server.url}"))] == []
    assert server.calls == ""


def shot(page, name):
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def send_photo(page, path):
    page.set_input_files("#photo input[type=file]", path)


def click_face(page, box):
    """Click the middle of a face in the drawn photo."""
    image = page.locator("#drawn img")
    place = image.bounding_box()
    width, height = image.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    scale = min(place["width"] / width, place["height"] / height)  # the image is fitted into its element
    left = place["x"] + (place["width"] - width * scale) / 2
    top = place["y"] + (place["height"] - height * scale) / 2
    page.mouse.click(left + scale * (box[0] + box[2]) / 2, top + scale * (box[1] + box[3]) / 2)


def downloaded(page, button):
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_bytes()


def test_photo(page, recognizer):
    truth = recognizer(EXAMPLES / "group.jpg")
    send_photo(page, EXAMPLES / "group.jpg")
    expect(page.locator("#message")).to_contain_text("5 faces")
    bars = page.locator("#bars")
    expect(bars).to_contain_text("Face 1")
    expect(bars).to_contain_text("happiness")
    assert len(re.findall(r"\d+%", bars.inner_text())) == len(recognizer.labels)
    expect(page.locator("#table")).to_contain_text(f"{truth[4].box[0]:.1f}")
    shot(page, "photo")
    click_face(page, truth[2].box)
    expect(bars).to_contain_text("Face 3")
    page.get_by_label("5 happiness").check()
    expect(bars).to_contain_text("Face 5")
    rows = list(csv.DictReader(io.StringIO(downloaded(page, "#CSV").decode())))
    assert [row["expression"] for row in rows] == [face.expression for face in truth]
    assert [float(row["x1"]) for row in rows] == pytest.approx([face.box[0] for face in truth], abs=0.1)
    assert len(json.loads(downloaded(page, "#JSON"))["faces"]) == 5
    plain = Image.open(io.BytesIO(downloaded(page, "#PNG")))
    before = page.locator("#drawn img").get_attribute("src")
    page.get_by_label("regions").check()
    expect(page.locator("#drawn img")).not_to_have_attribute("src", before)
    with_regions = Image.open(io.BytesIO(downloaded(page, "#PNG")))
    assert with_regions.size == plain.size == Image.open(EXAMPLES / "group.jpg").size
    assert np.asarray(with_regions).tolist() != np.asarray(plain).tolist()


def copied(page, photo):
    """Put a photo into the clipboard."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    png = io.BytesIO()
    Image.open(photo).save(png, "PNG")
    page.evaluate(
        """async data => {
            const blob = await (await fetch(data)).blob();
            await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
        }""",
        f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}",
    )


def test_pasted_photos(page):
    message, uploads = page.locator("#message"), []
    page.on("request", lambda request: uploads.append(request.url) if "/upload?" in request.url else None)
    copied(page, EXAMPLES / "collins.jpg")
    page.keyboard.press("Control+V")
    expect(message).to_contain_text("One face")
    copied(page, EXAMPLES / "group.jpg")
    page.keyboard.press("Control+V")  # in place of the one that is there
    expect(message).to_contain_text("5 faces")
    page.click("#photo button[aria-label='Remove Image']")
    expect(message).to_have_text("")
    copied(page, EXAMPLES / "collins.jpg")
    page.locator("#photo").get_by_role("button", name="clipboard").click()
    expect(message).to_contain_text("One face")
    page.evaluate("() => navigator.clipboard.writeText('no photo')")
    page.keyboard.press("Control+V")
    copied(page, EXAMPLES / "group.jpg")
    page.get_by_role("tab", name="Camera").click()
    page.keyboard.press("Control+V")
    page.get_by_role("tab", name="Photo").click()
    page.keyboard.press("Control+V")
    expect(message).to_contain_text("5 faces")
    assert len(uploads) == 4  # not of the text, and not on another tab


def test_why(page):
    page.check("#why input")
    send_photo(page, EXAMPLES / "collins.jpg")
    page.wait_for_selector("#evidence img")
    assert page.locator("button[aria-label*='share' i], button[title*='share' i]").count() == 0  # would upload it
    shot(page, "why")
    page.uncheck("#why input")
    expect(page.locator("#evidence img")).to_have_count(0)


def test_examples_networks_and_largest(page):
    page.locator("button:has(img[alt*='group'])").or_(page.locator(".gallery-item").nth(1)).first.click()
    expect(page.locator("#message")).to_contain_text("5 faces")
    page.get_by_label("largest").check()
    expect(page.locator("#message")).to_contain_text("One face")
    before = page.locator("#bars").inner_text()
    page.click("#network input")
    page.get_by_role("option", name="mrcar_resnet.ferplus").click()
    expect(page.locator("#bars")).not_to_have_text(before)
    page.locator("#photo button[aria-label*='lear' i], #photo button[aria-label*='emove' i]").first.click()
    expect(page.locator("#drawn img")).to_have_count(0)


def test_dark_and_light(page):
    background = "() => getComputedStyle(document.querySelector('gradio-app')).backgroundColor"
    before = page.evaluate(background)
    page.click("#dark")
    page.wait_for_function(f"before => ({background})() !== before", arg=before)
    send_photo(page, EXAMPLES / "group.jpg")
    page.wait_for_selector("#drawn img")
    shot(page, "dark")
    page.click("#dark")
    page.wait_for_function(f"before => ({background})() === before", arg=before)


def test_narrow(page):
    page.set_viewport_size({"width": 390, "height": 800})
    send_photo(page, EXAMPLES / "collins.jpg")
    page.wait_for_selector("#drawn img")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    shot(page, "narrow")


def test_what_it_is_not_for(page):
    expect(page.locator("#note")).to_contain_text("not what a person feels")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("corrupt.jpg", (EXAMPLES / "collins.jpg").read_bytes()[:5000], "corrupt.jpg: cannot be read"),
        ("text.png", b"no image", "not an image"),
        ("blank.png", None, "No face found"),
    ],
)
def test_photos_that_cannot_be_used(page, tmp_path, name, content, said):
    if content is None:
        Image.new("RGB", (80, 80)).save(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    send_photo(page, tmp_path / name)
    expect(page.locator("#message")).to_contain_text(said)
    send_photo(page, EXAMPLES / "collins.jpg")
    expect(page.locator("#message")).to_contain_text("One face")


def test_a_file_that_is_too_large(page, known, tmp_path):
    """Refused by the page itself, before it is sent; Gradio asks for its progress nevertheless, and logs the answer."""
    known += ["Failed to load resource: the server responded with a status of 404 (Not Found)", "Response"]
    with open(tmp_path / "large.jpg", "wb") as file:
        file.truncate(21_000_000)
    send_photo(page, tmp_path / "large.jpg")
    expect(page.get_by_text(re.compile("exceed the maximum allowed size")).first).to_be_visible()


def test_camera(page):
    page.get_by_role("tab", name="Camera").click()
    status = page.locator("#camera-tab .status")
    page.click("#camera-tab button")
    page.wait_for_function(
        "() => document.querySelector('#camera-tab .status').dataset.rate > 5"
        " && document.querySelector('#camera-tab .bars').innerText.includes('happiness')"
    )
    page.wait_for_timeout(3000)
    assert re.fullmatch(r"\d+\.\d frames a second", status.inner_text())
    drawn = page.evaluate(
        "() => { const c = document.querySelector('#camera-tab canvas');"
        " return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(value => value); }"
    )
    assert drawn
    happiness = page.locator("#camera-tab .bars div", has_text="happiness").locator("i")
    assert float(happiness.evaluate("bar => parseFloat(bar.style.width)")) > 80
    shot(page, "camera")
    page.click("#camera-tab button")
    expect(status).to_have_text("")
    expect(page.locator("#camera-tab button")).to_have_text("Start the camera")


def test_film(page, tmp_path):
    page.get_by_role("tab", name="Video").click()
    page.set_input_files("#film input[type=file]", film_of(tmp_path / "portrait.mp4", seconds=2))
    expect(page.locator("#film-message")).to_contain_text("20 frames")
    page.wait_for_selector("#followed video")
    page.wait_for_function("() => document.querySelector('#followed video').readyState >= 2")
    page.wait_for_selector("#timeline img")
    expect(page.locator("#film-table")).to_contain_text("happiness")
    rows = downloaded(page, "#film-CSV").decode().splitlines()
    assert len(rows) == 21
    assert downloaded(page, "#film-PNG").startswith(b"\x89PNG")
    shot(page, "film")


def test_a_film_that_is_none(page, tmp_path):
    (tmp_path / "text.mp4").write_text("no film")
    page.get_by_role("tab", name="Video").click()
    page.set_input_files("#film input[type=file]", tmp_path / "text.mp4")
    expect(page.locator("#film-message")).to_contain_text("cannot be opened")


def test_a_long_film_waits_in_line_and_is_stopped(page, chromium, server, tmp_path):
    """The second visitor sees the place in the queue; the first ends the film early and gets what was done."""
    film = film_of(tmp_path / "long.mp4", seconds=120)
    other = chromium.new_page()
    other.set_default_timeout(60_000)
    other.goto(server.url)
    for each in (page, other):
        each.get_by_role("tab", name="Video").click()
    page.set_input_files("#film input[type=file]", film)
    expect(page.locator("#film-message")).to_contain_text("of 1200")
    other.set_input_files("#film input[type=file]", film)
    expect(other.get_by_text(re.compile(r"queue: 1/1", re.I)).first).to_be_visible()
    page.click("#stop")
    expect(page.locator("#film-message")).to_contain_text("a second")
    assert 1 <= int(page.locator("#film-message").inner_text().split()[0]) < 1200
    expect(other.locator("#film-message")).to_contain_text("of 1200")
    other.close()  # and its film ends
    page.locator("#film").get_by_label("Clear").click()
    page.set_input_files("#film input[type=file]", film_of(tmp_path / "short.mp4"))
    expect(page.locator("#film-message")).to_contain_text("10 frames")


def test_files_go_when_the_page_is_closed(chromium, server):
    visitor = chromium.new_page()
    visitor.set_default_timeout(60_000)
    before = server.stored()
    visitor.goto(server.url)
    send_photo(visitor, EXAMPLES / "collins.jpg")
    visitor.wait_for_selector("#drawn img")
    assert server.stored() - before
    visitor.close()
    assert eventually(lambda: server.stored() <= before)
