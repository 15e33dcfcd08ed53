"""What the name of a network means."""

import json
import shutil
from pathlib import Path

import pytest
import timm

from mrcar_timm import WeightsError
from mrcar_timm.checkpoints.packaged import PACKAGED, WEIGHTS_DIR
from mrcar_timm.checkpoints.resolve import NameWarning, resolve
from mrcar_timm.models import build
from mrcar_timm.network import load_network

from .command import mrcar
from .conftest import EXAMPLES


def test_the_grammar(published, tmp_path, monkeypatch):
    assert resolve().name == resolve("mrcar_mobilenet").name == "mrcar_mobilenet.everyday"
    assert resolve("mrcar_resnet").name == "mrcar_resnet.fer2013"
    assert resolve("mrcar_resnet.ferplus").folder() == WEIGHTS_DIR / "mrcar_resnet.ferplus"
    hub = resolve("hf-hub:ORG/NAME@v1").repository
    assert (hub.id, hub.revision) == ("ORG/NAME", "v1")
    shutil.copytree(published, tmp_path / "mine")
    shutil.copytree(published, tmp_path / "mrcar_resnet.mine")
    monkeypatch.chdir(tmp_path)
    for spec in ("mine", "./mine", "local-dir:mine", tmp_path / "mine", "mine/model.safetensors", Path("mine")):
        assert resolve(spec).folder().resolve() == tmp_path / "mine"
    assert resolve("mrcar_resnet.mine").folder() == Path("mrcar_resnet.mine")  # no registered tag
    for spec, says in {
        "nothing": "no registered network, no folder",
        "no/such": "no/such: no such folder",
        "local-dir:nothing": "nothing: no such folder",
        "mrcar_resnet.none": "no weights 'mrcar_resnet.none'",
        "mine/config.json": "is no folder",
    }.items():
        with pytest.raises(WeightsError, match=says):
            resolve(spec)
    with pytest.raises(WeightsError, match="holds no network: no config.json"):
        resolve(EXAMPLES).folder()


def test_a_registered_name_always_means_the_registered_network(tmp_path, monkeypatch):
    """Also after a dry run that leaves other weights in a folder of that name."""
    name = "mrcar_resnet.fer2013"
    done = mrcar("publish", "mrcar_resnet.ferplus", "--repo-id", f"me/{name}", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    with pytest.warns(NameWarning, match=f"registered network; for the folder of that name write local-dir:{name}"):
        network = load_network(name)
    assert network.sha256 == PACKAGED[name].sha256
    assert load_network(f"local-dir:{name}").sha256 == PACKAGED["mrcar_resnet.ferplus"].sha256
    assert load_network(Path(name)).sha256 == PACKAGED["mrcar_resnet.ferplus"].sha256
    with pytest.warns(NameWarning):  # which the command line prints to stderr
        done = mrcar("predict", EXAMPLES / "collins.jpg", "--json", "--model", name)
    assert len(json.loads(done.stdout)["faces"][0]["probabilities"]) == 7


def test_weights_that_sort_first_do_not_become_the_default(monkeypatch):
    """Default is what is declared, whatever lies beside it."""
    monkeypatch.setattr(build, "PACKAGED", {"mrcar_resnet.affectnet": PACKAGED["mrcar_resnet.ferplus"], **PACKAGED})
    named = build.packaged_cfgs("mrcar_resnet", dict)
    assert list(named) == ["mrcar_resnet.affectnet", "mrcar_resnet.fer2013*", "mrcar_resnet.ferplus"]
    assert timm.models.generate_default_cfgs(named)["mrcar_resnet"].tags[0] == "fer2013"
    assert timm.create_model("mrcar_resnet", pretrained=True).pretrained_cfg["tag"] == "fer2013"
