"""Data, training, resuming and scoring."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from mrcar_timm import MRCARError, RecipeError, WeightsError
from mrcar_timm.checkpoints.packaged import PACKAGED
from mrcar_timm.checkpoints.record import Record
from mrcar_timm.data.fer2013 import read_fer2013
from mrcar_timm.data.splits import read_training
from mrcar_timm.hub import package
from mrcar_timm.inputs import to_color, to_grey
from mrcar_timm.metrics import calibration, fit_temperature, score
from mrcar_timm.network import load_network
from mrcar_timm.plots import reliability
from mrcar_timm.precision import autocast, fast_precision
from mrcar_timm.provenance import provenance
from mrcar_timm.regions.geometry import frame_transform, template_landmarks
from mrcar_timm.training.average import average_runs
from mrcar_timm.training.batches import RegionBatches, cover, erase, load_training, mixup
from mrcar_timm.training.distil import Teachers
from mrcar_timm.training.engine import Trainer, class_weights, make_schedule, read_last, read_log, training_logits
from mrcar_timm.training.evaluate import PROTOCOLS, VIEWS_OF_TEN, predict_logits, protocol_changes
from mrcar_timm.training.recipe import Augmentation, Recipe, load_recipe
from mrcar_timm.training.start import load_start
from mrcar_timm.training.step import PHASES, Gradients

from .command import mrcar
from .conftest import SMALL, replaced, trainer_of, wait_while_running


def test_augmentation(fer_folder):
    data = read_fer2013(fer_folder, "train")
    landmarks = np.broadcast_to(template_landmarks(48, 48), (len(data), 5, 2))
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


def test_copies_share_images_and_keep_their_changes(fer_folder):
    data = read_fer2013(fer_folder, "train")
    landmarks = np.broadcast_to(template_landmarks(48, 48), (len(data), 5, 2))
    batches = RegionBatches(data, landmarks, ("face",), (44, 44))
    mirrored = torch.from_numpy(frame_transform(mirror=True)[0])
    changes = torch.stack([torch.eye(3, dtype=torch.float64), mirrored]).expand(len(data), 2, 3, 3)
    copies = batches.copies(changes)
    assert len(copies) == 2 * len(data)
    assert copies.images is batches.images
    assert copies.labels.tolist() == np.repeat(data.labels, 2).tolist()
    none = torch.eye(3, dtype=torch.float64)[None]
    plain, same, other = (b.view(torch.tensor([row]), none) for b, row in ((batches, 5), (copies, 10), (copies, 11)))
    assert torch.equal(plain, same)
    torch.testing.assert_close(other, plain.flip(-1), atol=1e-4, rtol=0)
    picked = copies.select(torch.tensor([11, 3]))
    assert torch.equal(picked.view(torch.tensor([0]), none), other)
    assert picked.labels.tolist() == [data.labels[5], data.labels[1]]


def test_mixup_mixes_images_and_labels_alike():
    """Images that are their own labels: whatever was mixed, both must still agree."""
    targets = torch.eye(6)
    regions = targets.reshape(6, 6, 1, 1, 1).expand(6, 6, 1, 2, 2)
    mixed, labels = mixup(regions, targets, 0.4, torch.Generator().manual_seed(1))
    torch.testing.assert_close(mixed[..., 0, 0, 0], labels)
    torch.testing.assert_close(labels.sum(1), torch.ones(6))
    assert ((labels > 0).sum(1) <= 2).all()
    assert (labels != targets).any()
    again, _ = mixup(regions, targets, 0.4, torch.Generator().manual_seed(1))
    assert torch.equal(again, mixed)


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


def test_cover_fills_regions_and_leaves_one():
    regions = torch.rand(4000, 3, 1, 4, 4)
    out = cover(regions, 0.3, torch.Generator().manual_seed(0))
    covered = (out != regions).any((2, 3, 4))
    assert torch.equal(out[~covered], regions[~covered])
    torch.testing.assert_close(out[covered], regions[covered].mean((2, 3), keepdim=True).expand(-1, -1, 4, 4))
    assert float(covered.float().mean()) == pytest.approx(0.3 * 2 / 3, abs=0.01)  # one of three is safe
    always = (cover(regions, 1.0, torch.Generator().manual_seed(0)) != regions).any((2, 3, 4))
    assert always.sum(1).eq(2).all()
    assert always.float().mean(0).tolist() == pytest.approx([2 / 3] * 3, abs=0.03)


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


def test_all_protocols_are_views_of_the_ten():
    for protocol in PROTOCOLS:
        assert torch.equal(protocol_changes("ten")[VIEWS_OF_TEN[protocol]], protocol_changes(protocol))


def test_scores_agree_with_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 200, 4, generator=generator)
    labels = torch.randint(0, 3, (200,), generator=generator)  # the last class never occurs
    scores = score(logits, labels, ("a", "b", "c", "d"))
    probabilities = logits.softmax(-1).mean(0)
    predicted = probabilities.argmax(1)
    metrics = sklearn.metrics
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert scores.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert scores.nll == pytest.approx(metrics.log_loss(labels, probabilities.numpy(), labels=[0, 1, 2, 3]), rel=1e-5)
    recall = metrics.recall_score(labels, predicted, average=None, labels=[0, 1, 2])
    assert list(scores.recall.values()) == pytest.approx(recall)
    np.testing.assert_array_equal(scores.confusion, metrics.confusion_matrix(labels, predicted, labels=[0, 1, 2, 3]))


def test_calibration_by_hand():
    """Ten images in three of fifteen bins, whose gaps are summed up by hand."""
    confidence = [0.50, 0.52, 0.53, 0.99, 0.98, 0.97, 0.96, 0.95, 0.70, 0.72]
    right = [1, 0, 0, 1, 1, 1, 0, 1, 1, 1]
    probabilities = torch.tensor([[c, 1 - c] for c in confidence])
    labels = torch.tensor([1 - r for r in right])
    found = calibration(probabilities, labels)
    # Edges are fifteenths: 7/15 = .467, 8/15 = .533; 10/15 = .667, 11/15 = .733; 14/15 = .933.
    assert {i: int(n) for i, n in enumerate(found.count) if n} == {7: 3, 10: 2, 14: 5}
    gaps = abs(1.55 / 3 - 1 / 3) * 3 + abs(0.71 - 1) * 2 + abs(4.85 / 5 - 4 / 5) * 5
    assert found.ece == pytest.approx(gaps / 10, rel=1e-6)
    assert calibration(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])).ece == 0
    edge = calibration(torch.tensor([[0.6, 0.4]], dtype=torch.float64), torch.tensor([0]))  # 9/15 is an upper edge
    assert edge.count.argmax() == 8


def test_temperature_makes_probabilities_true():
    """Logits twice as large as they should be: the fitted temperature takes the error away."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 5, generator=generator) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    sharp = 2 * logits
    before = calibration(sharp.softmax(1), labels).ece
    after = calibration((sharp / fit_temperature(sharp, labels)).softmax(1), labels).ece
    assert before > 0.08
    assert after < 0.02


