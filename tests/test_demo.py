"""The page's server: what it takes, from many at once, what it refuses, and what it leaves behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import wave
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from mrcar_timm import demo
from mrcar_timm.checkpoints.packaged import default_name
from mrcar_timm.demo.uploads import UploadLimits
from mrcar_timm.demo.visitors import Visitors
from mrcar_timm.demo.worker import Choice
from mrcar_timm.frames import VideoWriter

from .command import mrcar
from .conftest import EXAMPLES
from .page_server import PageServer

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with PageServer(tmp_path_factory.mktemp("server"), "--max-upload", "100mb") as running:
        yield running


@contextmanager
def client_of(server, **kwargs):
    """A visitor, until the end of the block."""
    client = Client(server.url, verbose=False, **kwargs)
    try:
        yield client
    finally:
        client.close()


def eventually(true, seconds=60):
    """Whether something becomes true in some time."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.1)  # another process does it
    return true()


def film_of(path, seconds=1):
    image = np.asarray(Image.open(EXAMPLES / "collins.jpg").convert("RGB").resize((240, 300)))
    with VideoWriter(path, 10) as writer:
        for k in range(10 * seconds):
            writer.write(np.roll(image, k % 5, 1), k / 10)
    return path


# --- without a server


def test_visitors_have_folders_of_their_own(tmp_path):
    now = [0.0]
    visitors = Visitors(tmp_path, Choice(), clock=lambda: now[0])
    uploads = [tmp_path / name for name in "abcd"]
    for each in uploads:
        each.mkdir()
        (each / "photo.jpg").touch()
    first = visitors.begin("one", "photo", uploads[0] / "photo.jpg")
    other = visitors.begin("two", "photo", uploads[1] / "photo.jpg")
    assert first != other
    assert len(first.name) == 32
    again = visitors.begin("one", "photo", uploads[0] / "photo.jpg")  # the same photo with other settings
    film = visitors.begin("one", "film")
    assert first.exists()
    visitors.begin("one", "photo", uploads[2] / "photo.jpg")
    assert [each.exists() for each in (first, again, uploads[0])] == [False, True, True]
    visitors.begin("one", "photo", uploads[3] / "photo.jpg")
    assert [each.exists() for each in (again, *uploads)] == [False, False, True, True, True]
    visitors.leave("one")
    assert [each.exists() for each in (film, other, *uploads)] == [False, True, False, True, False, False]
    now[0] = 1800.0
    assert visitors["three"].choice == Choice()
    now[0] = 3700.0
    visitors.tidy()
    assert not other.exists()
    assert not uploads[1].exists()
    visitors.leave("nobody")


def test_examples_stay(tmp_path):
    visitors = Visitors(tmp_path, Choice())
    visitors.examples.mkdir()
    (visitors.examples / "collins.jpg").touch()
    visitors.begin("one", "photo", visitors.examples / "collins.jpg")
    visitors.leave("one")
    assert (visitors.examples / "collins.jpg").exists()


def test_examples_are_those_of_the_repository():
    for file in (Path(demo.__file__).parent / "examples").iterdir():
        assert file.read_bytes() == (EXAMPLES / file.name).read_bytes()


def test_the_first_network_is_the_default():
    """The page's process reads names from folders, since what knows the default imports PyTorch."""
    assert demo._networks([])[0] == default_name()
    assert demo._networks(["runs/mine"])[:2] == ["runs/mine", default_name()]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--auth", "me"), "--auth takes USER:PASSWORD"),
        (("--auth", ":secret"), "--auth takes USER:PASSWORD"),
        (("--max-upload", "huge"), "--max-upload takes a size such as 20mb or 2gb, got huge"),
        (("--max-upload", "0mb"), "--max-upload takes a size"),
    ],
)
def test_options_that_cannot_be(args, message):
    done = mrcar("demo", "--no-open", *args)
    assert done.returncode == 1
    assert message in done.stderr


def test_without_gradio(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "gradio" else object())
    with pytest.raises(Exception, match=r'the page needs gradio: pip install "mrcar-timm\[demo\]"'):
        demo.launch()


