"""Each fault of the Hub, the cache and the package, by each way of loading, with unmodified clients."""

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import timm

from mrcar_timm.checkpoints.packaged import PACKAGED
from mrcar_timm.errors import WeightsError

from .clients import Client
from .conftest import EXAMPLES, ROOT
from .faults import OF_A_FOLDER, flipped, rewritten, with_other_labels
from .hub_server import Fault, HubServer, Repo

pytestmark = pytest.mark.slow

REPO = "ORG/faces"


#: Faults of the Hub, and what each way of loading says then.
OF_THE_HUB = {
    "a bit of a tensor": Fault(path="safetensors", change=flipped(-1000)),
    "a bit of the header": Fault(path="safetensors", change=flipped(700)),
    "a bit of the header's length": Fault(path="safetensors", change=flipped(2)),
    "short weights": Fault("short", "safetensors"),
    "dropped weights": Fault("drop", "safetensors"),
    "labels in another order": Fault(path="config", change=with_other_labels),
    "no JSON": Fault(path="config", change=lambda data: b"x" * len(data)),
    "dropped config": Fault("drop", "config"),
    "401": Fault(401),
    "403": Fault(403),
    "404": Fault(404),
    "429": Fault(429),
    "503": Fault(503),
}
DAMAGED = (
    "DamagedWeightsError: .* is damaged: expected the digest .* found .* It was removed from the cache: the next call "
    "downloads it again. It came from the Hub like this."
)
CUT = "HubError: .*(Consistency check failed|peer closed connection|IncompleteRead|ConnectionError).*; try again"
SAYS = {
    "a bit of a tensor": DAMAGED,
    "a bit of the header": DAMAGED,
    "a bit of the header's length": DAMAGED,
    "short weights": CUT,
    "dropped weights": CUT,
    "labels in another order": "WeightsError: .* know the classes anger.* says disgust, anger.* removed from the cache",
    "no JSON": "WeightsError: .*config.json is damaged: .* It was removed from the cache: .* from the Hub like this.",
    "dropped config": CUT,
    "401": "HubError: .*answered 401; the token is missing or wrong",
    "403": "HubError: .*answered 403; the token does not allow it",
    "404": "HubError: .*has no such repository, or it is private",
    "429": "HubError: .*answered 429; too many requests",
    "503": "HubError: .*answered 503; try again",
}
#: timm itself reads config.json, before anything of ours is called.
TIMM_SAYS = {
    "no JSON": "JSONDecodeError",
    "dropped config": "peer closed connection",
    "401": "HTTPError: .*401",
    "403": "LocalEntryNotFoundError",
    "404": "RepositoryNotFoundError",
    "429": "LocalEntryNotFoundError",
    "503": "LocalEntryNotFoundError",
}
WAYS = {
    "timm": f"timm.create_model('hf-hub:{REPO}', pretrained=True)",
    "recognizer": f"mrcar_timm.ExpressionRecognizer('hf-hub:{REPO}')",
    "download": f"mrcar_timm.hub.download('hf-hub:{REPO}')",
}
#: What programs below begin with: a way of loading as a function, and what it says in a line.
PROLOGUE = """
import os, shutil, sys, urllib.parse, urllib.request
import timm, mrcar_timm, mrcar_timm.hub

def tell(what):
    urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/test/" + urllib.parse.quote(what)).close()

def say(load):  # whatever is raised: what the user sees is the point
    try:
        load()
        print("loaded", flush=True)
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", flush=True)

cache = os.environ["HF_HOME"] + "/hub"
"""


def serve(server: HubServer, folder: Path) -> None:
    server.repos[REPO] = Repo(False, [])
    server.repos[REPO].add("main", "weights", {file.name: file.read_bytes() for file in folder.iterdir()})
    server.faults = OF_THE_HUB


def through_all_faults(published: Path, home: Path, way: str) -> dict[str, list[str]]:
    """What one process says of each fault, with an empty cache each time, and of the Hub got well after it."""
    program = PROLOGUE + (
        f"for fault in {list(OF_THE_HUB)}:\n"
        "    shutil.rmtree(cache, ignore_errors=True)\n"
        "    for state in ('fault/' + fault, 'heal'):\n"
        "        tell(state)\n"
        f"        say(lambda: {WAYS[way]})"
    )
    with HubServer() as server:
        serve(server, published)
        said = Client(server, home, token=None).python(program).splitlines()
        assert server.unknown == []
    return dict(zip(OF_THE_HUB, [said[at : at + 2] for at in range(0, len(said), 2)], strict=True))


def without_network(home: Path) -> subprocess.CompletedProcess[str]:
    with HubServer() as server:
        client = Client(server, home, token=None)
    return client.mrcar("predict", str(EXAMPLES / "collins.jpg"), "--model", f"hf-hub:{REPO}")


