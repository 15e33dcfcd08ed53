"""Readers of data sets, what is checked about them, landmarks, and how they are cut into folds."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcar_timm import DataError, MRCARError
from mrcar_timm.data.check import check_data
from mrcar_timm.data.ckplus import read_ckplus
from mrcar_timm.data.fer2013 import read_fer2013
from mrcar_timm.data.ferplus import read_ferplus
from mrcar_timm.data.folds import check_disjoint
from mrcar_timm.data.image_set import ImageSet, contained_in
from mrcar_timm.data.jaffe import read_jaffe
from mrcar_timm.data.labels import EXPRESSIONS, SEVEN, expression_name
from mrcar_timm.data.landmarks import find_landmarks
from mrcar_timm.data.rafdb import read_rafdb
from mrcar_timm.data.sets import recognize
from mrcar_timm.data.splits import limited, read_part, read_training
from mrcar_timm.experiments.crossval import COPIES, cut_folds
from mrcar_timm.regions.geometry import template_landmarks

from .command import mrcar
from .conftest import VOTES, vote


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
    with pytest.raises(DataError, match="48×48 pixels, this one is 50×50"):
        read_fer2013(fer_folder, "train")
    (fer_folder / "train/sad/Training_x.png").write_bytes(b"")
    with pytest.raises(DataError, match="Training_x.png: not a readable image"):
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
    np.testing.assert_allclose(faceless.points[0], template_landmarks(48, 48), rtol=1e-6)


def test_ferplus_by_hand(fer_folder):
    names = [Path(name).name for name in read_fer2013(fer_folder, "train").names[:7]]
    vote(
        fer_folder,
        dict(
            zip(
                names,
                [
                    {"happiness": 9, "neutral": 1},  # the single vote is dropped
                    {"happiness": 5, "neutral": 5},  # half is not more than half
                    {"sadness": 4, "fear": 2, "neutral": 2, "anger": 1, "unknown": 1},  # 4 of 8 that remain
                    {"contempt": 6, "unknown": 4},
                    {"unknown": 6, "anger": 4},
                    {"NF": 10},
                    dict.fromkeys(VOTES, 1),  # nothing remains
                ],
                strict=True,
            )
        ),
    )
    majority = read_ferplus(fer_folder, "train")
    assert [Path(name).name for name in majority.names] == [names[0], names[3]]
    assert [majority.classes[label] for label in majority.labels] == ["happiness", "contempt"]
    assert majority.targets is None
    votes = read_ferplus(fer_folder, "train", "votes")
    assert [Path(name).name for name in votes.names] == names[:4]
    found = [{EXPRESSIONS[i]: round(float(row[i]), 6) for i in row.nonzero()[0]} for row in votes.targets]
    assert found == [
        {"happiness": 1},
        {"happiness": 0.5, "neutral": 0.5},
        {"sadness": 0.5, "fear": 0.25, "neutral": 0.25},
        {"contempt": 1},
    ]
    original = read_ferplus(fer_folder, "train", "original")
    assert len(original) == 7
    assert original.classes == SEVEN
    assert original.labels.tolist() == read_fer2013(fer_folder, "train").labels[:7].tolist()


def test_ferplus_beside_kaggles_csv(fer_folder, tmp_path):
    """Its own file goes line by line with fer2013.csv, whatever the split."""
    train, test = (read_fer2013(fer_folder, split) for split in ("train", "test"))
    root = tmp_path / "kaggle"
    root.mkdir()
    with open(root / "fer2013.csv", "w") as out, open(root / "fer2013new.csv", "w") as votes:
        out.write("emotion,pixels,Usage\n")
        votes.write(",".join(["Usage", "Image name", *VOTES]) + "\n")
        for usage, data in (("PrivateTest", test), ("Training", train)):
            for number, image in enumerate(data.images):
                out.write(f"3,{' '.join(map(str, image.flatten()))},{usage}\n")
                counts = [10 * (name == VOTES[number % 8]) for name in VOTES]
                votes.write(",".join([usage, f"fer{number:07}.png", *map(str, counts)]) + "\n")
    assert recognize(root) == "ferplus"
    for split, data in (("train", train), ("test", test)):
        found = read_ferplus(root, split)
        assert [found.classes[label] for label in found.labels] == [VOTES[i % 8] for i in range(len(data))]
        assert np.array_equal(found.images, data.images)


def test_ferplus_errors(fer_folder):
    with pytest.raises(DataError, match=r"no votes; expected ferplus.csv beside the folders"):
        read_ferplus(fer_folder, "train")
    with pytest.raises(ValueError, match="labels must be one of"):
        read_ferplus(fer_folder, "train", "soft")
    vote(fer_folder, {"other.png": {"fear": 10}})
    with pytest.raises(DataError, match="name none of the images of the split 'train'"):
        read_ferplus(fer_folder, "train")
    (fer_folder / "ferplus.csv").write_text("image,neutral\na.png,3\n")
    with pytest.raises(DataError, match="expected the columns"):
        read_ferplus(fer_folder, "train")
    vote(fer_folder, {"other.png": {"fear": "many"}})
    with pytest.raises(DataError, match=r"ferplus.csv, line 2: .*many"):
        read_ferplus(fer_folder, "train")


def test_ckplus(ckplus_folder):
    data = read_ckplus(ckplus_folder)
    assert data.classes == (*EXPRESSIONS[:6], "contempt")
    assert data.counts()["contempt"] == data.counts()["happiness"] == 12
    assert sorted(set(data.subjects)) == ["S010", "S011", "S012", "S013"]
    assert data.subjects[0] == Path(data.names[0]).name[:4]
    Image.new("L", (48, 48)).save(ckplus_folder / "happy/face.png")
    with pytest.raises(DataError, match=r"face.png: the name does not say subject, sequence and frame"):
        read_ckplus(ckplus_folder)
    (ckplus_folder / "happy/face.png").unlink()
    (ckplus_folder / "neutral").mkdir()
    with pytest.raises(DataError, match="'neutral' is no expression of this data set"):
        read_ckplus(ckplus_folder)
    with pytest.raises(DataError, match="no such folder; expected <class>/S<subject>"):
        read_ckplus(ckplus_folder / "none")


def write_jaffe(folder: Path, names: list[str], size: int = 256) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        Image.new("L", (size, size), number).save(folder / name)
    return folder


def test_jaffe(tmp_path):
    names = ["KA.AN1.39.tiff", "KA.NE3.28.tiff", "YM.SU2.11.tiff", "MK.DI2 .125.tiff", "TM.FE3..178.tiff"]
    data = read_jaffe(write_jaffe(tmp_path / "jaffe", names))
    found = dict(zip(data.names, (data.classes[label] for label in data.labels), strict=True))
    assert found == dict(zip(names, ["anger", "neutral", "surprise", "disgust", "fear"], strict=True))
    assert data.images.shape == (5, 256, 256)
    assert sorted(data.subjects) == ["KA", "KA", "MK", "TM", "YM"]
    assert recognize(tmp_path / "jaffe") == "jaffe"
    write_jaffe(tmp_path / "odd", ["KA.XX1.39.tiff"])
    with pytest.raises(DataError, match=r"KA.XX1.39.tiff: the name does not say subject and expression"):
        read_jaffe(tmp_path / "odd")
    write_jaffe(tmp_path / "small", ["KA.AN1.39.tiff"], 100)
    with pytest.raises(DataError, match="expected 256×256 pixels, this one is 100×100"):
        read_jaffe(tmp_path / "small")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no images; expected images such as KA.AN1.39.tiff"):
        read_jaffe(tmp_path / "empty")


@pytest.fixture
def rafdb_folder(tmp_path: Path) -> Path:
    """RAF-DB's layout: seven images to train on, two to test."""
    root = tmp_path / "rafdb/basic"
    (root / "EmoLabel").mkdir(parents=True)
    (root / "Image/aligned").mkdir(parents=True)
    lines = [f"train_{n:05}.jpg {n}" for n in range(1, 8)] + ["test_0001.jpg 5", "test_0002.jpg 7"]
    (root / "EmoLabel/list_patition_label.txt").write_text("\n".join(lines) + "\n")
    for number, line in enumerate(lines):
        name = line.split(".")[0]
        color = (20 * number, 100, 250 - 20 * number)
        Image.new("RGB", (100, 100), color).save(root / f"Image/aligned/{name}_aligned.jpg")
    return tmp_path / "rafdb"


