"""Recipes, cross-validation, ablations and reports."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from typing import get_args

import numpy as np
import psutil
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from mrcar_timm import MRCARError, RecipeError
from mrcar_timm.checkpoints.packaged import PACKAGED, default_name
from mrcar_timm.checkpoints.record import Record
from mrcar_timm.cli.console import DataName
from mrcar_timm.data.fer2013 import read_fer2013
from mrcar_timm.data.landmarks import find_landmarks
from mrcar_timm.data.sets import DATA_SETS
from mrcar_timm.experiments.ablate import PAPERS, VARIANTS, ablate
from mrcar_timm.experiments.crossval import COPIES, cross_validate, cut_folds, fold_splits
from mrcar_timm.experiments.report import PAPER, read_rows, read_run, tables, write_report
from mrcar_timm.experiments.robustness import DAMAGES, damaged
from mrcar_timm.layers import ArcFaceHead, CoordAttn
from mrcar_timm.network import load_network
from mrcar_timm.training.batches import load_training, make_split
from mrcar_timm.training.engine import Trainer, read_log
from mrcar_timm.training.recipe import Augmentation, Recipe, load_recipe, parse_settings, recipe_names

from . import conftest
from .command import mrcar
from .conftest import EXAMPLES, ROOT, replaced

SMALL = replaced(conftest.SMALL, data="ckplus", epochs=1)
SMALL_OPTIONS = [
    *("--epochs", 1),
    *("--set", "batch_size=8"),
    *("--set", "init=null"),
    *("--set", "model_args={stem_width: 8, widths: [16, 16, 16], embed_dim: 16}"),
]


class Stopped(Exception):
    """A run is stopped from outside."""


def test_command_line_knows_every_data_set():
    assert set(get_args(DataName)) == set(DATA_SETS)


def test_every_data_set_has_recipes():
    names = recipe_names()
    assert {data_set.recipe or name for name, data_set in DATA_SETS.items()} <= set(names)
    assert {"fer2013-paper", "ckplus-paper", "jaffe-paper", "rafdb-paper"} <= set(names)
    for name in names:
        recipe = load_recipe(name)
        assert recipe.data == ("imagefolder" if name.startswith("finetune") else name.split("-")[0])
        assert timm.create_model(recipe.model, **recipe.model_args).regions == recipe.regions


@pytest.mark.parametrize(
    ("name", "epochs", "batch_size", "every", "after", "size"),
    [
        ("ckplus-paper", 100, 64, 2, 20, 44),
        ("jaffe-paper", 100, 64, 1, 20, 44),
        ("fer2013-paper", 200, 32, 5, 80, 44),
        ("rafdb-paper", 200, 32, 5, 50, 98),
    ],
)
def test_recipes_of_the_paper(name, epochs, batch_size, every, after, size):
    recipe = load_recipe(name)
    assert (recipe.epochs, recipe.batch_size, recipe.size) == (epochs, batch_size, size)
    assert (recipe.schedule, recipe.lr, recipe.decay) == ("steps", 0.01, 0.9)
    assert (recipe.decay_every, recipe.decay_after) == (every, after)
    assert recipe.augmentation.shift == pytest.approx(2 / 48, abs=1e-4)  # a crop of 44 in 48


def test_recipes_are_changed_by_settings(tmp_path):
    values = parse_settings(["lr=1e-3", "model_args.attn_layer=none", "augmentation.degrees=30", "init=null"])
    recipe = load_recipe("ckplus").changed(values)
    assert (recipe.lr, recipe.init, recipe.model_args) == (0.001, None, {"attn_layer": "none"})
    assert recipe.augmentation == Augmentation(degrees=30.0)
    assert recipe.changed({"model_args": {"head": "linear"}}).model_args == {"attn_layer": "none", "head": "linear"}
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(recipe.to_dict()))
    assert load_recipe(file) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "no setting epoch; there are data, "),
        ("augmentation: {turn: 3}", "no setting turn; there are degrees"),
        ("augmentation: 3", "augmentation must be a valid dictionary"),
        ("epochs: 2.5", "epochs must be a valid integer"),
        ("epochs: many", "epochs must be a valid integer.*got 'many'"),
        ("epochs: 0", "epochs must be greater than or equal to 1"),
        ("lr: -1", "lr must be greater than 0"),
        ("data: mnist", "data must be one of ferplus, fer2013"),
        ("landmarks: guessed", "landmarks must be 'detected' or 'template'"),
        ("- epochs", "expected settings, a line each"),
        ("epochs: [", "is no YAML file"),
    ],
)
def test_wrong_recipes(tmp_path, text, message):
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(file)


def test_wrong_settings():
    with pytest.raises(RecipeError, match="no recipe 'imagenet'; there are ckplus"):
        load_recipe("imagenet")
    with pytest.raises(RecipeError, match="expected key=value, got 'epochs'"):
        parse_settings(["epochs"])


def test_variants_change_what_their_names_say():
    def net(name):
        recipe = Recipe().changed(VARIANTS[name])
        model = timm.create_model(recipe.model, margin=recipe.margin, scale=recipe.scale, **recipe.model_args)
        return model, recipe

    def attention(model):
        return [type(module.attn).__name__ for module in model.modules() if hasattr(module, "attn")]

    whole, _ = net("mrcar")
    assert len(attention(whole)) == 18
    assert set(attention(whole)) == {CoordAttn.__name__}
    assert list(net("no-regions")[0].branches) == ["face"]
    assert isinstance(net("no-arcface")[0].head, torch.nn.Linear)
    assert set(attention(net("no-attention")[0])) == {"Identity"}
    assert set(attention(net("se")[0])) == {"SEModule"}
    assert list(net("shared")[0].branches) == ["shared"]
    assert isinstance(net("no-margin")[0].head, ArcFaceHead)
    assert (net("no-margin")[1].margin, net("no-margin")[1].scale) == (0, 16)
    assert (net("no-scale")[1].margin, net("no-scale")[1].scale) == (0.1, 1)
    assert net("template")[1].landmarks == "template"
    count = {name: sum(p.numel() for p in net(name)[0].parameters()) for name in VARIANTS}
    for name in ("se", "no-attention-matched"):
        assert count[name] == pytest.approx(count["mrcar"], rel=1e-3)


def test_cross_validation_is_scored_by_what_it_did_not_see(ckplus_folder, tmp_path):
    result = cross_validate(SMALL, ckplus_folder, tmp_path / "run", "subject", count=4)
    folds = json.loads((tmp_path / "run/folds.json").read_text())["tests"]
    assert sorted(chain.from_iterable(folds)) == sorted(f"{name}#0" for name in ckplus_names(ckplus_folder))
    assert len({name.split("/")[1][:4] for fold in folds[:1] for name in fold}) == 1  # a subject a fold
    assert result["images"] == 24
    assert np.sum(result["confusion"]) == 24
    assert result["accuracy"] == pytest.approx(np.mean(result["accuracies"]))
    assert result["spread"] == pytest.approx(np.std(result["accuracies"], ddof=1))
    assert result["accuracies"] == [
        json.loads((tmp_path / f"run/fold_{i}/scores.json").read_text())["accuracy"] for i in range(4)
    ]
    data = Record.read(tmp_path / "run/fold_0").runs[-1]["data"]
    assert "validation" not in data  # nothing but the training part chose anything
    assert data["samples"] == 18
    assert load_network(tmp_path / "run/fold_0").labels == ("anger", "disgust", "fear", "happiness", "sadness",
                                                            "surprise", "contempt")  # fmt: skip
    with pytest.raises(MRCARError, match="holds a cross-validation of something else"):
        cross_validate(SMALL, ckplus_folder, tmp_path / "run", "image", count=4)


def ckplus_names(folder):
    return [file.relative_to(folder).as_posix() for file in folder.rglob("*.png")]


@pytest.mark.slow
def test_stopped_cross_validation_goes_on(ckplus_folder, tmp_path):
    def stop(fold):
        if fold["fold"] == 1:
            raise Stopped

    whole = cross_validate(SMALL, ckplus_folder, tmp_path / "whole", count=3)
    with pytest.raises(Stopped):
        cross_validate(SMALL, ckplus_folder, tmp_path / "run", count=3, on_fold=stop)
    first = tmp_path / "run/fold_0/model.safetensors"
    written = first.stat().st_mtime_ns
    assert cross_validate(SMALL, ckplus_folder, tmp_path / "run", count=3)["confusion"] == whole["confusion"]
    assert first.stat().st_mtime_ns == written
    few = cross_validate(SMALL, ckplus_folder, tmp_path / "few", count=3, only=1)
    assert few["folds_done"] == 1
    assert few["accuracies"] == whole["accuracies"][:1]


@pytest.mark.slow
def test_folds_by_several_processes_are_those_of_one(ckplus_folder, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = cross_validate(SMALL, ckplus_folder, tmp_path / "alone", count=3)
    torch.set_num_threads(threads)
    told = []
    together = cross_validate(SMALL, ckplus_folder, tmp_path / "two", count=3, on_fold=told.append, workers=2)
    assert [fold["fold"] for fold in told] == [0, 1, 2]
    assert together["confusion"] == alone["confusion"]
    for fold in range(3):
        states = [load_file(tmp_path / run / f"fold_{fold}" / "model.safetensors") for run in ("alone", "two")]
        for key, value in states[0].items():
            torch.testing.assert_close(states[1][key], value, rtol=0, atol=1e-3 if threads > 1 else 1e-5)


@pytest.mark.slow
def test_a_fold_whose_process_dies_is_an_error_and_goes_on(ckplus_folder, tmp_path):
    run = tmp_path / "run"
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL.to_dict()))
    command = (
        "crossval", "--data", ckplus_folder, "--run", run, "--folds", "4", "--workers", "2", "--epochs", "20",
        "--recipe", tmp_path / "small.yaml",
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "mrcar_timm.cli", *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    conftest.wait_while_running(process, lambda: len(list(run.glob("fold_*/log.csv"))) >= 1)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]
    assert len(workers) == 2
    workers[0].kill()
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "a process died, perhaps for want of memory; the same command goes on" in " ".join(err.split())
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    again = mrcar(*command)
    assert again.returncode == 0, again.stderr
    assert [line.split(":")[0] for line in again.stdout.splitlines()[:4]] == [f"fold {fold}" for fold in range(4)]
    refused = mrcar(*command, "--epochs", "2")
    assert "holds a cross-validation of something else" in " ".join(refused.stderr.split())


@pytest.mark.slow
def test_variants_by_several_processes(fer_folder, tmp_path):
    recipe = replaced(SMALL, data="fer2013", epochs=2)
    told = []
    names = ["mrcar", "no-attention"]
    ablate(recipe, fer_folder, tmp_path, names, (0, 1), on_result=lambda *result: told.append(result), workers=2)
    assert [each[:2] for each in told] == [("mrcar", 0), ("no-attention", 0), ("mrcar", 1), ("no-attention", 1)]
    for name, seed, accuracy in told:
        assert read_log(tmp_path / name / f"seed_{seed}" / "log.csv")[-1]["val_accuracy"] == accuracy
    with pytest.raises(MRCARError, match="holds a run with another recipe"):  # an error comes as what it is
        ablate(replaced(recipe, lr=0.5), fer_folder, tmp_path, names, (0,), workers=2)


def test_papers_protocol_augments_before_it_splits(ckplus_folder):
    whole = make_split(DATA_SETS["ckplus"].read(ckplus_folder, "all"), ckplus_folder, ("face",), 44)
    folds = cut_folds(whole.data, "paper", 3, seed=0)
    train, test = fold_splits(whole, folds, 0, SMALL)
    assert len(train.batches) + len(test.batches) == 24 * COPIES
    assert set(train.batches.rows.tolist()) & set(test.batches.rows.tolist())
    again, _ = fold_splits(whole, folds, 0, SMALL)
    assert torch.equal(again.batches.frames, train.batches.frames)
    copies = train.batches.frames[train.batches.rows == train.batches.rows[0]]
    assert len(torch.unique(copies.flatten(1), dim=0)) == len(copies)  # each copy is another


def test_ablation_and_report(fer_folder, ckplus_folder, tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "report"
    recipe = replaced(SMALL, data="fer2013", epochs=2)
    told = []
    ablate(
        recipe,
        fer_folder,
        runs / "ablation",
        ["mrcar", "no-attention"],
        seeds=(0, 1),
        on_result=lambda *result: told.append(result),
    )
    assert [(variant, seed) for variant, seed, _ in told] == [
        ("mrcar", 0), ("no-attention", 0), ("mrcar", 1), ("no-attention", 1),
    ]  # fmt: skip
    last = read_log(runs / "ablation/no-attention/seed_1/log.csv")[-1]
    assert told[-1][2] == last["val_accuracy"]  # the last epoch, not the best
    ablate(SMALL, ckplus_folder, runs / "crossed", ["no-regions"], seeds=(0,), count=4, only=2)

    def stop(row):
        raise Stopped

    with pytest.raises(Stopped):  # no finished run: the report leaves it out
        Trainer(recipe, *load_training(recipe, fer_folder), runs / "stopped").fit(stop)
    write_report([runs], out)
    rows = read_rows(out / "runs.csv")
    assert [(row["experiment"], row["seed"]) for row in rows] == [
        ("ablation/mrcar", "0"),
        ("ablation/mrcar", "1"),
        ("ablation/no-attention", "0"),
        ("ablation/no-attention", "1"),
        ("crossed/no-regions", "0"),
    ]
    model = load_network(runs / "ablation/no-attention/seed_1").model
    assert int(rows[3]["parameters"]) == sum(p.numel() for p in model.parameters())
    assert rows[4]["folds"] == "2 of 4"
    images = {file.name for file in out.glob("*.png")}
    assert "confusion_crossed-no-regions-0.png" in images
    assert "curves_ablation-mrcar-1.png" in images
    with Image.open(out / "curves_crossed-no-regions-0.png") as image:
        assert image.width > 500
    text = (out / "report.md").read_text()
    both = [told[0][2] * 100, told[2][2] * 100]
    assert f"| ablation/mrcar | {np.mean(both):.2f} ± {np.std(both, ddof=1):.2f} | 74.50 |" in text
    assert "## CK+, subject folds, ten crops" in text
    assert "1 epoch of 18, 2 of 4 folds, 1 seed" in text


def test_leaky_protocols_are_named_so(ckplus_folder, tmp_path):
    cross_validate(SMALL, ckplus_folder, tmp_path / "image", "image", count=3, only=1)
    row = read_run(tmp_path / "image")
    assert row.leaky.startswith("leaky: other frames")
    write_report([tmp_path / "image"], tmp_path / "out")
    ((title, _),) = tables(read_rows(tmp_path / "out/runs.csv"))
    assert title == "CK+, image folds, ten crops — leaky: other frames of a test image's sequence are trained on"


def test_the_papers_figures():
    assert PAPER["ckplus"]["mrcar"] == 98.78
    assert PAPER["fer2013"] == dict(zip(PAPERS, (74.50, 72.72, 74.08, 73.41), strict=True))


def test_experiments_from_the_command_line(ckplus_folder, tmp_path):
    run = tmp_path / "runs/crossed"
    done = mrcar("crossval", "--data", ckplus_folder, "--run", run, "--folds", 2, "--by", "paper", *SMALL_OPTIONS)
    assert done.returncode == 0, done.stderr
    assert "leaky: other augmented copies" in done.stdout + done.stderr
    options = ["--seeds", "0", "--variants", "no-arcface", "--folds", 3, "--only", 1, *SMALL_OPTIONS]
    done = mrcar("ablate", "--data", ckplus_folder, "--run", tmp_path / "runs/ablation", *options)
    assert done.returncode == 0, done.stderr
    assert "no-arcface, seed 0: " in done.stdout
    done = mrcar("report", tmp_path / "runs", "--out", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "report/runs.csv", newline="") as file:
        rows = {row["experiment"]: row for row in csv.DictReader(file)}
    assert rows["crossed"]["protocol"] == "paper"
    assert int(rows["crossed"]["test_images"]) == 24 * COPIES
    assert rows["ablation/no-arcface"]["command"].startswith("mrcar ablate")
    run = tmp_path / "trained"
    done = mrcar("train", "--data", ckplus_folder, "--run", run, "--recipe", "ckplus-paper", *SMALL_OPTIONS)
    assert done.returncode == 0, done.stderr
    assert load_recipe(run / "recipe.yaml").schedule == "steps"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--recipe", "imagenet"), "no recipe 'imagenet'"),
        (("train", "--set", "epoch=3"), "no setting epoch"),
        (("train", "--set", "model_args.nose=1"), "no network mrcar_resnet with {'nose': 1}"),
        (("train", "--set", "model=resnet18"), "no network resnet18"),
        (("train", "--set", "optimizer=guess"), "optimizer must be an optimizer that timm knows"),
        (("crossval", "--folds", 5), "4 subjects cannot be cut into 5 folds"),
        (("ablate", "--variants", "no-nose"), "no variant 'no-nose'"),
        (("ablate", "--seeds", "a"), "seeds are whole numbers"),
    ],
)
def test_wrong_arguments(ckplus_folder, tmp_path, arguments, message):
    command, *options = arguments
    done = mrcar(command, "--data", ckplus_folder, "--run", tmp_path / "run", *options)
    assert done.returncode == 1
    assert message in " ".join(done.stderr.split())


def test_report_without_runs(tmp_path):
    done = mrcar("report", tmp_path, "--out", tmp_path / "report")
    assert done.returncode == 1
    assert "no finished runs" in done.stderr


def test_data_sets_with_splits_are_not_cut_into_folds(fer_folder, tmp_path):
    done = mrcar("crossval", "--data", fer_folder, "--run", tmp_path / "run")
    assert done.returncode == 1
    assert "FER2013 has splits of its own" in done.stderr


def test_ferplus_trains_on_votes_and_validates_on_the_majority(fer_folder, tmp_path):
    with open(fer_folder / "ferplus.csv", "w") as out:
        out.write("image,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n")
        for file in fer_folder.rglob("*.png"):
            out.write(f"{file.name},0,{'8,0,2' if 'happy' in file.parts else '2,0,8'},0,0,0,0,0,0\n")
    run = tmp_path / "run"
    options = ["--set", "mixup=0.4", *SMALL_OPTIONS]
    done = mrcar("train", "--data", fer_folder, "--run", run, "--recipe", "ferplus", *options)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((run / "config.json").read_text())["label_names"]) == 8
    assert read_log(run / "log.csv")[0]["train_loss"] > 0


def test_damage_is_what_it_says(fer_folder):
    data = read_fer2013(fer_folder, "test")
    before = data.images.astype(float)
    points = find_landmarks(data.images).points
    changed = {name: damaged(data, name, fer_folder) for name in DAMAGES}
    images = {name: part.images.astype(float) for name, part in changed.items()}
    assert all(part.labels.tolist() == data.labels.tolist() for part in changed.values())
    assert np.array_equal(images.pop("none"), before)
    bits = [images.pop(f"{bits} of 16 bits") for bits in (10, 12)]
    assert all(image.shape[1:] != (48, 48) or np.abs(image - before).mean() > 1 for image in images.values())
    for few in bits:  # over the whole range where they were dark, the same otherwise
        assert all(np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99 for a, b in zip(few, before, strict=True))
    assert images["half size"].shape == (6, 24, 24)
    np.testing.assert_allclose(images["half size"], before.reshape(6, 24, 2, 24, 2).mean((2, 4)), atol=1)
    assert (images["noise"] - before).std() == pytest.approx(20, abs=3)
    np.testing.assert_allclose(images["brightness ×0.15"], 0.15 * before, atol=1)
    np.testing.assert_allclose(images["brightness ×1.4"], np.minimum(255, 1.4 * before), atol=1)
    np.testing.assert_allclose(images["contrast ×0.2"], 153 + 0.2 * (before - 153), atol=1)
    np.testing.assert_allclose(images["gamma 2.5"], 255 * (before / 255) ** 2.5, atol=1)
    assert np.abs(np.diff(images["blur"])).mean() < 0.8 * np.abs(np.diff(before)).mean()
    for face in range(6):
        mouth, eyes = points[face, 3:].mean(0).astype(int), points[face, :2].astype(int)
        assert images["mouth covered"][face, mouth[1], mouth[0]] == 0
        assert sorted(images["an eye covered"][face, y, x] == 0 for x, y in eyes) == [False, True]
    # Turned by 15 degrees clockwise, and back, the middle of the image is what it was.
    turned = replace(data, images=changed["rotation +15°"].images)
    back = damaged(turned, "rotation −15°", fer_folder).images.astype(float)
    assert np.abs(back - before)[:, 12:36, 12:36].mean() < 0.25 * np.abs(images["rotation +15°"] - before).mean()
    eyes_before, eyes_after = (find_landmarks(part).points[:, :2] for part in (data.images, turned.images))
    angles = [np.degrees(np.arctan2(*(e[:, 1] - e[:, 0]).T[::-1])) for e in (eyes_before, eyes_after)]
    np.testing.assert_allclose(angles[1] - angles[0], 15, atol=6)


def test_robustness_from_the_command_line(fer_folder, tmp_path):
    models = ["--model", "mrcar_resnet.fer2013", "--model", "local-dir:src/mrcar_timm/weights/mrcar_resnet.fer2013"]
    out = ("--split", "test", "--out", tmp_path / "out.json")
    done = mrcar("robustness", "--data", fer_folder, *models, *out, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out.json").read_text())
    assert [row["damage"] for row in record["rows"]] == list(DAMAGES)
    assert record["models"]["mrcar_resnet.fer2013"] == PACKAGED["mrcar_resnet.fer2013"].sha256
    assert all(0 <= value <= 1 for row in record["rows"] for value in row["accuracy"].values())
    assert all(sum(row["landmarks"].values()) == 6 for row in record["rows"])


@pytest.mark.slow
def test_benchmarks(tmp_path):
    """Ratios are those of the times beside them, and each row says what it is of."""
    out = tmp_path / "out.json"
    for command, count in (
        (("network", "--repeats", 3), 9),
        (("faces", EXAMPLES / "collins.jpg", "--repeats", 1), 6),
        (("training", "--batch-size", 4, "--steps", 1), 3),
    ):
        done = mrcar("bench", *command, "--out", out)
        assert done.returncode == 0, done.stderr
        record = json.loads(out.read_text())
        assert record["made_by"]["machine"]
        assert len(record["rows"]) == count
        if command[0] == "network":
            last = record["rows"][-1]
            assert (last["network"], last["ratio"]) == ("resnet18", 1)
            rows = {row["network"]: row for row in record["rows"]}
            for name in ("mrcar_mobilenet", "mrcar_resnet"):
                assert rows[f"{name}, ONNX Runtime"]["parameters"] == PACKAGED[default_name(name)].num_params
                for way in ("", ", ONNX Runtime", ", ONNX Runtime, int8"):
                    row, folded = rows[name + way], rows[f"{name}, folded"]
                    assert row["speedup"] == pytest.approx(folded["ms"] / row["ms"])
                    assert row["speedup_of_some"] == pytest.approx(folded["ms_of_some"] / row["ms_of_some"])
            assert all(row["ratio"] == pytest.approx(last["ms"] / row["ms"]) for row in record["rows"])
        elif command[0] == "faces":
            assert {row["size"] for row in record["rows"]} == {"640×480", "1280×720", "1920×1080"}
            assert all(row["ratio"] == pytest.approx(row["facenet_ms"] / row["ours_ms"]) for row in record["rows"])
            assert all(row["our_faces"] == 1 and row["only_ours"] == 0 for row in record["rows"])
        else:
            first = record["rows"][0]
            assert [row["way"] for row in record["rows"]] == ["float32", "channels_last", "bfloat16"]
            assert all(row["ratio"] == pytest.approx(first["ms"] / row["ms"]) for row in record["rows"])
            assert all(sum(row["phases"].values()) == pytest.approx(row["ms"]) for row in record["rows"])
