"""Images of a user, from the folder to the published network and back, and what folders and tables may look like."""

import csv
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageDraw, ImageEnhance
from pyarrow import Table, parquet

from mrcar_timm import DataError, MRCARError, MTCNNDetector, load_network
from mrcar_timm.checkpoints.record import Record
from mrcar_timm.data import face_crops
from mrcar_timm.data.face_crops import crop_side, cut_faces, find_faces
from mrcar_timm.data.imagefolder import FaceSearch, labelled_part, read_labelled
from mrcar_timm.data.listing import list_files
from mrcar_timm.data.sets import recognize
from mrcar_timm.regions.cut import cut_regions
from mrcar_timm.training.batches import load_training
from mrcar_timm.training.engine import Trainer, read_log
from mrcar_timm.training.recipe import Recipe, epochs_for, load_recipe

from .command import mrcar, mrcar_alone
from .conftest import SMALL, replaced, wait_while_running


@pytest.fixture(scope="session")
def head(portrait: Image.Image) -> tuple[Image.Image, np.ndarray]:
    """The face of the portrait with its surroundings, and its landmarks."""
    image = portrait.crop((120, 0, 330, 230))
    return image, MTCNNDetector()(np.asarray(image)).landmarks[0]


def changed(head: tuple[Image.Image, np.ndarray], covered: bool, rng: np.random.Generator) -> Image.Image:
    """The face in other light, of another size and turned; its mouth covered or not."""
    image, landmarks = head[0].copy(), head[1]
    if covered:
        (x, y), r = landmarks[3:].mean(0), 14
        color = tuple(int(v) for v in rng.integers(60, 120, 3))
        ImageDraw.Draw(image).ellipse((x - r, y - r / 1.6, x + r, y + r / 1.6), fill=color)
    image = image.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR, fillcolor=(90, 90, 90))
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.6, 1.3))
    size = rng.uniform(0.7, 1.2)
    return image.resize((int(image.width * size), int(image.height * size)))