@pytest.fixture(scope="module", autouse=True)
def waiting(published, tmp_path_factory):
    """What takes long because the Hub's client tries again and again, begun with the first test."""
    home = tmp_path_factory.mktemp("homes")
    with ThreadPoolExecutor() as pool:
        begun: dict[str, Future] = {way: pool.submit(through_all_faults, published, home / way, way) for way in WAYS}
        yield {**begun, "no network": pool.submit(without_network, home / "none")}


def test_download_mends_what_timm_cannot_read(published, tmp_path):
    """A config.json that is no JSON stays in the cache after timm's error, until a call of ours."""
    steps = f"tell('fault/no JSON'); say(lambda: {WAYS['timm']}); tell('heal'); say(lambda: {WAYS['timm']})\n"
    steps += f"say(lambda: {WAYS['download']}); say(lambda: {WAYS['timm']})"
    with HubServer() as server:
        serve(server, published)
        said = Client(server, tmp_path, token=None).python(PROLOGUE + steps).splitlines()
    assert [line.split(":")[0] for line in said] == ["JSONDecodeError", "JSONDecodeError", "loaded", "loaded"]


@pytest.mark.parametrize("fault", ["a bit of a tensor", "404"])
def test_the_command_line_says_it_in_a_line(published, tmp_path, fault):
    with HubServer() as server:
        serve(server, published)
        server.fault = OF_THE_HUB[fault]
        client = Client(server, tmp_path, token=None)
        predict = ("predict", str(EXAMPLES / "collins.jpg"), "--json", "--model", f"hf-hub:{REPO}")
        done = client.mrcar(*predict)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ")
        assert re.search(SAYS[fault].split(": ", 1)[1], " ".join(done.stderr.split()))
        server.fault = None
        assert json.loads(client.mrcar(*predict).stdout)["faces"][0]["expression"] == "happiness"


def test_repositories_with_pickles_alone_are_refused(published, tmp_path):
    """Whatever is in it: what would run on reading it makes a file."""
    witness = tmp_path / "ran"
    pickle = f"cos\nsystem\n(S'touch {witness}'\ntR.".encode()
    config = (published / "config.json").read_bytes()
    with HubServer() as server:
        server.repos[REPO] = Repo(False, [])
        server.repos[REPO].add("main", "pickle", {"config.json": config, "pytorch_model.bin": pickle})
        loads = "".join(f"say(lambda: {load})\n" for load in WAYS.values())
        said = Client(server, tmp_path, token=None).python(PROLOGUE + loads).splitlines()
    assert said == ["HubError: model.safetensors of hf-hub:ORG/faces: there is no such file"] * 3
    (tmp_path / "local").mkdir()
    (tmp_path / "local/config.json").write_bytes(config)
    (tmp_path / "local/pytorch_model.bin").write_bytes(pickle)
    with pytest.raises(WeightsError, match=r"model\.safetensors is missing"):
        timm.create_model(f"local-dir:{tmp_path / 'local'}", pretrained=True)
    overlay = {"file": str(tmp_path / "local/pytorch_model.bin")}
    with pytest.raises(WeightsError, match="pickles are not read"):
        timm.create_model("mrcar_resnet", pretrained=True, pretrained_cfg_overlay=overlay)
    assert not witness.exists()


def test_names_that_mean_nothing(published, tmp_path):
    names = {
        "ORG/none": "no such repository",
        f"{REPO}@v9": "there is no revision 'v9'",
        f"{REPO}@": "names no revision",
        "a/b/c": "this is no repository name",
        "": "this is no repository name",
    }
    program = PROLOGUE + f"for name in {list(names)}: say(lambda: mrcar_timm.ExpressionRecognizer('hf-hub:' + name))"
    with HubServer() as server:
        serve(server, published)
        said = Client(server, tmp_path, token=None).python(program).splitlines()
    for line, expected in zip(said, names.values(), strict=True):
        assert line.startswith("HubError: ")
        assert expected in line


#: Ways that take the weights in the package, run in a copy of it.
OF_THE_PACKAGE = {
    "timm": "import timm, mrcar_timm; timm.create_model('mrcar_mobilenet', pretrained=True)",
    "other classes": "import timm, mrcar_timm; timm.create_model('mrcar_mobilenet', pretrained=True, num_classes=2)",
    "recognizer": "import mrcar_timm; mrcar_timm.ExpressionRecognizer()",
    "download": "import mrcar_timm.hub; mrcar_timm.hub.download('mrcar_mobilenet')",
    "torch.hub": "import torch; torch.hub.load('.', 'mrcar_mobilenet', source='local', pretrained=True)",
}


