"""results/weights.py: from archives to weights, in calls that end in time."""

import json
import shutil
from pathlib import Path

import pytest
import typer
from results import weights

from mrcar_timm.models.checkpoints import file_digest
from mrcar_timm.models.loading import load_network
from mrcar_timm.training.engine import read_log
from mrcar_timm.training.speed import TrainingSpeed

from .test_data import vote


@pytest.fixture
def archives(fer_folder: Path, tmp_path: Path) -> Path:
    """FER2013's pictures in three archives, and votes that agree with their labels."""
    folder = tmp_path / "archives"
    folder.mkdir()
    names = {"happy": "happiness", "sad": "sadness"}
    vote(fer_folder, {file.name: {names[file.parent.name]: 10} for file in fer_folder.rglob("*.png")})
    shutil.move(fer_folder / "ferplus.csv", folder)
    for split in ("train", "validation", "test"):
        shutil.make_archive(str(folder / f"fer2013-{split}"), "zip", fer_folder, split)
    return folder


def test_program_goes_on_where_it_stopped(archives, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "plan.json").write_text(json.dumps({"epochs": {"ferplus": 2, "fer2013-votes": 1}}))
    for _ in range(2):  # an epoch a call: no minutes are given
        with pytest.raises(typer.Exit) as stop:
            weights.main(archives, work, minutes=0)
        assert stop.value.exit_code == 3
    assert [row["epoch"] for row in read_log(work / "ferplus-0/log.csv")] == [1, 2]
    assert not (work / "weights").exists()
    weights.main(archives, work, minutes=0)
    scores = json.loads((work / "validation.json").read_text())
    assert set(scores) == {"ferplus-0", "fer2013-votes-0"}
    for tag, labels in (("ferplus", 8), ("fer2013", 7)):
        record = json.loads((work / f"weights/mrcar_resnet.{tag}.json").read_text())
        assert record["sha256"] == file_digest(work / f"weights/mrcar_resnet.{tag}.safetensors")
        assert len(record["labels"]) == labels
    assert record["recipe"]["init"]["best_epoch"] in (1, 2)  # FER2013's weights went on from FER+'s
    assert load_network(work / "fer2013-votes-0").labels == tuple(record["labels"])


def test_program_needs_no_detector_where_landmarks_are_cached(archives, tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    for work in (first, second):
        work.mkdir()
        (work / "plan.json").write_text(json.dumps({"epochs": {"ferplus": 1, "fer2013-votes": 1}}))
    with pytest.raises(typer.Exit):
        weights.main(archives, first, minutes=0)
    shutil.make_archive(str(archives / "landmarks"), "zip", first / "data/.mrcar-cache")

    def refuse(*args):
        raise AssertionError("the detector was asked")

    monkeypatch.setattr("mrcar_timm.regions.mtcnn.MTCNNDetector.landmarks_of_crops", refuse)
    with pytest.raises(typer.Exit):
        weights.main(archives, second, minutes=0)
    logs = [read_log(work / "ferplus-0/log.csv")[0] for work in (first, second)]
    assert logs[0]["val_loss"] == pytest.approx(logs[1]["val_loss"], rel=1e-4)


def test_plan_fits_into_the_hours_and_is_kept(tmp_path, monkeypatch):
    def timing(ms):
        ways = [TrainingSpeed("float32", 30, {}, 1, False), TrainingSpeed("channels_last", ms, {}, 1, True)]
        return lambda *args, **kwargs: iter(ways)

    monkeypatch.setattr(weights, "time_training", timing(10.0))
    file = tmp_path / "plan.json"
    plan = weights.planned(file, pictures=36_000, hours=2, runs=1, device="cpu")  # six minutes an epoch: twenty
    assert plan == {"ferplus": 12, "fer2013-votes": 8}
    monkeypatch.setattr(weights, "time_training", timing(1.0))
    assert weights.planned(file, pictures=36_000, hours=2, runs=1, device="cpu") == plan
    other = weights.planned(tmp_path / "other.json", pictures=36_000, hours=2, runs=4, device="cuda")
    assert other == {"ferplus": 30, "fer2013-votes": 20}