def test_reliability_diagram(tmp_path):
    found = calibration(torch.rand(100, 3).softmax(1), torch.randint(0, 3, (100,)))
    reliability(found, tmp_path / "r.png", "test")
    with Image.open(tmp_path / "r.png") as image:
        assert image.size == (504, 504)


def test_temperature_is_the_likeliest():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 5, generator=generator)
    labels = torch.multinomial((logits / 1.7).softmax(1), 1, generator=generator)[:, 0]
    fitted = fit_temperature(logits, labels)
    grid = np.linspace(0.5, 4, 701)
    losses = [torch.nn.functional.cross_entropy(logits / t, labels).item() for t in grid]
    assert fitted == pytest.approx(grid[int(np.argmin(losses))], abs=0.006)


def test_training_learns_resumes_and_scores(fer_folder, tmp_path):
    whole = trainer_of(SMALL, fer_folder, tmp_path / "whole")
    whole.fit()
    assert [row["epoch"] for row in read_log(tmp_path / "whole/log.csv")] == [1, 2]

    class Killed(Exception):
        pass

    def kill(row):
        raise Killed

    with pytest.raises(Killed):
        trainer_of(SMALL, fer_folder, tmp_path / "killed").fit(kill)
    resumed = trainer_of(SMALL, fer_folder, tmp_path / "killed")
    resumed.resume()
    assert resumed.epoch == 1
    resumed.fit()
    for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(MRCARError, match="another recipe"):
        trainer_of(replaced(SMALL, lr=0.1), fer_folder, tmp_path / "killed").fit()
    (tmp_path / "killed/last.pt").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="last.pt is damaged"):
        trainer_of(SMALL, fer_folder, tmp_path / "killed").fit()

    network = load_network(tmp_path / "whole")
    logits = predict_logits(network.model, whole.validation.batches, "mirror")
    assert logits.shape == (2, 6, 7)
    swapped = logits.flip(0)
    assert score(swapped, whole.validation.batches.labels, network.labels).nll == pytest.approx(
        score(logits, whole.validation.batches.labels, network.labels).nll
    )


