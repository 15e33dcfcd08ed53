"""Data, training, resuming and scoring."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import torch
from PIL import Image
from safetensors.torch import load_file

from mrcar_timm import DataError, MRCARError, WeightsError
from mrcar_timm.data.fer2013 import read_fer2013
from mrcar_timm.data.images import contained_in
from mrcar_timm.data.labels import EXPRESSIONS, expression_name
from mrcar_timm.data.landmarks import find_landmarks
from mrcar_timm.models.loading import load_network
from mrcar_timm.regions.geometry import template_landmarks
from mrcar_timm.training.batches import RegionBatches, erase
from mrcar_timm.training.engine import Trainer, class_weights, read_log, training_logits
from mrcar_timm.training.evaluate import fit_temperature, predict_logits, protocol_changes, score
from mrcar_timm.training.package import fold_grey, package_run
from mrcar_timm.training.recipe import Augmentation, Recipe

from .conftest import wait_while_running
from .test_recognizer import mrcar

SMALL = Recipe(epochs=2, batch_size=8, model_args={"stem_width": 8, "widths": [16, 16, 16], "embed_dim": 16}, lr=0.02)


def test_labels():
    assert [expression_name(n) for n in ("Angry", "sad", "happiness")] == ["anger", "sadness", "happiness"]
    assert EXPRESSIONS[6:] == ("neutral", "contempt")
    with pytest.raises(ValueError, match="unknown expression 'bored'"):
        expression_name("bored")


def test_folders_and_csv_agree(fer_folder, tmp_path):
    folder = {split: read_fer2013(fer_folder, split) for split in ("train", "validation", "test")}
    assert folder["train"].counts()["happiness"] == folder["train"].counts()["sadness"] == 8
    names = {"train": "Training", "validation": "PublicTest", "test": "PrivateTest"}
    file = tmp_path / "fer2013.csv"
    with open(file, "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["emotion", "pixels", "Usage"])
        for split, data in folder.items():
            for image, label in zip(data.images, data.labels, strict=True):
                writer.writerow([label, " ".join(map(str, image.flatten())), names[split]])
    for split, data in folder.items():
        assert read_fer2013(file, split).digest() == data.digest()


def test_kaggles_folders_mix_two_splits_in_test(fer_folder):
    expected = {split: len(read_fer2013(fer_folder, split)) for split in ("validation", "test")}
    for file in (fer_folder / "validation").rglob("*.png"):
        file.rename(fer_folder / "test" / file.parent.name / file.name)
    for file in (fer_folder / "validation").iterdir():
        file.rmdir()
    (fer_folder / "validation").rmdir()
    assert {split: len(read_fer2013(fer_folder, split)) for split in expected} == expected


def test_wrong_layouts(fer_folder, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_fer2013(tmp_path / "none", "train")
    with pytest.raises(ValueError, match="split must be"):
        read_fer2013(fer_folder, "training")
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="expected columns"):
        read_fer2013(tmp_path / "odd.csv", "train")
    (tmp_path / "bad.csv").write_text("emotion,pixels,Usage\n3,1 2 3,Training\n")
    with pytest.raises(DataError, match="line 2"):
        read_fer2013(tmp_path / "bad.csv", "train")
    Image.new("L", (50, 50)).save(fer_folder / "train/sad/Training_x.png")
    with pytest.raises(DataError, match="48×48, this one is 50×50"):
        read_fer2013(fer_folder, "train")
    (fer_folder / "train/sad/Training_x.png").write_bytes(b"")
    with pytest.raises(DataError, match="Training_x.png: not a readable picture"):
        read_fer2013(fer_folder, "train")
    (fer_folder / "test/bored").mkdir()
    with pytest.raises(DataError, match="bored"):
        read_fer2013(fer_folder, "test")


def test_duplicates(fer_folder):
    train, test = read_fer2013(fer_folder, "train"), read_fer2013(fer_folder, "test")
    assert not contained_in(train, test).any()
    both = train.select(np.array([0, 3, 3]))
    assert contained_in(train, both).nonzero()[0].tolist() == [0, 3]


def test_landmark_cache(fer_folder, tmp_path):
    images = read_fer2013(fer_folder, "train").images
    found = find_landmarks(images, tmp_path)
    (file,) = tmp_path.glob("landmarks-*.npz")
    assert found.counts()["onet"] > 0
    stored = np.load(file)
    np.savez(file, points=stored["points"] + 1, sources=stored["sources"])
    assert (find_landmarks(images, tmp_path).points == found.points + 1).all()  # the file was read
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(find_landmarks(images, tmp_path).points, found.points)  # and made anew
    find_landmarks(images[:3], tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    faceless = find_landmarks(np.zeros((2, 48, 48), np.uint8), tmp_path)
    assert faceless.counts() == {"onet": 0, "cascade": 0, "template": 2}
    np.testing.assert_allclose(faceless.points[0], template_landmarks(48, 48).numpy(), rtol=1e-6)


def test_augmentation(fer_folder):
    data = read_fer2013(fer_folder, "train")
    landmarks = template_landmarks(48, 48).expand(len(data), 5, 2)
    batches = RegionBatches(data, landmarks, ("face", "eyes"), (44, 44))

    def draw(seed, augmentation):
        return next(batches.training(16, augmentation, torch.Generator().manual_seed(seed)))

    (one, labels), (same, _), (other, _) = (draw(s, Augmentation()) for s in (0, 0, 1))
    assert one.shape == (16, 2, 1, 44, 44)
    assert sorted(labels.tolist()) == sorted(data.labels.tolist())
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.min() >= -2
    assert one.max() <= 2
    still, labels = draw(0, Augmentation().times(0))
    plain = batches.view(torch.arange(16), torch.eye(3, dtype=torch.float64)[None])
    for sample in still:
        distances = torch.minimum(
            (plain - sample).abs().amax((1, 2, 3, 4)), (plain - sample.flip(-1)).abs().amax((1, 2, 3, 4))
        )
        assert distances.min() < 1e-3  # nothing but order and mirroring


def test_erase_fills_rectangles_with_the_mean():
    regions = torch.rand(50, 3, 1, 20, 30)
    out = erase(regions, 1.0, torch.Generator().manual_seed(0))
    changed = (out != regions)[:, :, 0]
    share = changed.float().mean((2, 3))
    assert (share > 0.01).all()
    assert (share < 0.31).all()
    rectangle = changed.any(2, keepdim=True) & changed.any(3, keepdim=True)
    assert torch.equal(rectangle, changed)
    torch.testing.assert_close(erase(regions, 0.0, torch.Generator()), regions)


def test_ten_crops_are_the_papers():
    """Four corners and the centre of 44 in 48 pixels, each mirrored."""
    corners = [change @ torch.tensor([1 / 24, 1 / 24, 1], dtype=torch.float64) for change in protocol_changes("ten")]
    first = {tuple((c[:2] * 48).round(decimals=6).tolist()) for c in corners[:5]}
    assert first == {(2, 2), (0, 0), (4, 0), (0, 4), (4, 4)}
    mirrored = {tuple((c[:2] * 48).round(decimals=6).tolist()) for c in corners[5:]}
    assert mirrored == {(48 - x, y) for x, y in first}
    assert [len(protocol_changes(p)) for p in ("one", "mirror", "ten")] == [1, 2, 10]
    with pytest.raises(ValueError, match="protocol"):
        protocol_changes("five")


def test_scores_agree_with_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 200, 4, generator=generator)
    labels = torch.randint(0, 3, (200,), generator=generator)  # the last class never occurs
    scores = score(logits, labels, ("a", "b", "c", "d"), temperature=2.0)
    probabilities = (logits / 2).softmax(-1).mean(0)
    predicted = probabilities.argmax(1)
    metrics = sklearn.metrics
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert scores.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert scores.nll == pytest.approx(metrics.log_loss(labels, probabilities.numpy(), labels=[0, 1, 2, 3]), rel=1e-5)
    recall = metrics.recall_score(labels, predicted, average=None, labels=[0, 1, 2])
    assert list(scores.recall.values()) == pytest.approx(recall)
    np.testing.assert_array_equal(scores.confusion, metrics.confusion_matrix(labels, predicted, labels=[0, 1, 2, 3]))


def test_temperature_is_the_likeliest():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 5, generator=generator)
    labels = torch.multinomial((logits / 1.7).softmax(1), 1, generator=generator)[:, 0]
    fitted = fit_temperature(logits, labels)
    grid = np.linspace(0.5, 4, 701)
    losses = [torch.nn.functional.cross_entropy(logits / t, labels).item() for t in grid]
    assert fitted == pytest.approx(grid[int(np.argmin(losses))], abs=0.006)


def test_training_learns_resumes_and_scores(fer_folder, tmp_path):
    whole = Trainer(SMALL, fer_folder, tmp_path / "whole")
    whole.fit()
    assert [row["epoch"] for row in read_log(tmp_path / "whole/log.csv")] == [1, 2]

    class Killed(Exception):
        pass

    def kill(row):
        raise Killed

    with pytest.raises(Killed):
        Trainer(SMALL, fer_folder, tmp_path / "killed").fit(kill)
    resumed = Trainer(SMALL, fer_folder, tmp_path / "killed")
    assert resumed.epoch == 1
    resumed.fit()
    for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(MRCARError, match="another recipe"):
        Trainer(replace(SMALL, lr=0.1), fer_folder, tmp_path / "killed")
    (tmp_path / "killed/last.pt").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="last.pt is damaged"):
        Trainer(SMALL, fer_folder, tmp_path / "killed")

    network = load_network(tmp_path / "whole")
    logits = predict_logits(network.model, whole.val, "mirror")
    assert logits.shape == (2, 6, 7)
    swapped = logits.flip(0)
    assert score(swapped, whole.val.labels, network.labels).nll == pytest.approx(
        score(logits, whole.val.labels, network.labels).nll
    )


def test_rare_classes_weigh_more(fer_folder, tmp_path):
    """8 to 2 pictures, by hand: all classes alike weigh 10/16 and 10/4; in between, 0.8^-b to 0.2^-b."""
    labels = torch.tensor([0] * 8 + [1] * 2)
    assert class_weights(labels, 3, 1.0).tolist() == pytest.approx([0.625, 2.5, 0])  # the last never occurs
    assert class_weights(labels, 2, 0.0).tolist() == pytest.approx([1, 1])
    light, heavy = class_weights(labels, 2, 0.5).tolist()
    assert heavy / light == pytest.approx(2)
    assert 0.8 * light + 0.2 * heavy == pytest.approx(1)


def test_loss_is_weighted_and_smoothed(fer_folder, tmp_path):
    """The first step's loss, against sums written out in float64."""
    for file in sorted((fer_folder / "train/sad").iterdir())[2:]:
        file.unlink()  # 8 happy faces are left, and 2 sad ones
    recipe = replace(SMALL, epochs=1, batch_size=10, balance=0.5, label_smoothing=0.2)
    trainer, other = (Trainer(recipe, fer_folder, tmp_path / name) for name in ("run", "other"))
    trainer.fit()

    torch.manual_seed(0)
    regions, labels = next(other.train.training(10, recipe.augmentation, torch.Generator().manual_seed(0)))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits = training_logits(other.model.train(), regions, labels).double()
    happiness, sadness = 3, 4
    weight = {happiness: 0.8**-0.5, sadness: 0.2**-0.5}  # their mean over the pictures is left out on both sides
    loss = scale = 0.0
    for row, label in zip(logits, labels.tolist(), strict=True):
        log_p = row - row.exp().sum().log()
        for c, w in weight.items():  # classes that never occur weigh nothing
            loss -= w * (0.8 * (c == label) + 0.2 / 7) * float(log_p[c])
        scale += weight[label]
    assert read_log(tmp_path / "run/log.csv")[0]["train_loss"] == pytest.approx(loss / scale, rel=1e-4)


