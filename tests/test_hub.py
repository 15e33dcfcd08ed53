"""The Hub in the process of the tests; what takes processes of its own is in test_publish.py and test_hub_faults.py."""

import json

import pytest
import timm
import torch

from mrcar_timm import ExpressionRecognizer, HubError, WeightsError
from mrcar_timm.checkpoints.packaged import PACKAGED
from mrcar_timm.checkpoints.resolve import resolve
from mrcar_timm.hub import download, known_weights, publish, save
from mrcar_timm.network import load_network

from .command import mrcar
from .conftest import EXAMPLES, HUB
from .hub_server import Fault, Repo

RECORD = PACKAGED["mrcar_resnet.fer2013"]


@pytest.fixture
def fault():
    """Sets what goes wrong, for one test."""
    yield lambda kind: setattr(HUB, "fault", kind)
    HUB.fault = None


@pytest.fixture(scope="module")
def repo():
    """A repository with the default weights under the tag v1."""
    done = mrcar("publish", "mrcar_resnet.fer2013", "--repo-id", "ORG/here", "--revision", "v1")
    assert done.returncode == 0, done.stderr
    assert "hf-hub:ORG/here@v1: published" in done.stdout
    return "hf-hub:ORG/here"


def test_published_weights_are_loaded_everywhere(repo, portrait):
    network = load_network(f"{repo}@v1")
    assert (network.sha256, network.labels) == (RECORD.sha256, RECORD.labels)
    x = torch.rand(2, 3, 3, 44, 44)
    with torch.inference_mode():
        expected = load_network("mrcar_resnet").model(x)
        torch.testing.assert_close(network.model(x), expected)
        torch.testing.assert_close(timm.create_model(repo, pretrained=True).eval()(x), expected)
    assert ExpressionRecognizer(repo)(portrait)[0].expression == "happiness"
    assert resolve(repo).record().runs == RECORD.runs
    assert HUB.unknown == []


def test_publishing_twice_is_a_no_op_and_tags_stay(repo):
    before = len(HUB.repos["ORG/here"].commits)
    for revision in (None, "v1", "main"):
        again = publish("mrcar_resnet.fer2013", "ORG/here", revision)
        assert not again.changed
        assert again.record.sha256 == RECORD.sha256
    with pytest.raises(HubError, match="names other weights"):
        publish("mrcar_resnet.ferplus", "ORG/here", "v1")
    assert len(HUB.repos["ORG/here"].commits) == before
    with pytest.raises(WeightsError, match="is published already"):
        publish(repo, "ORG/other")


def test_what_is_here_is_listed(repo):
    assert download(f"{repo}@v1") == resolve(f"{repo}@v1").folder()
    assert mrcar("download", "mrcar_resnet").returncode == 0
    known = {each.name: each for each in known_weights()}
    assert {*PACKAGED, f"{repo}@v1"} <= set(known)
    for name, where in (("mrcar_resnet.fer2013", "package"), (f"{repo}@v1", "cache")):
        assert (known[name].where, known[name].sha256, known[name].intact) == (where, RECORD.sha256, True)
        assert known[name].scored == "FER2013 test, ten crops"
        assert known[name].accuracy == RECORD.scores["test"]["ten, all"]["accuracy"]
        assert known[name].license == "non-commercial research"
    listed = json.loads(mrcar("models", "--json").stdout)
    assert {each["name"] for each in listed["weights"]} == set(known)
    text = mrcar("models").stdout
    assert "pretrained=True loads mrcar_resnet.fer2013" in text
    assert "in the cache" in text


def test_damage_in_the_cache_is_downloaded_once_more(repo, fault):
    file = download(repo) / "model.safetensors"
    blob = file.resolve()
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    assert {each.name: each.intact for each in known_weights()}[f"{repo}@v1"] is False
    assert "damaged" in mrcar("models").stdout
    assert load_network(repo).sha256 == RECORD.sha256
    assert file.read_bytes() == whole
    file.resolve().write_bytes(whole[:-1] + b"?")
    fault(Fault(path="safetensors", change=lambda data: data[:-1] + b"!"))
    with pytest.raises(WeightsError, match="is damaged.*removed from the cache.*came from the Hub like this"):
        download(repo)
    assert not file.exists()


@pytest.mark.parametrize(
    ("kind", "says"),
    [(401, "token is missing or wrong"), (403, "token does not allow it"), (404, "no such repository, or it is")],
)
def test_what_the_hub_refuses(repo, fault, kind, says):
    fault(Fault(kind))
    with pytest.raises(HubError, match=says):
        download("hf-hub:ORG/elsewhere")
    done = mrcar("predict", EXAMPLES / "collins.jpg", "--model", "hf-hub:ORG/elsewhere")
    assert done.returncode == 1
    assert says in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hf-hub:ORG/here@v9", "there is no revision 'v9'"),
        ("hf-hub:ORG/here@", "names no revision"),
        ("hf-hub:a/b/c", "this is no repository name"),
        ("mrcar_resnet.none", "no weights 'mrcar_resnet.none'; installed are mrcar_mobilenet.everyday"),
    ],
)
def test_names_that_mean_nothing(repo, name, says):
    with pytest.raises(WeightsError, match=says):
        download(name)


def test_a_repository_without_a_network_of_ours(published):
    HUB.repos["ORG/resnet"] = Repo(False, [])
    HUB.repos["ORG/resnet"].add("main", "weights", {"config.json": b'{"architecture": "resnet18"}'})
    with pytest.raises(WeightsError, match="is of a network 'resnet18', which takes no regions"):
        load_network("hf-hub:ORG/resnet")
    HUB.repos["ORG/pickle"] = Repo(False, [])
    HUB.repos["ORG/pickle"].add("main", "weights", {"config.json": (published / "config.json").read_bytes()})
    with pytest.raises(HubError, match="there is no such file"):
        load_network("hf-hub:ORG/pickle")


def test_dry_run_asks_nobody(tmp_path):
    asked = len(HUB.requests)
    done = mrcar("publish", "mrcar_resnet.ferplus", "--repo-id", "me/mine", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {file.name for file in (tmp_path / "mine").iterdir()} == {
        "README.md", "config.json", "confusion.png", "model.safetensors", "record.json",
    }  # fmt: skip
    assert len(HUB.requests) == asked
    assert load_network(tmp_path / "mine").labels == PACKAGED["mrcar_resnet.ferplus"].labels
    done = mrcar("publish", "mrcar_resnet.ferplus", "--repo-id", "me/mine", "--folder", tmp_path / "x")
    assert (done.returncode, done.stderr) == (1, "error: --folder goes with --dry-run\n")
    assert "me/mine" not in HUB.repos


@pytest.mark.parametrize("source", ["no/such/run", str(EXAMPLES), "hf-hub:ORG/none", "mrcar_resnet.nothing"])
def test_publishing_what_is_not_there(source, tmp_path):
    with pytest.raises(WeightsError):
        save(source, tmp_path / "out", "ORG/none")
    assert not (tmp_path / "out").exists()