def test_start_from_weights_of_the_package(fer_folder, tmp_path):
    """All comes from them but classes that they do not know; fewer regions are a part; another shape is an error."""
    packaged = load_network("mrcar_resnet.fer2013").model.state_dict()
    own = trainer_of(replaced(SMALL, model_args={}, init="mrcar_resnet.fer2013"), fer_folder, tmp_path / "a").model
    for key, value in own.state_dict().items():
        expected = packaged[key].sum(1, keepdim=True) if key.endswith("conv1.conv.weight") else packaged[key]
        torch.testing.assert_close(value, expected, msg=lambda text, key=key: f"{key}: {text}")
    other = timm.create_model("mrcar_resnet", in_chans=3)
    fresh = other.head.weight.clone()
    load_start(other, "mrcar_resnet.fer2013", tuple("abcdefg"))
    torch.testing.assert_close(other.head.weight, fresh)
    torch.testing.assert_close(other.fusion[0].weight, packaged["fusion.0.weight"])
    labels = PACKAGED["mrcar_resnet.fer2013"].labels
    eight = timm.create_model("mrcar_resnet", num_classes=8)
    fresh = eight.head.weight.clone()
    load_start(eight, "mrcar_resnet.fer2013", ("contempt", *reversed(labels)))
    torch.testing.assert_close(eight.head.weight, torch.cat([fresh[:1], packaged["head.weight"].flip(0)]))
    x = torch.rand(2, 3, 3, 44, 44)
    whole = load_network("mrcar_resnet.fer2013").model
    whole.fusion[0].weight.data[:, :512] = 0  # the face adds nothing
    part = timm.create_model("mrcar_resnet", regions=("mouth", "eyes"), scale=whole.scale).eval()
    load_start(part, "mrcar_resnet.fer2013", labels)
    torch.testing.assert_close(part(x[:, [2, 1]]), whole(x))
    with pytest.raises(WeightsError, match="another shape"):
        trainer_of(replaced(SMALL, init="mrcar_resnet.fer2013"), fer_folder, tmp_path / "b")


def test_a_branch_from_another_run(fer_folder, tmp_path):
    """It alone changes, and it must be there."""
    face = replaced(SMALL, model_args={**SMALL.model_args, "regions": ["face"]}, seed=1)
    trainer_of(face, fer_folder, tmp_path / "face").fit()
    start = to_grey(load_file(tmp_path / "face" / "model.safetensors"))
    whole = trainer_of(SMALL, fer_folder, tmp_path / "whole").model.state_dict()
    recipe = replaced(SMALL, branches={"face": str(tmp_path / "face")})
    merged = trainer_of(recipe, fer_folder, tmp_path / "merged").model.state_dict()
    for key, value in merged.items():
        torch.testing.assert_close(value, (start if key.startswith("branches.face.") else whole)[key])
    with pytest.raises(WeightsError, match="no branch for 'mouth'"):
        trainer_of(replaced(SMALL, branches={"mouth": str(tmp_path / "face")}), fer_folder, tmp_path / "b")
    with pytest.raises(WeightsError, match="shape"):
        trainer_of(replaced(SMALL, branches={"face": "mrcar_resnet.fer2013"}), fer_folder, tmp_path / "c")
    trainer_of(recipe, fer_folder, tmp_path / "merged").fit()
    before, run = Record.read(tmp_path / "merged").runs
    assert before["recipe"]["seed"] == 1
    assert run["recipe"]["branches"] == {"face": before["id"]}
    assert run["parents"] == [before["id"]]


