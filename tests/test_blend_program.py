"""``tools.blend``: weights between two networks, and which of them are taken."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from tools import blend
from tools.everyday import read

from mrcar_timm.checkpoints.record import Record, run_id
from mrcar_timm.network import load_network

from .conftest import vote


def row(share: float, mirror: float, blur: float, noise: float = 0.7, ten: float = 0.83) -> dict[str, float]:
    return {"share": share, "one": 0.8, "mirror": mirror, "ten": ten, "blur": blur, "noise": noise}


ROWS = [row(0.5, 0.83, 0.67), row(0.75, 0.82, 0.69), row(0.875, 0.82, 0.7), row(1, 0.81, 0.72)]


def test_the_best_of_the_robust_shares_is_taken():
    before = {"mirror": 0.8, "ten": 0.8}
    assert blend.chosen_share(ROWS, before) == 0.75  # blur costs the first too much; the third is no better
    assert blend.chosen_share([row(0.5, 0.83, 0.7, noise=0.67), row(1, 0.81, 0.7)], before) == 1


def test_if_it_is_less_accurate_than_before_the_most_robust_of_the_others_is_taken():
    assert blend.chosen_share(ROWS, {"mirror": 0.825, "ten": 0.8}) == 0.5
    several = [row(0.5, 0.84, 0.63), row(0.625, 0.835, 0.66), row(0.75, 0.83, 0.67, ten=0.79), row(1, 0.81, 0.72)]
    assert blend.chosen_share(several, {"mirror": 0.825, "ten": 0.8}) == 0.625
    assert blend.chosen_share(several[:2], {"mirror": 0.825, "ten": 0.8}) == 0.625  # none is within the bound
    assert blend.chosen_share(ROWS, {"mirror": 0.84, "ten": 0.8}) is None
    assert blend.chosen_share(ROWS, {"mirror": 0.8, "ten": 0.84}) is None


@pytest.mark.parametrize("head", blend.OWN)
def test_weights_lie_between_student_and_taught_network(head):
    grey = torch.randn(2, 3, 1, 44, 44, generator=torch.Generator().manual_seed(0))
    student = load_network(blend.STUDENTS[head].parent).model.eval()
    first = blend.network_with(blend.between(head, 0), head)
    with torch.inference_mode():
        ours, theirs = first(grey), student(grey.expand(-1, -1, 3, -1, -1))
    # the student's scale has its temperature
    torch.testing.assert_close(ours / first.head.scale, theirs / student.head.scale, rtol=1e-3, atol=1e-4)
    taught = read(blend.TAUGHT[head] / "mrcar_resnet.safetensors")
    last, middle = blend.between(head, 1), blend.between(head, 0.5)
    assert torch.equal(last["head.weight"], taught[f"heads.{head}.weight"])
    for key in ("branches.eyes.conv1.conv.weight", "branches.face.conv1.bn.running_var", "fusion.0.weight"):
        assert torch.equal(last[key], taught[f"backbone.{key}"])
        torch.testing.assert_close(middle[key], (first.state_dict()[key] + last[key]) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("head", blend.OWN)
def test_weights_are_calibrated_and_say_what_is_behind_them(head, fer_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(blend, "SHARES", (0.5, 1.0))
    monkeypatch.setattr(blend, "BOUND", 1.0)
    monkeypatch.setattr(blend, "accuracies_before", lambda head: {"mirror": 0.0, "ten": 0.0})
    monkeypatch.setitem(blend.SCORES, head, tmp_path / "shares.json")
    if head == "ferplus":
        faces = {"happy": {"happiness": 10}, "sad": {"sadness": 10}}
        vote(fer_folder, {file.name: faces[file.parent.name] for file in sorted(fer_folder.rglob("*.png"))})
    start = tmp_path / "start.bin"
    start.write_bytes(b"start")
    blend.score_shares(head, fer_folder)
    found = json.loads((tmp_path / "shares.json").read_text())
    assert [each["share"] for each in found["rows"]] == [0.5, 1.0]
    blend.package(head, fer_folder, tmp_path / "weights", start)
    name = f"mrcar_resnet.{head}"
    network, record = load_network(tmp_path / "weights" / name), Record.read(tmp_path / "weights" / name)
    assert network.sha256 == record.sha256
    assert record.starts[0]["sha256"] == hashlib.sha256(b"start").hexdigest()
    *before, mean = record.runs
    assert mean["recipe"]["share"] == found["share"]
    assert all(run["id"] == run_id(run) for run in record.runs)
    ids = {run["id"]: run for run in before}
    student, taught = (ids[parent] for parent in mean["parents"])
    assert student == Record.read(blend.STUDENTS[head].parent).runs[-1]
    assert taught["made_by"] == json.loads((blend.TAUGHT[head] / "scores.json").read_text())["made_by"]
    temperature = 16 / network.model.head.scale
    regions = torch.randn(4, 3, 1, 44, 44, generator=torch.Generator().manual_seed(0))
    plain = blend.network_with(blend.between(head, found["share"]), head)
    with torch.inference_mode():
        expected = (plain(regions) / temperature).softmax(1)
        ours = network.model.eval()(regions.expand(-1, -1, 3, -1, -1)).softmax(1)
    torch.testing.assert_close(ours, expected, rtol=0.02, atol=2e-3)  # stored in half precision
