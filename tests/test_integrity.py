"""Each fault, by each way of loading: what the user sees, and that the next call is none the worse for it."""

import hashlib
import json
import re
import shutil
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import mrcar_timm
from mrcar_timm import hub
from mrcar_timm.errors import DamagedWeightsError, HubError, UnverifiedWeightsWarning, WeightsError
from mrcar_timm.checkpoints.record import CHECKPOINTS
from mrcar_timm.checkpoints.sources import check_cached, evict
from mrcar_timm.checkpoints.weights_file import read_weights, tensor_digest, write_weights

from .clients import Client
from .conftest import EXAMPLES, ROOT
from .hub_server import Fault, HubServer, Repo

REPO = "ORG/faces"


def flipped(at: int):
    """A change of one bit."""
    return lambda data: data[: at % len(data)] + bytes([data[at] ^ 1]) + data[at % len(data) + 1 :]


def with_other_labels(config: bytes) -> bytes:
    values = json.loads(config)
    values["label_names"][:2] = values["label_names"][1::-1]
    return json.dumps(values, indent=2).encode() + b"\n"


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
DAMAGED = "DamagedWeightsError: .* is damaged: expected the digest .* found .* It was taken out of the cache: the next"
CUT = "HubError: .*(Consistency check failed|peer closed connection|IncompleteRead|ConnectionError).*; try again"
SAYS = {
    "a bit of a tensor": DAMAGED,
    "a bit of the header": DAMAGED,
    "a bit of the header's length": DAMAGED,
    "short weights": CUT,
    "dropped weights": CUT,
    "labels in another order": DAMAGED,
    "no JSON": DAMAGED,
    "dropped config": CUT,
    "401": "HubError: .*answered 401; the token is missing or wrong",
    "403": "HubError: .*answered 403; the token does not allow it",
    "404": "HubError: .*has no such repository, or shows it to others alone",
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


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A folder as it is published."""
    folder = tmp_path_factory.mktemp("published")
    hub.save("mrcar_resnet.fer2013", folder, REPO)
    return folder


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
        assert re.search(SAYS[fault].split(": ", 1)[1], done.stderr.replace("\n", " "))
        server.fault = None
        assert json.loads(client.mrcar(*predict).stdout)[0]["faces"][0]["expression"] == "happiness"


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
        "a/b/c": "the name is none of a repository",
        "": "the name is none of a repository",
    }
    program = PROLOGUE + f"for name in {list(names)}: say(lambda: mrcar_timm.ExpressionRecognizer('hf-hub:' + name))"
    with HubServer() as server:
        serve(server, published)
        said = Client(server, tmp_path, token=None).python(program).splitlines()
    for line, expected in zip(said, names.values(), strict=True):
        assert line.startswith("HubError: ")
        assert expected in line


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def swap_labels(folder: Path) -> None:
    rewritten(folder / "config.json", with_other_labels)


def put_pickle(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / "model.safetensors")


def put_other_weights(folder: Path) -> None:
    shutil.copy(CHECKPOINTS["mrcar_resnet.fer2013_v1"].path, folder / "model.safetensors")


#: Faults of a folder, and what is said then.
OF_A_FOLDER: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of a tensor": (lambda f: rewritten(f / "model.safetensors", flipped(-9)), "is damaged: expected the digest"),
    "a bit of the header": (lambda f: rewritten(f / "model.safetensors", flipped(700)), "is damaged: expected the"),
    "a bit of the digest": (
        lambda f: rewritten(f / "model.safetensors", flipped(50)),
        "is damaged: expected the digest",
    ),
    "cut off": (
        lambda f: rewritten(f / "model.safetensors", lambda data: data[:-1]),
        "is damaged: expected the digest",
    ),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "is damaged: expected the digest"),
    "gone": (lambda f: (f / "model.safetensors").unlink(), "is missing"),
    "a pickle under its name": (put_pickle, "is damaged: expected the digest"),
    "other weights": (put_other_weights, "beside it is of other weights"),
    "labels in another order": (swap_labels, "know the classes anger, disgust, .* says disgust, anger"),
}


@pytest.mark.parametrize("fault", OF_A_FOLDER)
def test_faults_of_a_folder(published, tmp_path, fault):
    folder = shutil.copytree(published, tmp_path / "weights")
    break_it, says = OF_A_FOLDER[fault]
    break_it(folder)
    for load in (
        lambda: timm.create_model(f"local-dir:{folder}", pretrained=True),
        lambda: timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3),
        lambda: timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True),
        lambda: mrcar_timm.ExpressionRecognizer(f"local-dir:{folder}"),
        lambda: mrcar_timm.ExpressionRecognizer(folder),
    ):
        with pytest.raises(WeightsError, match=says):
            load()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda config: "[]", "holds no object"),
        (lambda config: "{", "is damaged"),
        (lambda config: json.dumps({**config, "architecture": "resnet1"}), "is of a network 'resnet1'"),
        (lambda config: json.dumps({**config, "architecture": "resnet18"}), "takes no regions of faces"),
        (lambda config: json.dumps({**config, "pretrained_cfg": 3}), "describes no network"),
        (lambda config: json.dumps({**config, "model_args": {"features_only": True}}), "gives features"),
        (lambda config: json.dumps({**config, "model_args": {"widths": [8, 8, 8]}}), "have another shape"),
        (lambda config: json.dumps({**config, "model_args": {"wings": 2}}), "describes no network"),
        (lambda config: json.dumps({**config, "model_args": {"shared": True}}), "the weights lack .* tensors"),
        (lambda config: json.dumps({**config, "label_names": None}), "names 0 classes of 7"),
        (lambda config: json.dumps({**config, "mrcar": {"temperature": -1}}), "temperature must be a positive number"),
    ],
)
def test_faults_of_a_config(published, tmp_path, change, says):
    folder = shutil.copytree(published, tmp_path / "weights")
    (folder / "config.json").write_text(change(json.loads((folder / "config.json").read_text())))
    with pytest.raises(WeightsError, match=says):
        mrcar_timm.ExpressionRecognizer(folder)


#: Ways that take the weights in the package, run in a copy of it.
OF_THE_PACKAGE = {
    "timm": "import timm, mrcar_timm; timm.create_model('mrcar_resnet', pretrained=True)",
    "timm, other classes": "import timm, mrcar_timm; timm.create_model('mrcar_resnet', pretrained=True, num_classes=2)",
    "recognizer": "import mrcar_timm; mrcar_timm.ExpressionRecognizer()",
    "download": "import mrcar_timm.hub; mrcar_timm.hub.download('mrcar_resnet')",
    "torch.hub": "import torch; torch.hub.load('.', 'mrcar_resnet', source='local', pretrained=True)",
}


@pytest.mark.parametrize("fault", ["a bit of a tensor", "cut off", "gone", "other weights"])
def test_faults_of_the_package(tmp_path, fault):
    ignored = shutil.ignore_patterns("*_v?.*", "*.ferplus.*", "__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignored)
    shutil.copy(ROOT / "hubconf.py", tmp_path)
    weights = tmp_path / "src/mrcar_timm/weights/mrcar_resnet.fer2013.safetensors"
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
            assert CHECKPOINTS["mrcar_resnet.fer2013"].sha256 in line


def test_what_was_damaged_in_the_cache(published, tmp_path):
    """On disk, after it was downloaded: the Hub's client takes it from there without a look."""
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
    assert [re.search(f"^loaded|{DAMAGED}", line) is not None for line in online] == [True] * 6
    assert [line == "loaded" for line in online] == [False, True, False, True, True, True]  # download mends at once
    gone = "HubError: .*not in the cache, and the Hub is switched off"
    for at, line in enumerate(offline):
        assert re.search(DAMAGED if at in (0, 2) else gone, line), line


def test_blobs_that_repositories_share(published, tmp_path):
    """With Xet the Hub's client keeps a large file once, under another digest, and links to it from each repository."""
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
        first, then, _ = client.python(program).splitlines()
        assert re.search(DAMAGED, first)
        assert then == "loaded"
        assert not shared.exists()
        (config,) = (tmp_path / "hub").glob("*/snapshots/*/config.json")
        config.unlink()
        config.write_text("x")  # where there are no links
        first, then = client.python(PROLOGUE + f"say(lambda: {WAYS['recognizer']})\n" * 2).splitlines()
        assert first.startswith("WeightsError: ")
        assert "config.json is damaged" in first
        assert then == "loaded"


def test_files_by_other_digests(tmp_path):
    """Some mirrors file small files by their SHA-1 alone, and others by something else, which cannot be checked."""
    data = b'{"a": 1}'
    right = [hashlib.sha1(b"blob 8\0" + data).hexdigest(), hashlib.sha1(data).hexdigest()]
    for name in (*right, hashlib.sha256(data).hexdigest(), "W-1234"):
        blob, file = tmp_path / name, tmp_path / "config.json"
        blob.write_bytes(data)
        file.symlink_to(blob.name)
        check_cached(file)
        blob.write_bytes(data.replace(b"1", b"2"))
        if name == "W-1234":
            check_cached(file)
        else:
            with pytest.raises(DamagedWeightsError, match=f"expected the digest {name}"):
                check_cached(file)
            assert not blob.exists()
            assert not file.is_symlink()


def test_a_cache_that_may_not_be_changed(published, monkeypatch):
    """As in a container: the message says what to delete."""

    def refused(*_, **__) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refused)
    file = published / "config.json"
    assert evict(file) == f"Delete {file}, which this user may not, to have it downloaded anew."