def test_student_learns_what_teachers_think(fer_folder, tmp_path):
    """With the teachers' opinion alone as targets, labels do not matter."""
    trainer_of(SMALL, fer_folder, tmp_path / "teacher").fit()
    teacher = load_network(tmp_path / "teacher")
    train, _ = load_training(SMALL, fer_folder)
    regions = train.batches.view(torch.arange(5), torch.from_numpy(frame_transform()))
    expected = teacher.model(regions.expand(-1, -1, 3, -1, -1)).softmax(1)
    teachers = Teachers([str(tmp_path / "teacher")] * 2, train.data.classes, "cpu")
    torch.testing.assert_close(teachers(regions), expected, atol=1e-5, rtol=1e-4)
    reverse = tuple(reversed(train.data.classes))
    turned = Teachers([str(tmp_path / "teacher")], reverse, "cpu")(regions)
    torch.testing.assert_close(turned, expected.flip(1), atol=1e-5, rtol=1e-4)

    recipe = replaced(SMALL, teachers=(str(tmp_path / "teacher"),), distil=1.0, label_smoothing=0, drop_rate=0.0)
    student = trainer_of(recipe, fer_folder, tmp_path / "student")
    targets = torch.eye(7)[:5]
    losses = [student._loss(regions, t)[0] for t in (targets, targets.flip(1))]
    torch.testing.assert_close(*losses)
    half = trainer_of(replaced(recipe, distil=0.5), fer_folder, tmp_path / "half")
    losses = [half._loss(regions, t)[0] for t in (targets, targets.flip(1))]
    assert abs(float((losses[0] - losses[1]).detach())) > 1e-3
    assert student.fit()
    assert load_network(tmp_path / "student").labels == train.data.classes