def test_rafdb(rafdb_folder):
    data = read_rafdb(rafdb_folder, "train")
    order = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
    assert [data.classes[label] for label in data.labels] == order
    assert data.images.shape == (7, 100, 100, 3)
    assert data.channels == 3
    test = read_rafdb(rafdb_folder / "basic", "test")
    assert [test.classes[label] for label in test.labels] == ["sadness", "neutral"]
    assert recognize(rafdb_folder) == "rafdb"
    (rafdb_folder / "basic/Image/aligned/test_0001_aligned.jpg").unlink()
    with pytest.raises(DataError, match=r"test_0001_aligned.jpg: not a readable image"):
        read_rafdb(rafdb_folder, "test")
    (rafdb_folder / "basic/EmoLabel/list_patition_label.txt").write_text("train_00001.jpg 8\n")
    with pytest.raises(DataError, match="line 1: expected a name and a class of 1 to 7"):
        read_rafdb(rafdb_folder, "train")
    (rafdb_folder / "basic/EmoLabel/list_patition_label.txt").unlink()
    with pytest.raises(DataError, match=r"no EmoLabel.*; expected basic/EmoLabel/list_patition_label.txt"):
        read_rafdb(rafdb_folder, "train")


def test_data_sets_are_recognised(fer_folder, ckplus_folder, tmp_path):
    assert recognize(fer_folder) == "fer2013"
    assert recognize(ckplus_folder) == "ckplus"
    vote(fer_folder, {})
    assert recognize(fer_folder) == "ferplus"
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="looks like no data set that can be read: FER2013 "):
        recognize(tmp_path / "nothing")
    with pytest.raises(DataError, match="no such file or folder"):
        recognize(tmp_path / "none")