def test_digest_by_hand(tmp_path):
    """From the bytes of the file, without torch and safetensors."""
    tensors = {
        "b": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "a": torch.tensor(7),
        "half": torch.rand(3, 2).half().t(),
        "brain": torch.rand(4).bfloat16(),
        "none": torch.zeros(0, 5),
        "bool": torch.tensor([True, False]),
    }
    path = tmp_path / "w.safetensors"
    said = write_weights(tensors, path, ["x", "y"])
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert (8 + length) % 8 == 0
    metadata = header.pop("__metadata__")
    assert metadata == {"digest": said, "format": "pt", "labels": '["x", "y"]'}
    types = {"F32": "float32", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
    text = b""
    for name in sorted(header):
        start, end = header[name]["data_offsets"]
        shape = ", ".join(str(size) for size in header[name]["shape"])
        text += f'["{name}", "{types[header[name]["dtype"]]}", [{shape}]]\n'.encode()
        text += data[8 + length + start : 8 + length + end]
    assert hashlib.sha256(text).hexdigest() == said == tensor_digest(tensors)
    read = read_weights(path, said)
    assert read.labels == ("x", "y")
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in tensors.items())


def test_any_bit_of_a_small_file_is_noticed(tmp_path):
    """Each but those that change nothing: in the padding, and in what the metadata say besides the digest."""
    path, tensors = tmp_path / "w.safetensors", {"a": torch.tensor([1.0, 2.0])}
    write_weights(tensors, path)
    whole, unnoticed = path.read_bytes(), 0
    for at in range(len(whole)):
        path.write_bytes(flipped(at)(whole))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                read = read_weights(path)
            except (WeightsError, UnverifiedWeightsWarning):
                continue
        unnoticed += 1
        assert torch.equal(read.tensors["a"], tensors["a"])
    assert 0 < unnoticed < 20