class NothingFromTheHost(TorchDispatchMode):
    """Refuses what a CUDA graph cannot hold: values that come from Python."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket != torch.ops.aten.lift_fresh, "values come from the host"
        return func(*args, **(kwargs or {}))


def test_loss_can_be_recorded(fer_folder, tmp_path):
    trainer_of(SMALL, fer_folder, tmp_path / "teacher").fit()
    student = trainer_of(replaced(SMALL, teachers=(str(tmp_path / "teacher"),)), fer_folder, tmp_path / "student")
    with NothingFromTheHost():
        loss, *_ = student._loss(torch.rand(8, 3, 1, 44, 44), torch.rand(8, 7).softmax(1))
        loss.backward()
    with pytest.raises(AssertionError, match="host"), NothingFromTheHost():
        torch.rand(2, 3)[:, [0, 1]]


def test_teachers_of_other_classes_are_refused(fer_folder, tmp_path):
    recipe = replaced(SMALL, teachers=("mrcar_resnet.ferplus",))
    with pytest.raises(WeightsError, match="contempt"):
        trainer_of(recipe, fer_folder, tmp_path / "run")


def test_gradients_replace_those_before():
    layer = torch.nn.Linear(3, 1, bias=False)
    x, y = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5]])

    def loss_of(x, y):
        logits = layer(x)
        return (logits - y).square().sum(), logits

    gradients, laps = Gradients(layer, loss_of), []
    for _ in range(2):
        loss, logits = gradients(x, y, laps.append)
    assert laps == ["forward", "forward"]
    assert not logits.requires_grad
    torch.testing.assert_close(loss, (logits - y).square().sum())
    torch.testing.assert_close(layer.weight.grad, 2 * (logits - y) * x)


def test_commit_of_a_copy_that_is_no_checkout(monkeypatch):
    monkeypatch.setenv("MRCAR_COMMIT", "0123456789ab")
    assert provenance()["commit"] == "0123456789ab"


# Nothing but a GPU records a graph; what can be seen of one without it, test_loss_can_be_recorded sees.
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("compiled", [False, True])
def test_recorded_steps_train_as_others_do(fer_folder, tmp_path, compiled, monkeypatch):
    recipe = replaced(SMALL, epochs=3, drop_rate=0.0)
    splits = load_training(recipe, fer_folder, "cuda")
    recorded = Trainer(recipe, *splits, tmp_path / "recorded", "cuda", compiled=compiled)
    recorded.fit()
    plain = Trainer(recipe, *splits, tmp_path / "plain", "cuda")
    monkeypatch.setattr(Gradients, "__call__", lambda self, x, y, lap: self._compute(x, y))
    plain.fit()
    rows = [read_log(tmp_path / name / "log.csv") for name in ("recorded", "plain")]
    for one, other in zip(*rows, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.05)  # bfloat16
    assert recorded.model.state_dict()["fusion.1.num_batches_tracked"] == 6


def test_time_limit_stops_between_epochs(fer_folder, tmp_path):
    recipe = replaced(SMALL, epochs=3)
    for done in (1, 2, 3):
        trainer = trainer_of(recipe, fer_folder, tmp_path / "run")
        assert trainer.fit(minutes=0) is (done == 3)
        assert trainer.epoch == done
    assert trainer_of(recipe, fer_folder, tmp_path / "other").fit(minutes=60)
    for run in ("run", "other"):
        assert [row["epoch"] for row in read_log(tmp_path / run / "log.csv")] == [1, 2, 3]
    one, other = (load_file(tmp_path / run / "model.safetensors") for run in ("run", "other"))
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], msg=lambda text, key=key: f"{key}: {text}")


def test_schedules():
    """By hand: the paper's steps; and the cycle's ends."""

    def rates(recipe: Recipe, steps: int) -> list[float]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=recipe.lr, momentum=0.9)
        schedule, found = make_schedule(optimizer, recipe, steps), []
        for _ in range(steps * recipe.epochs):
            found.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        return found[::steps]

    found = rates(replaced(load_recipe("ckplus-paper"), epochs=25), 2)
    assert found[:20] == [0.01] * 20
    assert found[20:] == pytest.approx([0.009, 0.009, 0.0081, 0.0081, 0.00729])
    jaffe = rates(replaced(load_recipe("jaffe-paper"), epochs=23), 3)
    assert jaffe[19:] == pytest.approx([0.01, 0.009, 0.0081, 0.00729])
    cycle = rates(Recipe(epochs=10, lr=0.1), 5)
    assert cycle[0] == pytest.approx(0.004)
    assert max(cycle) == pytest.approx(0.1, rel=0.02)
    assert cycle[-1] < 0.01


def test_rare_classes_weigh_more(fer_folder, tmp_path):
    """8 to 2 images, by hand: all classes alike weigh 10/16 and 10/4; in between, 0.8^-b to 0.2^-b."""
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
    recipe = replaced(SMALL, epochs=1, batch_size=10, balance=0.5, label_smoothing=0.2)
    trainer, other = (trainer_of(recipe, fer_folder, tmp_path / name) for name in ("run", "other"))
    trainer.fit()

    torch.manual_seed(0)
    regions, labels = next(other.train.batches.training(10, recipe.augmentation, torch.Generator().manual_seed(0)))
    with autocast(torch.device("cpu")), torch.no_grad():
        logits = training_logits(other.model.train(), regions)[torch.arange(10), labels].double()
    happiness, sadness = 3, 4
    weight = {happiness: 0.8**-0.5, sadness: 0.2**-0.5}  # their mean over the images is left out on both sides
    loss = scale = 0.0
    for row, label in zip(logits, labels.tolist(), strict=True):
        log_p = row - row.exp().sum().log()
        for c, w in weight.items():  # classes that never occur weigh nothing
            loss -= w * (0.8 * (c == label) + 0.2 / 7) * float(log_p[c])
        scale += weight[label]
    assert read_log(tmp_path / "run/log.csv")[0]["train_loss"] == pytest.approx(loss / scale, rel=1e-4)


def test_bfloat16_only_where_the_processor_has_it(monkeypatch):
    """Elsewhere PyTorch's convolutions in bfloat16 take ten times as long as those in float32."""
    cpu = torch.device("cpu")
    for has, precision in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has}, raising=False)
        assert fast_precision(cpu) == precision
        with autocast(cpu):
            assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == precision


def test_log_says_where_the_time_goes(fer_folder, tmp_path):
    recipe = Recipe(epochs=1, batch_size=8)
    trainer_of(recipe, fer_folder, tmp_path / "run").fit()
    (row,) = read_log(tmp_path / "run/log.csv")
    phases = {phase: row[phase] for phase in PHASES}
    assert min(phases.values()) > 0
    assert sum(phases.values()) <= row["seconds"] + 0.1
    assert phases["data"] < 0.1 * sum(phases.values())


def kill_after_epoch(process: subprocess.Popen, log: Path, epoch: int) -> None:
    """Kill the process, without a chance to clean up, as soon as the log has the epoch's line.

    That is the worst moment: the epoch's state is still being written, or the next epoch has begun.
    """
    wait_while_running(process, lambda: log.exists() and len(read_log(log)) >= epoch)
    process.kill()
    process.communicate()