def write_images(root: Path, head, count: int, splits=("train", "train", "train", "test"), seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for number in range(count):
        folder = root / splits[number // 2 % len(splits)] / ("smile", "covered")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        changed(head, bool(number % 2), rng).save(folder / f"{number:03}.jpg")
    return root


@pytest.fixture
def folder(tmp_path, head):
    """Twelve images in two class folders without splits."""
    return write_images(tmp_path / "mine", head, 12, [""])


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_from_the_folder_to_the_hub_and_back(head, tmp_path):
    """400 images of two classes, by the commands of the documentation, in less than a minute."""
    data, run = write_images(tmp_path / "mydata", head, 400), tmp_path / "runs/smiles"
    done = mrcar("train", "--data", data, "--run", run, "--init", "mrcar_resnet.fer2013", "--epochs", 2)
    assert done.returncode == 0, done.stderr
    for line in (f"mrcar predict photo.jpg --model {run}", f"mrcar eval --data {data}", f"mrcar publish {run}"):
        assert line in done.stdout
    out = tmp_path / "scores"
    done = mrcar("eval", "--data", data, "--model", run, "--split", "test", "--protocol", "one", "--out", out)
    assert done.returncode == 0, done.stderr
    [row] = json.loads((out / "scores.json").read_text())["rows"]
    assert row["count"] == 100
    assert row["accuracy"] > 0.98
    shutil.copy(data / "test/smile/006.jpg", tmp_path / "photo.jpg")
    done = mrcar("predict", tmp_path / "photo.jpg", "--model", run, "--json")
    assert json.loads(done.stdout)["faces"][0]["expression"] == "smile"
    done = mrcar("publish", run, "--repo-id", "me/smiles")
    assert done.returncode == 0, done.stderr
    x = torch.rand(2, 3, 3, 44, 44)
    with torch.no_grad():
        here = load_network(run).model(x)
        torch.testing.assert_close(timm.create_model("hf-hub:me/smiles", pretrained=True).eval()(x), here)
        torch.testing.assert_close(load_network("hf-hub:me/smiles").model(x), here)
    assert load_network("hf-hub:me/smiles").labels == ("covered", "smile")


def test_card_and_record_name_the_images_and_the_start(folder, tmp_path):
    run = tmp_path / "run"
    done = mrcar("train", "--data", folder, "--run", run, "--epochs", 1, "--batch-size", 8)
    assert done.returncode == 0, done.stderr
    record = Record.read(run)
    assert [each["title"] for each in record.data] == ["mine"]
    assert [each["name"] for each in record.starts] == ["mrcar_resnet.fer2013"]
    assert record.license == "other"
    assert "Trained on mine: started from mrcar_resnet.fer2013" in record.notes
    done = mrcar("publish", run, "--repo-id", "me/mine", "--dry-run", "--folder", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "out/README.md").read_text()
    assert "| mine | what is not in validation or test | not stated |" in card
    assert "Training started from `mrcar_resnet.fer2013` (non-commercial research" in card
    config = (tmp_path / "out/config.json").read_text()
    for text in (card, config, record.notes):
        assert "FER2013" not in text
        assert "FER+" not in text
    # From random weights nothing forbids commerce but what the images' owner says.
    plain = Recipe(**{**SMALL.to_dict(), "data": "imagefolder", "epochs": 1})
    Trainer(plain, *load_training(plain, folder), tmp_path / "plain").fit()
    record = Record.read(tmp_path / "plain")
    assert (record.license, record.starts) == ("unknown", ())
    assert "terms of the images were not stated" in record.notes


# Layouts


def test_class_folders_with_and_without_splits(folder, head, tmp_path):
    found = read_labelled(folder)
    assert {name: len(data) for name, data in found.splits.items()} == {"all": 12}
    assert found.splits["all"].classes == ("covered", "smile")
    train, validation = (labelled_part(found, part) for part in ("train", "validation"))
    assert sorted([*train.names, *validation.names]) == sorted(found.splits["all"].names)
    assert set(validation.labels) == {0, 1}
    with pytest.raises(DataError, match="no images of the split 'test', but of all"):
        labelled_part(found, "test")
    whole = read_labelled(write_images(tmp_path / "b", head, 12, ["train", "val", "test"]))
    assert {name: len(data) for name, data in whole.splits.items()} == {"train": 4, "validation": 4, "test": 4}
    assert len(labelled_part(whole, "train")) == 4
    with pytest.raises(DataError, match="splits of their own"):
        labelled_part(whole, "all")


def write_table(file: Path, rows: list[dict]) -> Path:
    with open(file, "w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_with_labels_splits_subjects_and_weights(folder, kind):
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.jpg"))
    rows = [
        {"path": name, "label": "ü" if k % 2 else "a", "split": ["train", "val"][k % 3 == 0], "subject": f"s{k // 2}",
         "weight": 1 + k % 2}
        for k, name in enumerate(files)
    ]  # fmt: skip
    table = folder / f"faces.{kind}"
    if kind == "csv":
        write_table(table, rows)
    else:
        parquet.write_table(Table.from_pylist(rows), table)
    assert recognize(table) == "imagefolder"
    found = read_labelled(table).splits
    assert {name: len(data) for name, data in found.items()} == {"train": 8, "validation": 4}
    train = found["train"]
    assert train.classes == ("a", "ü")
    by_name = {row["path"]: row for row in rows}
    for k in range(len(train)):
        row = by_name[str(train.names[k])]
        assert (train.classes[train.labels[k]], train.subjects[k], train.weights[k]) == (
            row["label"], row["subject"], row["weight"],
        )  # fmt: skip


def test_probabilities_by_class(folder):
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.jpg"))
    rows = [{"path": name, "calm": k, "glad": 10 - k, "sour": 5} for k, name in enumerate(files[:10])]
    rows[3] |= {"calm": -1}
    found = read_labelled(write_table(folder / "votes.csv", rows))
    data = found.splits["all"]
    assert data.classes == ("calm", "glad", "sour")
    expected = {row["path"]: np.array([row["calm"], row["glad"], row["sour"]]) / 15 for row in rows}
    np.testing.assert_allclose(data.targets, [expected[name] for name in data.names], atol=1e-6)
    np.testing.assert_array_equal(data.labels, data.targets.argmax(1))
    assert "must not be negative" in found.left_out[files[3]]


def test_image_folder_of_hugging_face(folder, head, tmp_path):
    """metadata.csv with labels beside the images, and one without labels, which adds subjects to class folders."""
    flat = tmp_path / "flat" / "train"
    flat.mkdir(parents=True)
    files = sorted(folder.rglob("*.jpg"))
    for file in files:
        shutil.copy(file, flat)
    write_table(flat / "metadata.csv", [{"file_name": f.name, "label": f.parent.name, "note": "x"} for f in files])
    found = read_labelled(flat.parent)
    assert found.splits["train"].counts() == {"covered": 6, "smile": 6}
    assert found.warnings[0] == "metadata.csv: columns not used: note"
    rows = [{"file_name": f.relative_to(folder).as_posix(), "subject": f"s{k % 4}"} for k, f in enumerate(files)]
    write_table(folder / "metadata.csv", rows)
    whole = read_labelled(folder)
    assert whole.splits["all"].counts() == {"covered": 6, "smile": 6}
    subjects = [set(labelled_part(whole, part).subjects) for part in ("train", "validation")]
    assert subjects[0] | subjects[1] == {"s0", "s1", "s2", "s3"}
    assert not subjects[0] & subjects[1]


def test_what_is_odd_is_said_and_left_out(folder, tmp_path):
    smile, covered = folder / "smile", folder / "covered"
    (smile / "broken.jpg").write_text("no image")
    (smile / "empty.png").touch()
    (smile / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (smile / "notes.txt").write_text("no image, nor named like one")
    Image.new("RGB", (300, 300), "gray").save(covered / "grün ☂.jpg")
    shutil.copy(smile / "000.jpg", smile / "again.jpg")
    shutil.copy(smile / "002.jpg", covered / "torn.jpg")
    (folder / "nothing").mkdir()
    linked = tmp_path / "elsewhere"
    shutil.move(covered, linked)
    covered.symlink_to(linked)
    (linked / "round").symlink_to(linked)  # a link that leads back
    found = read_labelled(folder)
    assert found.left_out == {
        "smile/broken.jpg": "cannot be read: not an image, or damaged",
        "smile/empty.png": "cannot be read: empty file",
        "smile/gone.jpg": "cannot be read: a link to nothing",
        "smile/notes.txt": "no image",
        "covered/grün ☂.jpg": "no face found",
        "smile/again.jpg": "the same as smile/000.jpg",
        "smile/002.jpg": "the same as covered/torn.jpg, which has another label",
    }
    assert found.unreadable == {"all": 3}
    assert found.missing == {"all": 1}
    assert any("nothing: a class folder without images" in line for line in found.warnings)
    assert any("fewer than 10 images of covered 7, smile 5" in line for line in found.warnings)
    done = mrcar("data", "check", folder, "--out", tmp_path / "left_out.csv")
    assert done.returncode == 0, done.stderr
    assert "left out: smile/empty.png: cannot be read: empty file" in done.stdout
    assert len((tmp_path / "left_out.csv").read_text(encoding="utf-8").splitlines()) == 8
    done = mrcar("data", "check", folder, "--faces", "none")
    assert done.returncode == 0, done.stderr


def test_an_image_of_train_in_test_is_left_out_of_train(head, tmp_path):
    data = write_images(tmp_path / "b", head, 16)
    shutil.copy(data / "test/smile/006.jpg", data / "train/smile/copy.jpg")
    found = read_labelled(data)
    assert found.left_out == {"train/smile/copy.jpg": "the same as test/smile/006.jpg"}
    assert "test/smile/006.jpg" in found.splits["test"].names


def test_errors_say_what_was_expected(folder, tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        list_files(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"expected <class>/\*\.jpg"):
        list_files(tmp_path / "empty")
    shutil.rmtree(folder / "smile")
    with pytest.raises(DataError, match="two classes are needed, there is covered alone"):
        read_labelled(folder)
    rows = [{"path": f"covered/{k:03}.jpg", "label": "a", "split": split} for k, split in ((1, "train"), (3, "later"))]
    table = write_table(folder / "odd.csv", [*rows, {"path": "missing.jpg", "label": "b", "split": "train"},
                                             {"path": "covered/005.jpg", "label": "", "split": "train"},
                                             {"path": "covered/007.jpg", "label": "b", "split": "test"}])  # fmt: skip
    listing = list_files(table)
    assert listing.left_out == {
        "covered/003.jpg": "odd.csv, line 3: no split 'later'; there are train, val and test",
        "covered/005.jpg": "odd.csv, line 5: no label",
    }
    with pytest.raises(DataError, match="class 'b' of test has no image to train on"):
        read_labelled(table)
    write_table(folder / "bad.csv", [{"path": "a.jpg", "comment": "x"}])
    with pytest.raises(DataError, match="expected the columns path and label"):
        list_files(folder / "bad.csv")
    (folder / "broken.parquet").write_text("no table")
    with pytest.raises(DataError, match="not a readable table"):
        list_files(folder / "broken.parquet")
    mixed = write_table(folder / "mixed.csv", [{"path": f"covered/{k:03}.jpg", "label": "ab"[k % 4 == 1],
                                                "split": "train" if k < 5 else ""} for k in (1, 3, 5, 7)])  # fmt: skip
    with pytest.raises(DataError, match="some files have a split"):
        read_labelled(mixed)


def test_data_sets_are_told_apart(fer_folder, ckplus_folder, folder):
    assert recognize(fer_folder) == "fer2013"
    assert recognize(ckplus_folder) == "ckplus"
    assert recognize(folder) == "imagefolder"


# Faces


def test_crops_have_their_landmarks_and_room(head):
    image, landmarks = np.asarray(head[0]), head[1]
    crops, inside = cut_faces(image, landmarks[None], 128)
    assert crops.shape == (1, 128, 128, 3)
    # A second search finds the landmarks where the first one's were moved to.
    [again] = MTCNNDetector()(crops[0]).landmarks
    assert np.abs(again - inside[0]).max() < 3
    eyes = inside[0, 1] - inside[0, 0]
    assert abs(np.degrees(np.arctan2(eyes[1], eyes[0]))) < 8  # upright
    assert [crop_side(size) for size in (44, 64, 96, 112)] == [128, 192, 288, 320]


def test_regions_of_a_crop_are_those_of_the_photo(portrait):
    """Training cuts regions out of kept crops, recognizing out of photos: the same within a few grey values."""
    photo = np.asarray(portrait)
    landmarks = MTCNNDetector()(photo).landmarks[:1]
    crops, inside = cut_faces(photo, landmarks, 128)
    apart = np.abs(cut_regions(photo, landmarks) - cut_regions(crops[0], inside))
    assert apart.mean() < 0.012
    assert np.quantile(apart, 0.99) < 0.08


def test_largest_all_or_crop(tmp_path, head):
    group = Image.new("RGB", (600, 260), (80, 80, 80))
    group.paste(head[0], (10, 10))
    group.paste(head[0].resize((140, 153)), (320, 60))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    group.save(tmp_path / "a/group.png")
    head[0].save(tmp_path / "b/one.png")
    search = read_labelled(tmp_path)
    assert search.several == {"all": 1}
    assert search.splits["all"].counts() == {"a": 1, "b": 1}
    assert read_labelled(tmp_path, FaceSearch("all")).splits["all"].counts() == {"a": 2, "b": 1}
    crops = find_faces(tmp_path, ["a/group.png", "b/one.png"], "crop")
    assert crops.found.tolist() == [1, 1]
    with pytest.raises(ValueError, match="must be 'largest', 'all' or 'crop'"):
        find_faces(tmp_path, [], "some")


def test_color_stays_and_grey_is_one_channel(folder):
    assert read_labelled(folder).splits["all"].channels == 3
    for file in folder.rglob("*.jpg"):
        with Image.open(file) as image:
            grey = image.convert("L")
        grey.save(file)
    assert read_labelled(folder).splits["all"].channels == 1


# The cache


def searched(monkeypatch) -> list[int]:
    """Counts how many images faces are looked for in."""
    seen: list[int] = []
    locate = face_crops._locate
    monkeypatch.setattr(
        face_crops, "_locate", lambda images, *rest: [seen.append(len(images)), locate(images, *rest)][1]
    )
    return seen


def test_faces_are_found_once(folder, tmp_path, monkeypatch):
    seen = searched(monkeypatch)
    first = read_labelled(folder).splits["all"]
    assert sum(seen) == 12
    assert read_labelled(folder).splits["all"].digest() == first.digest()
    assert sum(seen) == 12
    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    assert read_labelled(moved).splits["all"].digest() == first.digest()
    copied = tmp_path / "copied"
    shutil.copytree(moved, copied, copy_function=shutil.copyfile)  # with other times
    assert read_labelled(copied).splits["all"].digest() == first.digest()
    assert sum(seen) == 12
    with Image.open(moved / "smile/000.jpg") as image:
        darker = ImageEnhance.Brightness(image).enhance(0.7)
    darker.save(moved / "smile/000.jpg")
    assert read_labelled(moved).splits["all"].digest() != first.digest()
    assert sum(seen) == 13
    for file in (moved / ".mrcar-cache").rglob("*.npz"):
        file.write_bytes(file.read_bytes()[:100])
    read_labelled(moved)
    assert sum(seen) == 25


def test_a_stopped_search_goes_on(folder, monkeypatch):
    monkeypatch.setattr(face_crops, "_SHARD", 4)

    def stopping(iterable, description, total=None):
        for number, item in enumerate(iterable):
            if number == 9:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        read_labelled(folder, FaceSearch(progress=stopping))
    seen = searched(monkeypatch)
    read_labelled(folder)
    assert sum(seen) == 3


def test_a_folder_that_cannot_be_written_to(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("mrcar_timm.data.landmarks.os.access", lambda *args: False)
    read_labelled(folder)
    assert not (folder / ".mrcar-cache").exists()
    seen = searched(monkeypatch)
    read_labelled(folder)
    assert seen == []


@pytest.mark.slow
def test_memory_does_not_grow_with_the_size_of_photos(tmp_path, head):
    """40 photos of 12 megapixels, 1.4 GB of pixels: what is needed beyond one process's start is a few photos."""
    data = tmp_path / "big"
    photo = Image.new("RGB", (4000, 3000), (90, 100, 110))
    photo.paste(head[0].resize((1050, 1150)), (1400, 800))
    for name in ("a", "b"):
        (data / name).mkdir(parents=True)
    photo.save(data / "a/000.jpg", quality=90)
    content = (data / "a/000.jpg").read_bytes()
    for k in range(40):  # other bytes after the end of the image: other files with the same pixels
        (data / "ab"[k % 2] / f"{k:03}.jpg").write_bytes(content + bytes([k]))
    program = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from mrcar_timm.data.imagefolder import read_labelled\n"
        "from mrcar_timm.data.face_crops import find_faces\n"
        "status = Path('/proc/self/status')\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', status.read_text())[1]) // 1024\n"
        "root = Path(sys.argv[1])\n"
        "find_faces(root, [f'{\"ab\"[k % 2]}/{k:03}.jpg' for k in range(12)])\n"
        "before = peak()\n"
        "found = read_labelled(root)\n"
        "print(before, peak(), len(found.splits['all']))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(data)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after, count = map(int, done.stdout.split())
    assert count == 40
    assert after - before < 300  # MB; four photos are read ahead of the four in hand


# Training


def test_epochs_by_the_number_of_images():
    assert [epochs_for(n) for n in (10, 200, 1000, 20_000, 10**6)] == [40, 30, 19, 8, 6]
    recipe = load_recipe("finetune")
    assert recipe.epochs is None
    assert recipe.for_images(200).epochs == 30
    assert recipe.changed({"epochs": 3}).for_images(200).epochs == 3


@pytest.mark.parametrize(
    ("name", "init"), [("finetune", "mrcar_resnet.fer2013"), ("finetune-everyday", "mrcar_mobilenet.everyday")]
)
def test_head_rows_of_known_expressions_are_kept(folder, tmp_path, name, init):
    (folder / "smile").rename(folder / "Happy")
    recipe = replaced(load_recipe(name), epochs=1, batch_size=8)
    trainer = Trainer(recipe, *load_training(recipe, folder), tmp_path / "run")
    start = load_network(init)
    row = start.model.head.weight[start.labels.index("happiness")]
    assert trainer.classes == ("Happy", "covered")
    torch.testing.assert_close(trainer.model.head.weight[0], row)
    assert not any(torch.equal(trainer.model.head.weight[1], each) for each in start.model.head.weight)


def test_own_images_train_the_network_for_photos(folder, tmp_path):
    done = mrcar("train", "--data", folder, "--run", tmp_path / "run", "--recipe", "finetune-everyday", "--epochs", 2,
                 "--set", "batch_size=8")  # fmt: skip
    assert done.returncode == 0, done.stderr
    network = load_network(tmp_path / "run")
    assert (type(network.model).__name__, network.size) == ("MRCARMobileNet", (112, 112))
    assert network.labels == ("covered", "smile")
    record = Record.read(tmp_path / "run")
    assert [each["name"] for each in record.starts] == ["mrcar_mobilenet.everyday"]


def test_a_packaged_network_is_scored_on_own_images(folder):
    for name, expression in (("smile", "happy"), ("covered", "sad")):
        (folder / name).rename(folder / expression)
    done = mrcar("eval", "--data", folder, "--model", "mrcar_resnet.fer2013", "--split", "all", "--protocol", "one",
                 "--classes", "happiness,sadness")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "│ one      │ all    │ 12" in done.stdout


def test_weights_draw_images(folder):
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.jpg"))
    rows = [{"path": name, "label": "ab"[k % 2], "split": "train", "weight": k % 2} for k, name in enumerate(files)]
    table = write_table(folder / "weights.csv", [*rows])
    recipe = replaced(SMALL, data="imagefolder")
    train, _ = load_training(recipe, table)
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([targets for _, targets in train.batches.training(4, recipe.augmentation, generator)])
    assert set(labels.tolist()) == {1}


@pytest.mark.slow
def test_patience(fer_folder, tmp_path):
    recipe = replaced(SMALL, epochs=50, patience=2, lr=1e-6)
    trainer = Trainer(recipe, *load_training(recipe, fer_folder), tmp_path / "run")
    assert trainer.fit()
    rows = read_log(tmp_path / "run/log.csv")
    best = max(range(len(rows)), key=lambda k: rows[k]["val_accuracy"])
    assert len(rows) == best + 1 + 2
    again = Trainer(recipe, *load_training(recipe, fer_folder), tmp_path / "run")
    assert again.fit()  # there is nothing left to do
    assert again.epoch == len(rows)


@pytest.mark.slow
def test_one_process_a_run_folder(fer_folder, tmp_path):
    run = tmp_path / "run"
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from mrcar_timm.lock import FolderLock\n"
        "lock = FolderLock(Path(sys.argv[1])); lock.acquire(); print('held', flush=True); time.sleep(100)"
    )
    run.mkdir()
    other = subprocess.Popen([sys.executable, "-c", program, str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_while_running(other, (run / ".running.json").exists)
        done = mrcar("train", "--data", fer_folder, "--run", run, "--epochs", 1, "--batch-size", 8)
        assert done.returncode == 1
        said = " ".join(done.stderr.split())
        assert f"is being trained by process {other.pid} on {platform.node()}, since 0 minutes" in said
    finally:
        other.kill()
        other.communicate()
    # The system takes a dead process's lock away.
    recipe = replaced(SMALL, epochs=1)
    assert Trainer(recipe, *load_training(recipe, fer_folder), run).fit()
    assert not (run / ".running.json").exists()
    first, second = (Trainer(recipe, *load_training(recipe, fer_folder), run) for _ in range(2))
    first.resume()
    with pytest.raises(MRCARError, match=f"process {os.getpid()}"):
        second.resume()


@pytest.mark.slow
def test_cross_validation_by_subject_of_a_table(folder, tmp_path):
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.jpg"))
    rows = [{"path": name, "label": name.split("/")[0], "subject": f"s{k % 6}"} for k, name in enumerate(files)]
    table = write_table(folder / "faces.csv", rows)
    done = mrcar_alone("crossval", "--data", table, "--run", tmp_path / "run", "--folds", 3, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/crossval.json").read_text())["images"] == 12
