"""tools/weights.py: from archives to weights, in calls that end in time."""

import json
import shutil
from pathlib import Path

import pytest
import typer
from tools import weights

from mrcar_timm.checkpoints.record import Record
from mrcar_timm.checkpoints.weights_file import read_weights
from mrcar_timm.network import load_network
from mrcar_timm.training.batches import load_training
from mrcar_timm.training.engine import read_log
from mrcar_timm.training.recipe import load_recipe

from .conftest import vote

pytestmark = pytest.mark.slow


@pytest.fixture
def archives(fer_folder: Path, tmp_path: Path) -> Path:
    """FER2013's images in three archives, and votes that agree with their labels."""
    folder = tmp_path / "archives"
    folder.mkdir()
    names = {"happy": "happiness", "sad": "sadness"}
    vote(fer_folder, {file.name: {names[file.parent.name]: 10} for file in fer_folder.rglob("*.png")})
    shutil.move(fer_folder / "ferplus.csv", folder)
    for split in ("train", "validation", "test"):
        shutil.make_archive(str(folder / f"fer2013-{split}"), "zip", fer_folder, split)
    return folder


def plan(work: Path, seconds: float = 1) -> None:
    """One epoch of each stage, which takes so long."""
    work.mkdir()
    epochs = dict.fromkeys(weights.STAGES, 1) | {"ferplus-first": 2}
    times = {"seconds_an_epoch": seconds, "seconds_of_scoring": seconds}
    (work / "plan.json").write_text(json.dumps({"epochs": epochs, **times}))


def test_program_goes_on_where_it_stopped(archives, tmp_path):
    work = tmp_path / "work"
    plan(work)
    calls = 2 * len(weights.STAGES) + 2  # an epoch a call: no minutes are given
    for _ in range(calls - 1):
        with pytest.raises(typer.Exit) as stop:
            weights.main(archives, work, minutes=0, seeds="0,1")
        assert stop.value.exit_code == 3
    assert [row["epoch"] for row in read_log(work / "ferplus-first-0/log.csv")] == [1, 2]
    assert not (work / "weights").exists()
    weights.main(archives, work, minutes=0, seeds="0,1")
    scores = json.loads((work / "validation.json").read_text())
    assert set(scores) == {f"{stage}-{seed}" for stage in weights.STAGES for seed in (0, 1)}
    for tag, labels in (("ferplus", 8), ("fer2013", 7)):
        folder = work / f"weights/mrcar_resnet.{tag}"
        record = Record.read(folder)
        assert record.sha256 == read_weights(folder / "model.safetensors").digest
        assert len(record.labels) == labels
    # FER2013's weights went on from those of the same seed, which went on from FER+'s, and had both seeds as teachers.
    runs = {run["id"]: run for run in record.runs}
    last = record.runs[-1]["recipe"]
    before = runs[last["init"]]["recipe"]
    assert [before["seed"], runs[before["init"]]["data"]["name"]] == [last["seed"], "ferplus"]
    branches = runs[before["init"]]["recipe"]["branches"]
    assert {region: runs[start]["recipe"]["model_args"] for region, start in branches.items()} == {
        region: {"regions": [region]} for region in ("face", "eyes", "mouth")
    }
    assert last["teachers"] == [str(work / f"fer2013-first-{seed}") for seed in (0, 1)]
    assert load_network(work / "fer2013-face-0").model.regions == ("face",)


def test_call_begins_no_run_that_would_end_late(archives, tmp_path):
    plan(tmp_path / "work", seconds=3000)  # a third of that for the second run, and for its scores
    with pytest.raises(typer.Exit) as stop:
        weights.main(archives, tmp_path / "work", minutes=20)
    assert stop.value.exit_code == 3
    assert set(json.loads((tmp_path / "work/validation.json").read_text())) == {"ferplus-face-0"}


def test_program_needs_no_detector_where_landmarks_are_cached(archives, tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    for work in (first, second):
        plan(work)
    with pytest.raises(typer.Exit):
        weights.main(archives, first, minutes=0)
    shutil.make_archive(str(archives / "landmarks"), "zip", first / "data/.mrcar-cache")

    def refuse(*args):
        raise AssertionError("the detector was asked")

    monkeypatch.setattr("mrcar_timm.faces.mtcnn.MTCNNDetector.landmarks_of_crops", refuse)
    with pytest.raises(typer.Exit):
        weights.main(archives, second, minutes=0)
    logs = [read_log(work / "ferplus-face-0/log.csv")[0] for work in (first, second)]
    assert logs[0]["val_loss"] == pytest.approx(logs[1]["val_loss"], rel=1e-4)


def test_plan_fits_into_the_hours_and_is_kept(fer_folder, tmp_path, monkeypatch):
    """12 of 16 images take 1.2 seconds and the validation 4: an epoch takes 5.6."""
    splits = load_training(load_recipe("fer2013"), fer_folder)
    phases = {"data": 0.2, "forward": 0.3, "backward": 0.5, "optimizer": 0.2}

    def fit(self, on_epoch):
        on_epoch({"seconds": 9.0, **dict.fromkeys(phases, 2.0)})
        on_epoch({"seconds": 5.2, **phases})

    monkeypatch.setattr(weights.Trainer, "fit", fit)
    monkeypatch.setattr(weights, "_PROBE", 12)
    file, epoch = tmp_path / "plan.json", 5.6 / 3600
    plan = weights.planned(file, splits, 100 * epoch, 1, "cpu")
    epochs = plan["epochs"]
    assert epochs["ferplus-first"] == round(100 * weights.STAGES["ferplus-first"].share)
    assert epochs["fer2013"] == round(100 * weights.STAGES["fer2013"].share / (1 + weights.TEACHER))
    assert epochs["ferplus-face"] == round(300 * weights.STAGES["ferplus-face"].share)
    assert weights.planned(file, splits, 500 * epoch, 1, "cpu") == plan
    assert (plan["seconds_an_epoch"], plan["seconds_of_scoring"]) == pytest.approx((5.6, 40))  # ten crops of each
    three = weights.planned(tmp_path / "other.json", splits, 300 * epoch, 3, "cpu")["epochs"]
    assert three["ferplus-first"] == epochs["ferplus-first"]
    assert sum(stage.share for stage in weights.STAGES.values()) == pytest.approx(1)