@pytest.mark.slow
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
    a, b = (load_file(run / "model.safetensors") for run in (whole, killed))
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], msg=lambda text, key=key: f"{key}: {text}")


def test_training_reduces_the_loss(fer_folder, tmp_path):
    recipe = replaced(SMALL, epochs=12, average=0.5, drop_rate=0.0, augmentation=Augmentation().times(0))
    trainer_of(recipe, fer_folder, tmp_path / "run").fit()
    log = read_log(tmp_path / "run/log.csv")
    assert log[-1]["train_loss"] < 0.6 * log[0]["train_loss"]
    assert max(row["val_accuracy"] for row in log) == 1


def test_average_all_is_the_mean_of_all_steps(fer_folder, tmp_path):
    recipe = replaced(SMALL, epochs=2, average_all=True, schedule="steps")
    trainer = trainer_of(recipe, fer_folder, tmp_path / "run")
    weights = []
    trainer.optimizer.register_step_post_hook(
        lambda *_: weights.append({k: p.detach().double().clone() for k, p in trainer.model.named_parameters()})
    )
    trainer.fit()
    assert len(weights) == 2 * trainer.steps
    for name, value in trainer.average.module.named_parameters():
        mean = torch.stack([w[name] for w in weights]).mean(0)
        torch.testing.assert_close(value.double(), mean, atol=1e-6, rtol=1e-4)


def test_packaged_run_is_half_as_large_and_overwrites_nothing(fer_folder, tmp_path):
    trainer = trainer_of(replaced(SMALL, model_args={}, epochs=1), fer_folder, tmp_path / "run")
    trainer.fit()
    weights = tmp_path / "weights"
    told = ["package", tmp_path / "run", "--name", "mrcar_resnet.small", "--folder", weights]
    done = mrcar(*told)
    assert done.returncode == 0, done.stderr
    record = Record.read(weights / "mrcar_resnet.small")
    assert (weights / "mrcar_resnet.small/model.safetensors").stat().st_size < 8_000_000
    assert record.sha256 in done.stdout.replace("\n", "")
    assert record.num_params == sum(p.numel() for p in trainer.model.parameters()) + 3 * 2 * 64 * 9
    assert record.name == "mrcar_resnet.small"
    whole, half = (load_network(folder) for folder in (tmp_path / "run", weights / "mrcar_resnet.small"))
    regions = torch.rand(2, 3, 3, 44, 44)
    torch.testing.assert_close(half.model(regions), whole.model(regions), atol=0.02, rtol=0.02)
    again = mrcar(*told)
    assert again.returncode == 1
    assert "exists already; --force overwrites it" in " ".join(again.stderr.split())
    assert mrcar(*told, "--force").returncode == 0
    missing = mrcar("package", tmp_path / "run")
    assert missing.returncode == 2
    assert "--name" in missing.stderr
    trainer_of(SMALL, fer_folder, tmp_path / "narrow").fit()
    with pytest.raises(WeightsError, match="embed_dim 16, which the name"):
        package(tmp_path / "narrow", weights, "mrcar_resnet.narrow")
    with pytest.raises(WeightsError, match="no architecture with a tag"):
        package(tmp_path / "run", weights, "small")


def assert_mean(run: Path, parts: list[dict[str, torch.Tensor]]) -> None:
    """A run's weights are the mean of two state dicts."""
    first, second = parts
    for key, value in load_file(run / "model.safetensors").items():
        if value.is_floating_point():
            expected = (first[key].double() + second[key].double()) / 2
            torch.testing.assert_close(value.double(), expected, atol=1e-6, rtol=1e-5, msg=key)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory, make_fer_folder):
    """A data set, a run, and one that started from it."""
    folder = tmp_path_factory.mktemp("two_runs")
    data = make_fer_folder(folder)
    trainer_of(SMALL, data, folder / "first").fit()
    trainer_of(replaced(SMALL, init=str(folder / "first"), seed=1), data, folder / "second").fit()
    return data, folder / "first", folder / "second"