@pytest.mark.parametrize(
    ("key", "says"),
    [("branches.eyes.stages.0.0.branch1.conv.weight", "lack 1 tensors"), ("head.weight", "lack 1 tensors")],
)
def test_missing_tensors(published, tmp_path, key, says):
    """Those of the head alone may be missing, and only where it is for other classes."""
    folder = shutil.copytree(published, tmp_path / "weights")
    tensors = read_weights(folder / "model.safetensors").tensors
    del tensors[key]
    digest = write_weights(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mrcar": {"sha256": digest}}))
    with pytest.raises(WeightsError, match=says):
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    if key.startswith("head"):
        assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3).num_classes == 3
    else:
        with pytest.raises(WeightsError, match=says):
            timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)


def test_weights_without_digest_warn(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", {"format": "pt"})
    with pytest.warns(UnverifiedWeightsWarning, match="has no digest"):
        read_weights(tmp_path / "w.safetensors")


def test_runs_are_checked(fer_folder, tmp_path):
    from mrcar_timm.network import load_network

    from .test_training import SMALL, trainer_of

    trainer_of(SMALL, fer_folder, tmp_path / "run").fit()
    network = load_network(tmp_path / "run")
    assert network.sha256 == read_weights(tmp_path / "run/model.safetensors").digest
    rewritten(tmp_path / "run/model.safetensors", flipped(-3))
    with pytest.raises(DamagedWeightsError, match="expected the digest"):
        load_network(tmp_path / "run")


def test_errors_are_ours_and_tell_what_they_know():
    error = DamagedWeightsError(Path("w.safetensors"), "aa", "bb", "Write it again.")
    assert isinstance(error, mrcar_timm.WeightsError)
    assert issubclass(HubError, mrcar_timm.WeightsError)
    assert (error.path, error.expected, error.found) == (Path("w.safetensors"), "aa", "bb")
    assert str(error) == "w.safetensors is damaged: expected the digest aa, found bb. Write it again."


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
    assert "it is not in the cache, and the Hub is switched off or out of reach" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