@pytest.mark.parametrize(("announced", "passed"), [(10_500_000, True), (11_500_000, False), (4 * 10**9, False)])
def test_size_is_refused_before_anything_is_read(announced, passed):
    reached, sent = [], []

    async def app(scope, receive, send):
        reached.append(scope)

    async def receive():
        raise AssertionError("was read")

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/", "headers": [(b"content-length", str(announced).encode())]}
    coroutine = UploadLimits(app, 10_000_000)(scope, receive, send)
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert bool(reached) == passed
    assert [message.get("status") for message in sent] == ([] if passed else [413, None])
    assert passed or b"larger than 10 MB" in sent[1]["body"]


# --- with one


@slow
def test_first_answers(server):
    with client_of(server) as client:
        found = client.predict(handle_file(EXAMPLES / "group.jpg"), api_name="/recognize")
        assert [face["expression"] for face in found["faces"]] == ["happiness"] * 5
        (largest,) = client.predict(
            handle_file(EXAMPLES / "group.jpg"), "mrcar_resnet.ferplus", "largest", api_name="/recognize"
        )["faces"]
        assert len(largest["probabilities"]) == 8
        why, drawn = client.predict(handle_file(EXAMPLES / "group.jpg"), default_name(), "all", 2, api_name="/explain")
        assert set(why["regions"]) == {"face", "eyes", "mouth"}
        with Image.open(drawn) as image:
            assert image.height > 300


@slow
def test_a_film(server, tmp_path):
    with client_of(server) as client:
        rows, film, table, plot = client.predict(handle_file(film_of(tmp_path / "a.mp4")), api_name="/follow")
    assert rows[0][:2] == [1, 10]
    assert "happiness" in rows[0][4]
    assert Path(film).stat().st_size > 1000
    assert len(Path(table).read_text().splitlines()) == 11
    assert Image.open(plot).width > 500