def test_average_of_runs(two_runs, tmp_path):
    """Each weight is the mean of the runs', and the folder is like that of a run."""
    data, first, second = two_runs
    mean = tmp_path / "mean"
    done = mrcar("average", first, second, "--data", data, "--run", mean)
    assert done.returncode == 0, done.stderr
    assert_mean(mean, [load_file(run / "model.safetensors") for run in (first, second)])
    _, validation = load_training(SMALL, data)
    network = load_network(mean)
    right = predict_logits(network.model, validation.batches)[0].argmax(1) == validation.batches.labels
    assert f"{right.float().mean().item():.2%}" in done.stdout
    one, two, both = Record.read(mean).runs
    assert both["parents"] == [one["id"], two["id"]]
    assert two["parents"] == [one["id"]]
    assert (both["recipe"], two["recipe"]["seed"]) == (None, 1)
    trainer_of(replaced(SMALL, init=str(mean)), data, tmp_path / "on").fit()
    assert [run["id"] for run in Record.read(tmp_path / "on").runs[:3]] == [one["id"], two["id"], both["id"]]
    average_runs([first, second], data, mean)  # written again


def test_averages_that_make_no_sense(two_runs, ckplus_folder, tmp_path):
    data, first, second = two_runs
    mean, nowhere = tmp_path / "mean", tmp_path / "x"
    average_runs([first, second], data, mean)
    with pytest.raises(MRCARError, match="was not trained there"):
        trainer_of(SMALL, data, mean).fit()
    with pytest.raises(MRCARError, match="of itself"):
        average_runs([first, mean], data, mean)
    with pytest.raises(WeightsError, match="mean has no last epoch"):
        average_runs([mean, second], data, nowhere, last_epoch=True)
    with pytest.raises(MRCARError, match="two or more"):
        average_runs([first], data, nowhere)
    trainer_of(SMALL, data, tmp_path / "third").resume()
    with pytest.raises(MRCARError, match="trained; name another"):
        average_runs([first, second], data, tmp_path / "third")
    with pytest.raises(WeightsError, match="holds no network"):
        average_runs([first, data], data, nowhere)
    narrower = replaced(SMALL, model_args={**SMALL.model_args, "embed_dim": 8}, epochs=1)
    trainer_of(narrower, data, tmp_path / "small").fit()
    with pytest.raises(WeightsError, match="first is of another network"):
        average_runs([first, tmp_path / "small"], data, nowhere)
    trainer_of(replaced(SMALL, data="ckplus", epochs=1), ckplus_folder, tmp_path / "others").fit()
    with pytest.raises(WeightsError, match="other classes"):
        average_runs([tmp_path / "others", second], data, nowhere)
    assert not nowhere.exists()


def test_average_of_last_epochs(fer_folder, tmp_path):
    """The last epochs, whose weights a run keeps in last.pt beside its best ones."""
    runs = [tmp_path / "first", tmp_path / "second"]
    parts = []
    for seed, run in enumerate(runs):
        trainer = trainer_of(replaced(SMALL, seed=seed), fer_folder, run)
        trainer.fit(lambda row, trainer=trainer: setattr(trainer, "best", 2.0))  # nothing is better than the first
        parts.append(to_color(trainer.average.module.state_dict()))
        assert Record.read(run).runs[-1]["epoch"] == 1
    done = mrcar("average", *runs, "--data", fer_folder, "--run", tmp_path / "mean", "--last")
    assert done.returncode == 0, done.stderr
    assert_mean(tmp_path / "mean", parts)
    (runs[0] / "last.pt").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="last.pt is damaged"):
        average_runs(runs, fer_folder, tmp_path / "x", last_epoch=True)


