"""A Space: written, published to the Hub on the loopback, and run as the Hub would run it."""

import re
import subprocess
import sys

import pytest
from gradio_client import Client as PageClient
from gradio_client import handle_file
from huggingface_hub import RepoCard

from mrcar_timm.hub import space

from .clients import Client
from .conftest import EXAMPLES, ROOT
from .hub_server import HubServer

pytestmark = pytest.mark.slow
PUBLISH = ("publish", "mrcar_resnet.ferplus", "--repo-id", "ORG/faces", "--revision", "v1", "--space", "ORG/look")


@pytest.fixture
def client(tmp_path):
    with HubServer() as hub:
        yield Client(hub, tmp_path / "home", folder=tmp_path)


def test_dry_run_writes_the_folder(client, tmp_path):
    done = client.mrcar(*PUBLISH, "--dry-run", "--folder", "out")
    assert done.returncode == 0, done.stderr
    assert client.hub.repos == {}
    place = tmp_path / "out-space"
    assert {file.name for file in place.iterdir()} == {"app.py", "requirements.txt", "README.md"}
    assert 'launch(["hf-hub:ORG/faces@v1"]' in (place / "app.py").read_text()
    assert "mrcar-timm[demo]>=" in (place / "requirements.txt").read_text()
    card = RepoCard.load(place / "README.md")
    assert (card.data.sdk, card.data.app_file, card.data.models) == ("gradio", "app.py", ["ORG/faces"])
    assert "non-commercial" in card.text
    assert "not what a person feels" in card.text


def test_a_space_is_told_the_version_that_is_tested():
    found = re.search(r'"gradio>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert space.GRADIO.startswith(found[1])


def test_published_twice_and_run(client, tmp_path):
    """The app takes the network from the Hub, and answers as an unmodified client asks."""
    for _ in range(2):
        done = client.mrcar(*PUBLISH)
        assert done.returncode == 0, done.stderr
        assert "/spaces/ORG/look" in done.stdout
    files = client.hub.repos["spaces/ORG/look"].at("main").files
    assert client.hub.unknown == []
    for name in ("app.py", "requirements.txt", "README.md"):
        (tmp_path / name).write_bytes(files[name])
    (tmp_path / "app.py").write_text(files["app.py"].decode().replace("7860", "7913"))  # others may be there
    process = subprocess.Popen(
        [sys.executable, "app.py"], cwd=tmp_path, env=client.environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert "http://" in process.stdout.readline()
        page = PageClient("http://127.0.0.1:7913", verbose=False)
        found = page.predict(handle_file(EXAMPLES / "group.jpg"), api_name="/recognize")
        assert len(found["faces"]) == 5
        assert set(found["faces"][0]["probabilities"]) >= {"contempt", "happiness"}
        page.close()
    finally:
        process.terminate()
        process.wait(60)