@slow
def test_what_cannot_be_used_is_said_and_the_server_lives(server, tmp_path):
    (tmp_path / "corrupt.jpg").write_bytes((EXAMPLES / "collins.jpg").read_bytes()[:5000])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    with wave.open(str(tmp_path / "sound.mp4"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    with client_of(server) as client:
        for name, endpoint, message in (
            ("corrupt.jpg", "/recognize", "corrupt.jpg: cannot be read .*truncated"),
            ("text.jpg", "/recognize", "not an image"),
            ("empty.jpg", "/recognize", "empty"),
            ("sound.mp4", "/follow", "no video stream"),
            ("text.jpg", "/follow", "no frame in it can be decoded|cannot be opened"),  # as FFmpeg takes the name
        ):
            with pytest.raises(AppError, match=message) as raised:
                client.predict(handle_file(tmp_path / name), api_name=endpoint)
            assert str(server.files) not in str(raised.value)  # no places of this machine
        with pytest.raises(AppError, match="no face 9"):
            client.predict(handle_file(EXAMPLES / "group.jpg"), default_name(), "all", 9, api_name="/explain")
        assert client.predict(handle_file(EXAMPLES / "collins.jpg"), api_name="/recognize")["faces"]
        with pytest.raises(AppError, match="no file was sent"):
            client.predict(None, api_name="/recognize")
        for network in ("hf-hub:ORG/other", "/etc", str(server.files)):  # only those that are offered
            with pytest.raises(AppError):
                client.predict(handle_file(EXAMPLES / "collins.jpg"), network, api_name="/recognize")
        elsewhere = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
        with pytest.raises((AppError, ValueError)):
            client.predict(elsewhere, api_name="/recognize")


@slow
def test_fifty_megapixels(server, tmp_path):
    with Image.open(EXAMPLES / "group.jpg") as image:
        factor = (50_000_000 / (image.width * image.height)) ** 0.5
        large = image.resize((round(image.width * factor), round(image.height * factor)))
        large.save(tmp_path / "large.jpg", quality=90)
    with client_of(server) as client:
        found = client.predict(handle_file(tmp_path / "large.jpg"), api_name="/recognize")
    assert len(found["faces"]) == 5
    assert max(face["box"][2] for face in found["faces"]) > 560 * factor * 0.95


@slow
def test_four_gigabytes_are_refused_at_once(server):
    """Nothing of it is sent; and what hides its size is cut off."""
    head = (
        "POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=edge\r\n"
        f"Content-Length: {4 * 10**9}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(1000)
    assert b"413" in answer.splitlines()[0]

    def parts():
        yield b'--edge\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        for _ in range(200):
            yield bytes(1_000_000)
        yield b"\r\n--edge--\r\n"

    before = server.stored()
    try:
        status = httpx.post(
            f"{server.url}gradio_api/upload", content=parts(), timeout=60,
            headers={"Content-Type": "multipart/form-data; boundary=edge"},
        ).status_code  # fmt: skip
    except httpx.WriteError:  # the server has closed the connection
        status = 413
    assert status == 413
    assert eventually(lambda: not server.stored() - before)  # files of visitors who left may still be going


@slow
@pytest.mark.parametrize("path", ["upload", "component_server"])
def test_interrupted_uploads_leave_nothing(server, path):
    """No file, and no line in the server's terminal."""
    head = (
        f"POST /gradio_api/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: multipart/form-data; boundary=edge\r\nContent-Length: {4 * 10**7}\r\n\r\n"
        '--edge\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    )
    before, printed = server.temporary(), len(server.printed)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode() + bytes(10**7))
        assert eventually(lambda: server.temporary() - before)
    assert eventually(lambda: not server.temporary() - before)
    assert server.printed[printed:] == []


@slow
def test_screen_recordings_are_refused(server):
    """Gradio would never delete them."""
    before = server.temporary()
    body = b'--edge\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n\r\nfilm\r\n--edge--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    assert server.ask("gradio_api/process_recording", body, headers)[0] == 404
    assert not server.temporary() - before


@slow
def test_ten_at_once(server):
    with ThreadPoolExecutor(10) as pool, ExitStack() as stack:
        clients = [stack.enter_context(client_of(server)) for _ in range(10)]
        jobs = [pool.submit(c.predict, handle_file(EXAMPLES / "group.jpg"), api_name="/recognize") for c in clients]
        waiting = 0
        while not all(job.done() for job in jobs):
            waiting = max(waiting, json.loads(server.ask("gradio_api/queue/status")[1])["queue_size"])
            time.sleep(0.02)
    assert all(len(job.result()["faces"]) == 5 for job in jobs)
    assert waiting >= 3


@slow
def test_files_are_a_visitors_own_and_are_deleted(server):
    """Two send the same photo; when one leaves, that one's files go, and the other's stay."""
    content = (EXAMPLES / "collins.jpg").read_bytes()
    owned = []
    clients = [Client(server.url, verbose=False) for _ in range(2)]
    for client in clients:
        before = server.stored()
        client.predict(handle_file(EXAMPLES / "collins.jpg"), api_name="/recognize")
        owned.append(server.stored() - before)
    assert not owned[0] & owned[1]
    assert all({file.name for file in files} >= {"collins.jpg", "photo.jpg", "faces.csv"} for files in owned)
    assert all(len(file.parent.name) >= 32 for files in owned for file in files)
    (upload,) = [file for file in owned[1] if file.name == "collins.jpg"]
    assert server.ask(f"gradio_api/file={upload}") == (200, content)
    clients[0].close()
    assert eventually(lambda: not server.stored() & owned[0])
    assert server.stored() >= owned[1]
    assert server.ask(f"gradio_api/file={upload}") == (200, content)
    clients[1].close()
    assert eventually(lambda: not server.stored() & owned[1])
    assert server.ask(f"gradio_api/file={upload}")[0] == 403
    for path in ("/etc/passwd", str(server.files.parent / "sitecustomize.py"), str(server.files)):
        assert server.ask(f"gradio_api/file={path}")[0] == 403


@slow
def test_a_worker_that_is_killed_is_replaced(server):
    with client_of(server) as client:
        assert client.predict(handle_file(EXAMPLES / "collins.jpg"), api_name="/recognize")["faces"]
        server.worker().kill()
        with pytest.raises(AppError, match="broke off"):
            client.predict(handle_file(EXAMPLES / "collins.jpg"), api_name="/recognize")
        assert client.predict(handle_file(EXAMPLES / "collins.jpg"), api_name="/recognize")["faces"]


@slow
def test_memory_stays_over_500_uploads(tmp_path):
    """And so do files: of a visitor the last photo's alone."""
    content = (EXAMPLES / "collins.jpg").read_bytes()
    with PageServer(tmp_path / "server") as server:
        memory = []
        for k in range(500):
            path = server.upload(f"{k}.jpg", content)
            data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, default_name(), "largest"],
                    "session_hash": "one"}  # fmt: skip
            status, body = server.ask(
                "gradio_api/call/recognize", json.dumps(data).encode(), {"Content-Type": "application/json"}
            )
            assert status == 200, body
            status, body = server.ask(f"gradio_api/call/recognize/{json.loads(body)['event_id']}")
            assert b"happiness" in body
            if k % 100 == 99:
                memory.append(server.memory())
        assert memory[-1] - memory[0] < 40, memory
        assert len(server.stored()) <= 8


@slow
def test_listens_to_this_machine_alone(server):
    own = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in own:
        if not address.startswith("127."):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((address, server.port), timeout=2).close()
    assert not any("can use the page" in line for line in server.printed)


@slow
def test_a_host_without_login_is_warned_of(tmp_path):
    with PageServer(tmp_path, "--host", "0.0.0.0") as server:
        assert any("everybody who reaches 0.0.0.0 can use the page; --auth" in line for line in server.printed)


@slow
def test_login(tmp_path):
    with PageServer(tmp_path, "--host", "0.0.0.0", "--auth", "me:secret:colon") as server:
        assert not any("everybody" in line for line in server.printed)
        url = server.url
        with pytest.raises((AppError, ValueError)):
            Client(server.url, verbose=False, auth=("me", "wrong"))
        assert httpx.post(f"{url}gradio_api/upload", files={"files": b"x"}).status_code == 401
        assert httpx.get(f"{url}config").status_code == 401
        with client_of(server, auth=("me", "secret:colon")) as client:
            assert client.predict(handle_file(EXAMPLES / "collins.jpg"), api_name="/recognize")["faces"]


@slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_its_end_leaves_nothing(how, tmp_path):
    server = PageServer(tmp_path)
    worker = server.worker()
    server.upload("a.jpg", b"something")
    assert server.stored()
    server.process.send_signal(how)
    assert server.process.wait(60) == 0
    assert not server.files.exists()
    assert eventually(lambda: not worker.is_running())
    assert not any("Traceback" in line for line in server.printed)


@slow
def test_a_killed_page_takes_its_worker_along(tmp_path):
    server = PageServer(tmp_path)
    worker = server.worker()
    server.process.kill()
    server.process.wait(60)
    assert eventually(lambda: not worker.is_running())


@slow
def test_a_port_that_is_taken(server):
    done = mrcar("demo", "--no-open", "--port", server.port)
    assert done.returncode == 1
    assert f"127.0.0.1:{server.port} cannot be listened to" in done.stderr
    assert "Traceback" not in done.stderr


@slow
def test_a_network_that_there_is_not(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = dict(os.environ)
    done = mrcar("demo", "--no-open", "--model", "runs/nothing")
    assert os.environ == before
    assert list(tmp_path.iterdir()) == []
    assert done.returncode == 1
    assert "runs/nothing" in done.stderr
    assert "Traceback" not in done.stderr


@slow
def test_from_python_in_a_program_without_guard(tmp_path):
    """The worker is spawned; it must not run the program again."""
    program = tmp_path / "program.py"
    program.write_text(
        "from mrcar_timm.demo import launch\n"
        "from gradio_client import Client, handle_file\n"
        "print('once')\n"
        "client = Client(launch(wait=False), verbose=False)\n"
        f"print(client.predict(handle_file({str(EXAMPLES / 'collins.jpg')!r}), api_name='/recognize'))\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("once") == 1
    assert "happiness" in done.stdout


@slow
def test_nobody_else_is_spoken_to(server):
    """After all of the above."""
    assert server.calls == ""
    assert threading.active_count() < 100