def test_last_epoch_is_whole_or_refused(fer_folder, tmp_path):
    """Wherever a byte changes: torch.load alone reads altered weights without a word."""
    trainer_of(replaced(SMALL, epochs=1), fer_folder, tmp_path).fit()
    file = tmp_path / "last.pt"
    written, whole = file.read_bytes(), read_last(tmp_path, "cpu")
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(written), 100).tolist():
        altered = bytearray(written)
        altered[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(altered)
        try:
            read = read_last(tmp_path, "cpu")
        except WeightsError:
            refused += 1
        else:  # padding between the parts
            assert all(torch.equal(read["model"][name], value) for name, value in whole["model"].items())
            assert read["epoch"] == whole["epoch"]
    assert refused > 50


def test_record_names_all_data_behind_the_weights(fer_folder, ckplus_folder, tmp_path):
    trainer_of(replaced(SMALL, epochs=1), fer_folder, tmp_path / "first").fit()
    recipe = replaced(SMALL, data="ckplus", epochs=1, init=str(tmp_path / "first"))
    trainer = trainer_of(recipe, ckplus_folder, tmp_path / "run")
    trainer.fit()
    record = Record.read(tmp_path / "run")
    assert [each["title"] for each in record.data] == ["CK+", "FER2013"]
    assert record.data[0]["part"] == "without the subjects held out"
    assert record.data[0]["sha256"] == [trainer.train.data.digest()]
    assert record.data[1]["sha256"] == [read_training("fer2013", fer_folder).digest()]
    assert record.notes.startswith("Trained on CK+ and FER2013: for non-commercial research.")
    assert record.runs[0] == Record.read(tmp_path / "first").runs[0]
    assert record.labels[-1] == "contempt"
    started = trainer_of(replaced(SMALL, model_args={}, init="mrcar_resnet.fer2013"), fer_folder, tmp_path / "on")
    assert started.history.parents == (PACKAGED["mrcar_resnet.fer2013"],)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"margin": 7}, "margin must be less than 3.14"),
        ({"margin": "wide"}, "margin must be a valid number"),
        ({"optimizer": "foo"}, "optimizer must be an optimizer that timm knows"),
        ({"model_args": {"regions": "face"}}, r"model_args regions must be a list such as \[face\]"),
        ({"model_args": {"regions": ["nose"]}}, "model_args regions must be a choice"),
        ({"data": "faces"}, "data must be one of ferplus"),
        ({"labels": "mine"}, "labels must be 'votes'"),
        ({"epochs": 0}, "epochs must be greater than or equal to 1"),
        ({"teachers": "one"}, "teachers must be a valid tuple"),
        ({"lr": float("nan")}, "lr must be"),
        ({"sam": 0.1}, "no setting sam; there are data"),
        ({"augmentation": {"degrees": -1}}, "degrees must be greater than or equal to 0"),
        ({"augmentation": {"tilt": 1}}, "no setting tilt; there are degrees"),
    ],
)
def test_recipe_checks_its_values_when_it_is_made(values, message):
    with pytest.raises(RecipeError, match=message):
        Recipe(**values)


def test_grey_and_color():
    grey = {"branches.face.conv1.conv.weight": torch.randn(4, 1, 3, 3), "head.weight": torch.ones(2, 1)}
    folded = to_color(grey)
    assert folded["branches.face.conv1.conv.weight"].shape == (4, 3, 3, 3)
    torch.testing.assert_close(
        folded["branches.face.conv1.conv.weight"].sum(1, keepdim=True),
        grey["branches.face.conv1.conv.weight"],
    )
    assert folded["head.weight"] is grey["head.weight"]
    back = to_grey(folded)
    torch.testing.assert_close(back, grey)


def test_train_and_eval_from_the_command_line(fer_folder, tmp_path):
    run = tmp_path / "run"
    options = ["--epochs", 1, "--batch-size", 8, "--regions", "face", "--attn", "se", "--head", "linear"]
    options += ["--balance", 0.5, "--augment", 0.5]
    done = mrcar("train", "--data", fer_folder, "--run", run, *options)
    assert done.returncode == 0, done.stderr
    names = {file.name for file in run.iterdir()}
    assert names == {
        "config.json", "recipe.yaml", "log.csv", "curves.png", "last.pt", "model.safetensors", "record.json", ".lock",
    }  # fmt: skip
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


def test_scores_of_classes_that_both_know(ckplus_folder, tmp_path):
    """CK+ has contempt, which the network does not know; told which classes count, it can be scored."""
    told = ["eval", "--data", ckplus_folder, "--split", "all", "--protocol", "one", "--model", "mrcar_resnet.fer2013"]
    refused = mrcar(*told)
    assert refused.returncode == 1
    assert "--classes scores those they share" in refused.stderr
    done = mrcar(*told, "--classes", "happiness,anger", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out/scores.json").read_text())
    assert record["classes"] == ["happiness", "anger"]
    (row,) = record["rows"]
    assert row["count"] == 12  # the happy ones of 24
    assert row["accuracy"] == 1
    unknown = mrcar(*told, "--classes", "happiness,contempt")
    assert unknown.returncode == 1
    assert "does not know 'contempt'" in unknown.stderr