def test_check_counts_what_was_put_in(fer_folder):
    happy, sad = fer_folder / "train/happy", fer_folder / "train/sad"
    twice = sorted(happy.iterdir())[0]
    (happy / "Training_again.png").write_bytes(twice.read_bytes())
    (sad / "Training_contradiction.png").write_bytes(twice.read_bytes())
    (fer_folder / "test/happy/PrivateTest_leak.png").write_bytes(twice.read_bytes())
    Image.fromarray(np.full((48, 48), 7, np.uint8)).save(sad / "Training_blank.png")
    found = check_data("fer2013", fer_folder).splits
    train, test = found["train"], found["test"]
    assert (train.count, test.count, found["validation"].count) == (19, 7, 6)
    assert train.classes["sadness"] == 10
    assert train.repeated == 2
    assert (train.also_in, test.also_in) == ({"validation": 0, "test": 3}, {"train": 1, "validation": 0})
    assert (train.contradictory, test.contradictory) == (3, 1)
    assert train.faceless >= 1
    assert check_data("fer2013", fer_folder, faces=False).splits["train"].faceless is None


def test_check_from_the_command_line(ckplus_folder, tmp_path):
    done = mrcar("data", "check", ckplus_folder)
    assert done.returncode == 0, done.stderr
    cells = [[cell.strip() for cell in line.split("│")] for line in done.stdout.splitlines() if "│" in line]
    lines = {title: value for _, title, value, _ in cells}
    assert lines["contempt"] == "12"
    assert lines["images"] == "24"
    assert lines["subjects"] == "4"
    done = mrcar("data", "check", tmp_path / "none")
    assert done.returncode == 1
    assert "no such file or folder" in done.stderr


def some_set(subjects: list[str] | None = None, n: int = 40) -> ImageSet:
    rng = np.random.default_rng(0)
    names = np.array([f"{i}.png" for i in range(n)])
    who = None if subjects is None else np.array([subjects[i % len(subjects)] for i in range(n)])
    return ImageSet(rng.integers(0, 255, (n, 48, 48), np.uint8), np.arange(n) % 2, ("a", "b"), names, subjects=who)


@pytest.mark.parametrize("protocol", ["subject", "image", "paper"])
def test_folds_are_a_partition_and_come_again(protocol):
    data = some_set([f"S{i}" for i in range(11)])
    folds = cut_folds(data, protocol, 4, seed=3)
    samples = 40 * (COPIES if protocol == "paper" else 1)
    assert sorted(np.concatenate(folds.tests).tolist()) == list(range(samples))
    for number, test in enumerate(folds.tests):
        assert not set(test) & set(folds.train(number))
        assert len(test) + len(folds.train(number)) == samples
    assert cut_folds(data, protocol, 4, seed=3).digest() == folds.digest()
    assert cut_folds(data, protocol, 4, seed=4).digest() != folds.digest()