def kill_after_epoch(process: subprocess.Popen, log: Path, epoch: int) -> None:
    """Kill the process, without a chance to clean up, as soon as the log has the epoch's line.

    That is the worst moment: the epoch's state is still being written, or the next epoch has begun.
    """
    wait_while_running(process, lambda: log.exists() and len(read_log(log)) >= epoch)
    process.kill()
    process.communicate()


def test_killed_command_goes_on(fer_folder, tmp_path):
    options = ["train", "--data", fer_folder, "--batch-size", 4, "--epochs", 4, "--attn", "none"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert mrcar(*options, "--run", whole).returncode == 0
    command = [sys.executable, "-m", "mrcar_timm.cli", *map(str, options), "--run", str(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    kill_after_epoch(process, killed / "log.csv", 2)
    assert len(read_log(killed / "log.csv")) < 4
    done = mrcar(*options, "--run", killed)
    assert done.returncode == 0, done.stderr
    assert "going on after epoch" in done.stderr
    assert [row["epoch"] for row in read_log(killed / "log.csv")] == [1, 2, 3, 4]
    a, b = (load_file(run / "best.safetensors") for run in (whole, killed))
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], msg=lambda text, key=key: f"{key}: {text}")


def test_training_reduces_the_loss(fer_folder, tmp_path):
    recipe = replace(SMALL, epochs=12, average=0.5, drop_rate=0.0, augmentation=Augmentation().times(0))
    Trainer(recipe, fer_folder, tmp_path / "run").fit()
    log = read_log(tmp_path / "run/log.csv")
    assert log[-1]["train_loss"] < 0.6 * log[0]["train_loss"]
    assert max(row["val_accuracy"] for row in log) == 1


def test_packaged_run_scores_as_the_run(fer_folder, tmp_path):
    trainer = Trainer(replace(SMALL, model_args={}, epochs=1), fer_folder, tmp_path / "run")
    trainer.fit()
    record = package_run(tmp_path / "run", tmp_path / "weights", "mrcar_resnet.small")
    assert (tmp_path / "weights/mrcar_resnet.small.safetensors").stat().st_size < 15_000_000
    assert json.loads((tmp_path / "weights/mrcar_resnet.small.json").read_text())["sha256"] == record.sha256
    assert record.num_params == sum(p.numel() for p in trainer.model.parameters()) + 3 * 2 * 64 * 9
    with pytest.raises(WeightsError, match="not a run folder"):
        package_run(tmp_path / "weights", tmp_path, "x")


def test_fold_grey():
    grey = {"branches.face.conv1.conv.weight": torch.randn(4, 1, 3, 3), "head.weight": torch.ones(2, 1)}
    folded = fold_grey(grey)
    assert folded["branches.face.conv1.conv.weight"].shape == (4, 3, 3, 3)
    torch.testing.assert_close(
        folded["branches.face.conv1.conv.weight"].sum(1, keepdim=True),
        grey["branches.face.conv1.conv.weight"],
    )
    assert folded["head.weight"] is grey["head.weight"]


def test_train_and_eval_from_the_command_line(fer_folder, tmp_path):
    run = tmp_path / "run"
    options = ["--epochs", 1, "--batch-size", 8, "--regions", "face", "--attn", "se", "--head", "linear"]
    options += ["--balance", 0.5, "--augment", 0.5]
    done = mrcar("train", "--data", fer_folder, "--run", run, *options)
    assert done.returncode == 0, done.stderr
    names = {file.name for file in run.iterdir()}
    assert names == {"config.json", "log.csv", "curves.png", "last.pt", "best.safetensors", "best.json"}
    done = mrcar("eval", "--data", fer_folder, "--model", run, "--split", "test", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out/scores.json").read_text())
    assert [row["protocol"] for row in record["rows"]] == ["one"] * 2 + ["mirror"] * 2 + ["ten"] * 2
    with open(tmp_path / "out/confusion_ten.csv", newline="") as file:
        counts = np.array([row[1:] for row in list(csv.reader(file))[1:]], dtype=int)
    assert counts.sum() == 6
    right = record["rows"][4]["accuracy"] * 6
    assert np.trace(counts) == pytest.approx(right)
    with Image.open(tmp_path / "out/confusion_ten.png") as image:
        assert image.size == (720, 600)