@pytest.mark.parametrize("fault", ["a bit of a tensor", "cut off", "gone", "other weights"])
def test_faults_of_the_package(tmp_path, fault):
    ignored = shutil.ignore_patterns("*.ferplus", "__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignored)
    shutil.copy(ROOT / "hubconf.py", tmp_path)
    weights = tmp_path / "src/mrcar_timm/weights/mrcar_mobilenet.everyday/model.safetensors"
    folder = tmp_path / "breaking"
    folder.mkdir()
    shutil.copy(weights, folder / "model.safetensors")
    OF_A_FOLDER[fault][0](folder)
    weights.unlink()
    if (broken := folder / "model.safetensors").exists():
        broken.rename(weights)
    program = "import sys\nsys.path.insert(0, 'src')\n"
    for way, code in OF_THE_PACKAGE.items():
        program += f"try:\n    {code}\n    print('{way}: loaded')\n"
        # Whatever is raised: what the user sees is the point.
        program += f"except Exception as error: print('{way}:', type(error).__name__, error)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert len(lines) == len(OF_THE_PACKAGE), done.stderr
    for line in lines:
        assert str(weights) in line or "src/mrcar_timm/weights" in line
        assert line.endswith("Install the package again."), line
        if fault != "gone":
            assert "DamagedWeightsError" in line
            assert PACKAGED["mrcar_mobilenet.everyday"].sha256 in line


def test_what_was_damaged_in_the_cache(published, tmp_path):
    """On disk, after it was downloaded, where the Hub's client does not look at it: it is downloaded once more."""
    with HubServer() as server:
        serve(server, published)
        client = Client(server, tmp_path / "home", token=None)
        assert client.mrcar("download", f"hf-hub:{REPO}").returncode == 0
        (blob,) = (file for file in (tmp_path / "home/hub").glob("*/blobs/*") if file.stat().st_size > 10**6)
        whole = shutil.copytree(tmp_path / "home/hub", tmp_path / "whole", symlinks=True)
        program = PROLOGUE + "import pathlib\n"
        for load in WAYS.values():
            program += (
                f"shutil.rmtree(cache); shutil.copytree({str(whole)!r}, cache, symlinks=True)\n"
                f"blob = pathlib.Path({str(blob)!r}); data = blob.read_bytes()\n"
                "blob.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])\n"
                f"say(lambda: {load}); say(lambda: {load})\n"
            )
        online = client.python(program).splitlines()
        offline = client.python(program, HF_HUB_OFFLINE="1").splitlines()
    assert online == ["loaded"] * 6
    for first, then in zip(offline[::2], offline[1::2], strict=True):
        assert re.search("DamagedWeightsError: .* removed from the cache.* not be downloaded again: .*offline", first)
        assert re.search("HubError: .*not in the cache, and the Hub is offline", then)


def test_blobs_that_repositories_share(published, tmp_path):
    """With Xet the Hub's client keeps a large file once, and links to it from each repository."""
    with HubServer() as server:
        serve(server, published)
        client = Client(server, tmp_path, token=None)
        assert client.mrcar("download", f"hf-hub:{REPO}").returncode == 0
        (blob,) = (file for file in (tmp_path / "hub").glob("*/blobs/*") if file.stat().st_size > 10**6)
        shared = tmp_path / "hub/.shared-blobs/ab" / ("ab" * 32)
        shared.parent.mkdir(parents=True)
        blob.rename(shared)
        blob.symlink_to(shared)
        program = PROLOGUE + "".join(f"say(lambda: {load})\n" for load in WAYS.values())
        assert client.python(program).split() == ["loaded"] * 3
        rewritten(shared, flipped(-5))
        shared.chmod(0o444)
        assert client.python(program).split() == ["loaded"] * 3
        assert not shared.exists()
        (config,) = (tmp_path / "hub").glob("*/snapshots/*/config.json")
        config.unlink()
        config.write_text("x")  # where there are no links
        assert client.python(PROLOGUE + f"say(lambda: {WAYS['recognizer']})\n" * 2).split() == ["loaded"] * 2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", OF_THE_HUB)
def test_faults_of_the_hub(waiting, fault, way):
    first, then = waiting[way].result()[fault]
    expected = TIMM_SAYS.get(fault, SAYS[fault]) if way == "timm" else SAYS[fault]
    assert re.search(expected, first), first
    if (fault, way) == ("no JSON", "timm"):
        assert then.startswith("JSONDecodeError")  # timm's own, and lasting; how it is mended is tested above
    else:
        assert then == "loaded"


def test_no_network(waiting):
    done = waiting["no network"].result()
    assert done.returncode == 1
    assert "it is not in the cache, and the Hub is offline or cannot be reached" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