def test_what_the_protocols_keep_apart():
    data = some_set([f"S{i}" for i in range(11)])
    subject, image, paper = (cut_folds(data, protocol, 5, seed=0) for protocol in ("subject", "image", "paper"))
    for number, test in enumerate(subject.tests):
        assert not set(data.subjects[test]) & set(data.subjects[subject.train(number)])
    assert set(data.subjects[image.tests[0]]) & set(data.subjects[image.train(0)])
    assert set(paper.tests[0] // COPIES) & set(paper.train(0) // COPIES)  # copies of one image on both sides
    with pytest.raises(MRCARError, match="subject S0 is in the folds 0 and 1"):
        check_disjoint(np.array(["S0", "S1", "S0"]), [np.array([0, 1]), np.array([2])])
    with pytest.raises(MRCARError, match="in no fold, or in two"):
        check_disjoint(np.array(["S0", "S1"]), [np.array([0]), np.array([0])])
    with pytest.raises(DataError, match="does not say who is shown"):
        cut_folds(some_set(), "subject", 5, seed=0)
    with pytest.raises(DataError, match="11 subjects cannot be cut into 12 folds"):
        cut_folds(data, "subject", 12, seed=0)
    with pytest.raises(ValueError, match="protocol must be one of"):
        cut_folds(data, "random", 5, seed=0)


def test_parts_of_data_sets_without_validation_split(ckplus_folder, rafdb_folder):
    train, held_out = (read_part("ckplus", ckplus_folder, part) for part in ("train", "validation"))
    assert len(train) + len(held_out) == 24
    assert not set(train.subjects) & set(held_out.subjects)
    with pytest.raises(DataError, match="CK\\+ has no split 'test'"):
        read_part("ckplus", ckplus_folder, "test")
    assert len(read_part("rafdb", rafdb_folder, "test")) == 2


def test_training_part_leaves_out_what_is_tested(fer_folder):
    leak = sorted((fer_folder / "test/happy").iterdir())[0]
    (fer_folder / "train/happy/Training_leak.png").write_bytes(leak.read_bytes())
    assert len(read_fer2013(fer_folder, "train")) == 17
    assert len(read_part("fer2013", fer_folder, "train")) == 16


def test_blended_labels_by_hand(fer_folder):
    """Two happy and two sad images; half of a target is the own label, half what its votes let expect."""
    names = [Path(name).name for name in read_fer2013(fer_folder, "train").names]
    labels = read_fer2013(fer_folder, "train").labels
    happy, sad = ([n for n, k in zip(names, labels, strict=True) if k == label] for label in np.unique(labels))
    votes = {"happiness": 8, "sadness": 2}, {"happiness": 10}, {"sadness": 10}, {"contempt": 6, "sadness": 4}
    vote(fer_folder, dict(zip([*happy[:2], *sad[:2]], votes, strict=True)))
    data = read_ferplus(fer_folder, "train", "blended")
    assert data.classes == read_fer2013(fer_folder, "train").classes
    # Votes for happiness: .8 + 1, all of happy images; for sadness: .2 happy, 1 + .4 sad; contempt: sad alone.
    of_sadness = np.array([0.2, 1.4]) / 1.6
    expected = {
        happy[0]: 0.8 * np.array([1, 0]) + 0.2 * of_sadness,
        happy[1]: np.array([1, 0]),
        sad[0]: of_sadness,
        sad[1]: 0.6 * np.array([0, 1]) + 0.4 * of_sadness,
    }
    columns = [data.classes.index(name) for name in ("happiness", "sadness")]
    for name, target in zip(data.names, data.targets[:, columns], strict=True):
        own = np.array([1, 0]) if Path(name).name in happy else np.array([0, 1])
        np.testing.assert_allclose(target, (own + expected[Path(name).name]) / 2, atol=1e-6)
    np.testing.assert_allclose(data.targets.sum(1), 1, atol=1e-6)


def test_of_classes():
    data = replace(some_set(n=40), labels=np.arange(40) % 3, classes=("a", "b", "c"))
    part = data.of_classes((data.classes[2], data.classes[0]))
    assert part.labels.tolist() == [0 if label == 2 else 1 for label in data.labels if label in (0, 2)]
    assert part.names.tolist() == [n for n, label in zip(data.names, data.labels, strict=True) if label in (0, 2)]
    with pytest.raises(DataError, match="no class 'joy'"):
        data.of_classes(("joy",))


def test_ferplus_trains_on_nothing_that_could_be_scored(fer_folder):
    """The leak has no majority among its votes, so that the majority's validation split lacks it."""
    leak = sorted((fer_folder / "validation/happy").iterdir())[0]
    (fer_folder / "train/happy/Training_leak.png").write_bytes(leak.read_bytes())
    votes = {file.name: {"happiness": 10} for file in fer_folder.rglob("*.png")}
    vote(fer_folder, {**votes, leak.name: {"happiness": 5, "neutral": 5}})
    for labels in ("votes", "majority", "original"):
        assert len(read_ferplus(fer_folder, "train", labels)) == 17
        assert len(read_training("ferplus", fer_folder, labels)) == 16


def test_limit_keeps_the_shares():
    data = some_set(n=400)
    few = limited(data, 51, seed=0)
    assert len(few) == 51
    assert abs(few.counts()["a"] - few.counts()["b"]) <= 1
    assert list(few.names) == list(limited(data, 51, seed=0).names)
    assert list(few.names) != list(limited(data, 51, seed=1).names)
    assert limited(data, None, 0) is data


def test_landmarks_of_many_images_are_those_of_each(fer_folder, tmp_path):
    """More than go through the detector at once."""
    images = read_fer2013(fer_folder, "test").images
    few = find_landmarks(images, tmp_path)
    many = find_landmarks(np.tile(images, (100, 1, 1)), tmp_path)
    assert len(many.points) == 600
    np.testing.assert_allclose(many.points, np.tile(few.points, (100, 1, 1)), atol=1e-2)
    assert many.sources.tolist() == few.sources.tolist() * 100
