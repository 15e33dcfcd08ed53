"""From photo to expressions, in Python and from the command line."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset

from mrcar_timm import ExportError, ExpressionRecognizer, Face, ImageError, MTCNNDetector, NoFaceError, WeightsError
from mrcar_timm.drawing import seen_regions
from mrcar_timm.faces.torch_networks import TorchNetworks
from mrcar_timm.recognizer import ColorOrderWarning, clipped_box
from mrcar_timm.regions.cut import cut_regions
from mrcar_timm.regions.geometry import TEMPLATE

from .command import mrcar, mrcar_alone
from .conftest import EXAMPLES, ROOT
from .scenes import hopper

GREY = np.full((200, 300, 3), 128, np.uint8)


def test_one_face(recognizer, portrait):
    (face,) = recognizer(portrait)
    assert isinstance(face, Face)
    assert face.expression == "happiness"
    assert face.probability == max(face.probabilities.values()) > 0.8
    assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert tuple(face.probabilities) == recognizer.network.labels
    assert face.source == "detector"
    np.testing.assert_allclose(face.box, (181, 62, 268, 172), atol=6)


def test_group(recognizer):
    """Five faces, all of the one smiling portrait; the centres are where make_group.py put them."""
    faces = recognizer(EXAMPLES / "group.jpg")
    assert [face.expression for face in faces] == ["happiness"] * 5
    areas = [(f.box[2] - f.box[0]) * (f.box[3] - f.box[1]) for f in faces]
    assert areas == sorted(areas, reverse=True)
    centres = np.array([[(f.box[0] + f.box[2]) / 2, (f.box[1] + f.box[3]) / 2] for f in faces])
    for place in [(130, 170), (340, 150), (520, 180), (240, 350), (430, 350)]:
        assert (np.linalg.norm(centres - place, axis=1) < 50).sum() == 1


def test_a_list_gives_a_list_in_order(recognizer, portrait):
    one, nothing, five = recognizer([portrait, GREY, EXAMPLES / "group.jpg"])
    assert (len(one), len(nothing), len(five)) == (1, 0, 5)
    assert one[0].probabilities == pytest.approx(recognizer(portrait)[0].probabilities, abs=1e-4)
    np.testing.assert_allclose(one[0].landmarks, recognizer(portrait)[0].landmarks, atol=1e-2)
    assert recognizer([]) == []


@pytest.mark.parametrize(
    "change",
    [
        ImageOps.mirror,
        ImageOps.grayscale,
        lambda i: i.convert("RGBA"),
        lambda i: i.rotate(15, Image.Resampling.BICUBIC),
        lambda i: i.resize((1400, 1400)),
        lambda i: i.resize((200, 200)),
        lambda i: i.crop((168, 52, 284, 168)).resize((48, 48), Image.Resampling.LANCZOS),
        lambda i: i.point(lambda v: v * 0.5),
    ],
)
def test_the_same_expression_after_a_change(recognizer, portrait, change):
    faces = recognizer(change(portrait))
    assert [face.expression for face in faces] == ["happiness"]


@pytest.mark.parametrize("name", ["mrcar_mobilenet", "mrcar_resnet", "multi_region"])
def test_embeddings_are_what_the_head_classifies(name, portrait):
    model = timm.create_model(name, **({"backbone": "mobilenetv3_small_050"} if name == "multi_region" else {}))
    model.pretrained_cfg["label_names"] = list("abcdefgh")[: model.num_classes]
    recognizer = ExpressionRecognizer(model.eval())
    group = EXAMPLES / "group.jpg"
    embeddings = recognizer.embed(group)
    with torch.inference_mode():
        regions = torch.from_numpy(recognizer.regions(group)).expand(-1, -1, model.in_chans, -1, -1)
        expected = model.forward_head(model.forward_features(regions), pre_logits=True)
        probabilities = model(regions).softmax(1)
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (5, model.head_hidden_size)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(embeddings, torch.nn.functional.normalize(expected, dim=1), atol=1e-4)
    for face, row in zip(recognizer(group), probabilities, strict=True):
        assert face.embedding is None
        np.testing.assert_allclose(list(face.probabilities.values()), row, atol=1e-4)
    # Asked for beforehand, they come with the faces, in the order of the faces, from one look.
    asked = ExpressionRecognizer(model, embeddings=True)
    for face, row, plain in zip(asked(group), embeddings, recognizer(group), strict=True):
        np.testing.assert_array_equal(face.embedding, row)
        assert face.box == plain.box
        np.testing.assert_allclose(list(face.probabilities.values()), list(plain.probabilities.values()), atol=1e-5)
        assert "embedding" not in face.to_dict()
    one, none, many = recognizer.embed([portrait, np.zeros((64, 64, 3), np.uint8), group])
    assert (one.shape, none.shape) == ((1, model.head_hidden_size), (0, model.head_hidden_size))
    np.testing.assert_allclose(many, embeddings, atol=1e-4)


@pytest.mark.slow
def test_onnx_runtime_gives_no_embeddings():
    recognizer = ExpressionRecognizer(backend="onnx")
    with pytest.raises(ExportError, match=r'gives no embeddings; one in PyTorch \(backend="torch"\) does'):
        recognizer.embed(EXAMPLES / "group.jpg")
    with pytest.raises(ExportError, match="gives no embeddings"):
        ExpressionRecognizer(backend="onnx", embeddings=True)


def test_missing(portrait):
    with pytest.raises(NoFaceError, match="no face"):
        ExpressionRecognizer(missing="raise")(GREY)
    (face,) = ExpressionRecognizer(missing="full_image")(GREY)
    assert (face.source, face.score, face.box) == ("template", None, (0, 0, 300, 200))
    assert ExpressionRecognizer(missing="full_image")(GREY).missing
    assert ExpressionRecognizer()(GREY).missing
    assert not ExpressionRecognizer()(portrait).missing
    with pytest.raises(ValueError, match="missing"):
        ExpressionRecognizer(missing="")


def test_own_model_and_detector(recognizer, portrait):
    found = MTCNNDetector()(np.asarray(portrait))
    other = ExpressionRecognizer(recognizer.network.model, detector=lambda image: found)
    assert other(portrait)[0].expression == "happiness"
    with pytest.raises(WeightsError, match="expected an MRCARMobileNet, MRCARResNet or multi_region"):
        ExpressionRecognizer(torch.nn.Linear(1, 1))
    labelled = timm.create_model("resnet18", num_classes=2, pretrained_cfg_overlay={"label_names": ["a", "b"]})
    with pytest.raises(WeightsError, match="ResNet gives no expressions"):
        ExpressionRecognizer(labelled)
    with pytest.raises(WeightsError, match="must have label_names, one for each class; it has 7 of 2"):
        ExpressionRecognizer(timm.create_model("mrcar_resnet", num_classes=2))
    with pytest.raises(WeightsError, match="is no registered network, no folder"):
        ExpressionRecognizer("no_such_network")
    with pytest.raises(WeightsError, match="installed are mrcar_mobilenet.everyday"):
        ExpressionRecognizer("mrcar_resnet.no_such_tag")


def test_mixed_sizes_go_together_in_order(recognizer, portrait, tmp_path):
    """More images than are in work at once, faces and none, paths, arrays and tensors."""
    group = EXAMPLES / "group.jpg"
    small = portrait.crop((168, 52, 284, 168)).resize((48, 48))
    images = [portrait, GREY, group, small, np.asarray(portrait), str(group), GREY, Path(group)] * 3
    results = recognizer(images)
    assert [len(faces) for faces in results] == [1, 0, 5, 1, 1, 5, 0, 5] * 3
    for image, faces in zip(images[:8], results[8:16], strict=True):
        alone = recognizer(image)
        assert (alone.missing, alone.size, alone.path) == (faces.missing, faces.size, faces.path)
        for one, other in zip(alone, faces, strict=True):
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
            np.testing.assert_allclose(one.landmarks, other.landmarks, atol=1e-2)
    assert [faces.path for faces in results[:3]] == [None, None, group]
    assert results[3][0].source == "crop"


def test_folder(recognizer, portrait, tmp_path):
    (tmp_path / "more").mkdir()
    portrait.save(tmp_path / "b.png")
    portrait.save(tmp_path / "more" / "c.webp")
    (tmp_path / "a.jpg").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("left out")
    bad, b, c = recognizer.stream(tmp_path)
    assert "a.jpg" in str(bad)
    assert [(f.path.name, len(f), f.missing) for f in (b, c)] == [("b.png", 1, False), ("c.webp", 1, False)]
    with pytest.raises(ImageError, match="folder"):
        recognizer(tmp_path)


def test_choice_of_faces(recognizer):
    network, group = recognizer.network.model, EXAMPLES / "group.jpg"
    every = recognizer(group)
    heights = [face.box[3] - face.box[1] for face in every]
    (largest,) = ExpressionRecognizer(network, faces="largest")(group)
    assert np.abs(np.array(largest.landmarks) - every[0].landmarks).max() < 2
    assert len(ExpressionRecognizer(network, min_size=100)(group)) == sum(h >= 100 for h in heights) == 3
    scores = sorted(face.score for face in every)
    few = ExpressionRecognizer(network, min_score=(scores[1] + scores[2]) / 2)(group)
    assert sorted(face.score for face in few) == pytest.approx(scores[2:], abs=1e-4)
    assert ExpressionRecognizer(network, min_size=5000)(group).missing
    for wrong in ({"faces": "first"}, {"min_size": -1}, {"min_score": 2}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="expected|faces"):
            ExpressionRecognizer(network, **wrong)


def test_known_boxes_and_landmarks(recognizer):
    group = EXAMPLES / "group.jpg"
    every = recognizer(group)[::-1]
    by_box = recognizer(group, boxes=[face.box for face in every])
    by_landmarks = recognizer(group, landmarks=[face.landmarks for face in every])
    for face, boxed, marked in zip(every, by_box, by_landmarks, strict=True):
        assert (boxed.source, marked.source) == ("box", "landmarks")
        assert boxed.box == face.box
        assert boxed.probabilities == pytest.approx(face.probabilities, abs=0.15)
        assert marked.probabilities == pytest.approx(face.probabilities, abs=1e-4)
        assert marked.score is None
        x1, y1, x2, y2 = marked.box
        assert all(x1 < x < x2 and y1 < y < y2 for x, y in face.landmarks)
    both = recognizer(group, boxes=[every[0].box], landmarks=[every[0].landmarks])
    assert both[0].box == every[0].box
    assert not both.missing
    assert recognizer(group, boxes=np.zeros((0, 4))) == []


def test_a_box_without_a_face_is_reported(recognizer):
    group = EXAMPLES / "group.jpg"
    nowhere = [10, 390, 60, 439]
    nothing, face = recognizer(group, boxes=[nowhere, recognizer(group)[0].box])
    assert (nothing.source, face.source) == ("template", "box")
    assert nothing.score is None
    assert nothing.box == tuple(nowhere)
    assert recognizer(group, boxes=[nowhere]).missing
    with pytest.raises(NoFaceError, match="box 0"):
        ExpressionRecognizer(recognizer.network.model, missing="raise")(group, boxes=[nowhere])


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"boxes": [[1, 2, 3]]}, r"\(N, 4\)"),
        ({"boxes": [5, 5, 1, 9]}, r"\(N, 4\)"),
        ({"boxes": [[50, 50, 10, 90]]}, "x1 < x2"),
        ({"boxes": [[9000, 0, 9100, 50]]}, "meet the image"),
        ({"boxes": [[0, 0, np.nan, 50]]}, "finite"),
        ({"boxes": "here"}, "numbers"),
        ({"landmarks": np.zeros((5, 2))}, r"\(N, 5, 2\)"),
        ({"landmarks": np.full((1, 5, 2), 7)}, "one point"),
        ({"boxes": [[0, 0, 9, 9]] * 2, "landmarks": np.arange(10).reshape(1, 5, 2)}, "2 boxes but landmarks of 1"),
    ],
)
def test_wrong_boxes_and_landmarks(recognizer, portrait, known, message):
    with pytest.raises(ValueError, match=message):
        recognizer(portrait, **known)
    with pytest.raises(ValueError, match="one image"):
        recognizer([portrait], **known)


def test_image_of_what_the_network_sees(recognizer, portrait):
    """Three regions of 88 pixels in a row, their pixels the network's, with a dot on each landmark."""
    image = np.asarray(portrait)
    faces = recognizer(portrait)
    seen = np.asarray(seen_regions(image, faces, width=264)).astype(int)
    assert seen.shape == (94, 264, 3)
    crops = cut_regions(image, np.array([faces[0].landmarks]), size=(88, 88))[0]
    expected = (crops.transpose(2, 0, 3, 1).reshape(88, 264, 3) * 255).round()
    difference = np.abs(seen[3:91] - expected).max(2)
    dots = difference > 1
    assert 5 * 5 < dots.sum() < 11 * 16
    # Where the template has them, in the face region, which is 44 of the canonical frame's 48 units.
    for x, y in (TEMPLATE * 48 - 2) / 44 * 88:
        assert dots[int(y) - 8 : int(y) + 8, int(x) - 8 : int(x) + 8].any()


class Recognized(Dataset):
    """Images recognized where they are read."""

    files = (EXAMPLES / "collins.jpg", EXAMPLES / "group.jpg", EXAMPLES / "collins.jpg")

    def __init__(self, recognizer):
        self.recognizer = recognizer

    def __len__(self):
        return len(self.files)

    def __getitem__(self, k):
        return self.recognizer(self.files[k])


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_in_workers_of_a_data_loader(recognizer, start):
    here = [recognizer(file) for file in Recognized.files]
    data = Recognized(recognizer)
    (there,) = DataLoader(data, batch_size=3, num_workers=1, collate_fn=list, multiprocessing_context=start)
    for one, other in zip(here, there, strict=True):
        assert (one.missing, one.size, one.path) == (other.missing, other.size, other.path)
        for face, same in zip(one, other, strict=True):
            assert face.probabilities == pytest.approx(same.probabilities, abs=1e-3)


def test_in_threads(recognizer):
    files = Recognized.files * 4
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(recognizer, files))
    for file, faces in zip(files, together, strict=True):
        for face, alone in zip(faces, recognizer(file), strict=True):
            assert face.probabilities == pytest.approx(alone.probabilities, abs=1e-3)


def test_to(recognizer, portrait):
    moved = ExpressionRecognizer(recognizer.network.model).to("cpu")
    assert moved(portrait)[0].expression == "happiness"


def test_the_users_module_stays_as_it_is(portrait):
    plain = timm.create_model("mrcar_resnet", pretrained=True).train()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    own = ExpressionRecognizer(plain)
    assert own(portrait)[0].expression == "happiness"
    assert plain.training
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in before.items())
    assert list(plain.branches) == ["face", "eyes", "mouth"]


def test_mean_and_std_are_those_of_the_config():
    """A network for other values: the same answers as that of the package if its first convolutions make up for it."""
    mean, std = (0.25, 0.25, 0.25), (0.5, 0.5, 0.5)
    overlay = {"mean": mean, "std": std}
    other = timm.create_model("mrcar_resnet", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    regions = torch.linspace(0, 1, 44).expand(2, 3, 3, 44, 44)  # of all values: exposure is left alone
    expected = other((regions - 0.25) / 0.5).softmax(1).detach().numpy()
    regions = regions.numpy()
    np.testing.assert_allclose(ExpressionRecognizer(other).probabilities(regions), expected, atol=1e-5, rtol=1e-4)
    package = ExpressionRecognizer("mrcar_resnet")
    assert not np.allclose(package.probabilities(regions), expected, atol=1e-3)


def test_probabilities_are_those_of_the_release_before():
    """At the same landmarks; computed when the temperature was still beside the weights."""
    stored = json.loads((ROOT / "tests/reference_probabilities.json").read_text())
    for name, images in stored.items():
        recognizer = ExpressionRecognizer(name)
        for file, faces in images.items():
            landmarks = [face["landmarks"] for face in faces]
            for face, expected in zip(recognizer(EXAMPLES / file, landmarks=landmarks), faces, strict=True):
                assert face.probabilities == pytest.approx(expected["probabilities"], abs=1e-4)


def test_expressions_that_are_not_asked_for(recognizer, portrait):
    """The others share what is left in the same proportions."""
    (all_of_them,) = recognizer(portrait)
    seven = ExpressionRecognizer(without=["contempt"])
    (face,) = seven(portrait)
    assert seven.labels == tuple(face.probabilities) == recognizer.network.labels[:7]
    left = 1 - all_of_them.probabilities["contempt"]
    expected = {name: value / left for name, value in all_of_them.probabilities.items() if name != "contempt"}
    assert face.probabilities == pytest.approx(expected, abs=1e-5)
    (face,) = ExpressionRecognizer(without=("happiness", "contempt"))(portrait)
    assert face.expression != "happiness"
    assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert ExpressionRecognizer(without=["contempt"])(GREY) == []
    for wrong in ("contempt", ["joy"]):
        with pytest.raises(ValueError, match="must be a list of the network's expressions anger, disgust"):
            ExpressionRecognizer(without=wrong)
    with pytest.raises(ValueError, match="fewer than two"):
        ExpressionRecognizer(without=recognizer.labels[1:])


def test_expressions_that_are_not_asked_for_on_the_command_line(tmp_path):
    done = mrcar("predict", EXAMPLES / "collins.jpg", "--json", "--without", "contempt", "--without", "fear")
    (face,) = json.loads(done.stdout)["faces"]
    assert not {"contempt", "fear"} & set(face["probabilities"])
    assert len(face["probabilities"]) == 6
    done = mrcar("predict", EXAMPLES / "collins.jpg", "--without", "joy")
    assert done.returncode == 1
    assert "without must be a list of the network's expressions" in done.stderr


def test_bgr_is_noticed(recognizer, portrait, recwarn):
    rgb = np.asarray(portrait)
    recognizer(rgb)
    assert not [w for w in recwarn if w.category is ColorOrderWarning]
    with pytest.warns(ColorOrderWarning, match="BGR"):
        recognizer(rgb[:, :, ::-1])


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (12, 12), (19, 19), (500, 3)])
def test_tiny_and_narrow_images(recognizer, size):
    assert recognizer(Image.new("RGB", size, "grey")) == []


@pytest.mark.parametrize("size", [(128, 1), (1, 128)])
def test_narrow_images_take_no_longer_than_others(recognizer, size, monkeypatch):
    """They are not enlarged until their shorter side would do for a face: few pixels are searched."""
    searched, propose = [], TorchNetworks.propose

    def counted(self, pixels, threshold):
        searched.append(pixels.size)
        return propose(self, pixels, threshold)

    monkeypatch.setattr(TorchNetworks, "propose", counted)
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert recognizer(noise) == []
    assert sum(searched) < 3_000_000


def test_stream_goes_on_after_a_bad_image(recognizer, portrait, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff")
    first, second = recognizer.stream([bad, portrait])
    assert isinstance(first, ImageError)
    assert "bad.jpg" in str(first)
    assert len(second) == 1


def test_predict_table_and_image(tmp_path):
    out = tmp_path / "new" / "out.png"
    done = mrcar("predict", EXAMPLES / "collins.jpg", "--annotate", out)
    assert done.returncode == 0, done.stderr
    assert "happiness" in done.stdout
    assert "collins.jpg" in done.stdout
    with Image.open(out) as annotated, Image.open(EXAMPLES / "collins.jpg") as photo:
        assert annotated.width == photo.width
        difference = np.abs(np.asarray(annotated)[:512].astype(int) - np.asarray(photo.convert("RGB")))
    assert 200 < (difference.max(2) > 60).sum() < 12_000  # boxes and a label, and the rest untouched
    assert (difference[300:].max() == 0).all()


def test_readme_shows_what_predict_prints(recognizer):
    """To two pixels and half a percent, as processors differ."""
    lines = (EXAMPLES.parent / "README.md").read_text("utf-8").splitlines()
    (row,) = [line.split() for line in lines if re.match(r"1 +\d", line)]
    (face,) = recognizer(EXAMPLES / "collins.jpg")
    number, *box, expression, probability, source, image = row
    assert (number, expression, source, image) == ("1", face.expression, face.source, "examples/collins.jpg")
    assert [float(x) for x in box] == pytest.approx(face.box, abs=2)
    assert float(probability.rstrip("%")) == pytest.approx(100 * face.probability, abs=0.5)


def test_predict_chooses_faces():
    group = EXAMPLES / "group.jpg"
    for options, count in ((["--largest"], 1), (["--min-size", 100], 3), (["--min-score", 1], 0)):
        result = json.loads(mrcar("predict", group, "--json", *options).stdout)
        assert len(result["faces"]) == count
        assert result["missing"] == (count == 0)


def test_predict_many_files_one_bad(tmp_path):
    for name in ("a.jpg", "c.jpg"):
        (tmp_path / name).write_bytes((EXAMPLES / "collins.jpg").read_bytes())
    (tmp_path / "b.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not an image, and not tried")
    done = mrcar("predict", tmp_path, "--json", "--annotate", tmp_path / "out")
    assert done.returncode == 1
    a, b, c = map(json.loads, done.stdout.splitlines())
    assert a["faces"][0]["expression"] == c["faces"][0]["expression"] == "happiness"
    assert "empty file" in b["error"]
    assert "b.jpg" in done.stderr
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a_jpg.png", "c_jpg.png"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["predict", "none.jpg"], "no such file"),
        (["predict", EXAMPLES / "collins.jpg", "--model", "nothing"], "is no registered network, no folder"),
        (["predict", EXAMPLES / "collins.jpg", "--annotate", "/proc/none/x.png"], "/proc/none"),
        (["eval", "--data", EXAMPLES], "looks like no data set that can be read"),
    ],
)
def test_errors_are_one_line(args, message):
    done = mrcar(*args)
    assert done.returncode == 1
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


COMMANDS = (
    "predict", "video", "models", "download", "train", "eval", "average", "package", "data", "publish", "crossval",
    "ablate", "report", "robustness", "bench",
)  # fmt: skip


def test_help_has_panels_choices_and_whole_paragraphs():
    text = mrcar("--help").stdout
    assert all(f"│ {command} " in text for command in COMMANDS)
    assert [text.index(f"─ {panel} ─") for panel in ("Use", "Train", "Publish", "Reproduce")] == sorted(
        text.index(f"─ {panel} ─") for panel in ("Use", "Train", "Publish", "Reproduce")
    )
    for command in COMMANDS:
        assert "Usage" in mrcar(command, "--help").stdout
    assert "<none|raise|full_image>" in mrcar("predict", "--help").stdout
    wrong = mrcar("predict", EXAMPLES / "collins.jpg", "--missing", "x")
    assert wrong.returncode == 2
    assert "'none', 'raise', 'full_image'" in wrong.stderr
    # A paragraph's lines are as long as the terminal lets them be.
    lines = mrcar("eval", "--help").stdout.splitlines()
    start = next(k for k, line in enumerate(lines) if "On the test split" in line)
    assert len(lines[start].rstrip()) > 80


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["eval", "--help"]])
def test_help_answers_at_once(args):
    """Without PyTorch, which takes seconds to import."""
    code = f"import sys; sys.argv = {['mrcar', *args]}; from mrcar_timm.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_in_a_process_of_its_own(command):
    done = mrcar_alone(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_predict_in_a_process_of_its_own():
    done = mrcar_alone("predict", EXAMPLES / "collins.jpg")
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert "happiness" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("program", ["recognize_photo.py", "use_layers.py"])
def test_examples_run(program):
    done = subprocess.run([sys.executable, EXAMPLES / program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert ("happiness" if "photo" in program else "(8, 7) True") in done.stdout


@pytest.mark.slow
def test_group_image_is_made_by_its_program(tmp_path):
    subprocess.run([sys.executable, EXAMPLES / "make_group.py", tmp_path / "g.png"], check=True)
    with Image.open(tmp_path / "g.png") as made, Image.open(EXAMPLES / "group.jpg") as kept:
        difference = np.abs(np.asarray(made).astype(int) - np.asarray(kept))
    assert difference.mean() < 3


@pytest.mark.parametrize("corner", [(185, 70), (0, 80), (225, 0), (0, 0)])
def test_boxes_lie_within_the_image(recognizer, portrait, corner):
    """So that what a user cuts out by them is the face; the box beyond the border is told as well."""
    image = np.asarray(portrait)[corner[1] :, corner[0] :]
    (face,) = recognizer(image)
    x1, y1, x2, y2 = face.box
    assert 0 <= x1 < x2 <= image.shape[1]
    assert 0 <= y1 < y2 <= image.shape[0]
    assert image[round(y1) : round(y2), round(x1) : round(x2)].size > 50 * 50
    full = face.box_full
    assert full[0] <= x1
    assert full[3] - full[1] > 60
    assert face.to_dict()["box_full"] == [round(v, 1) for v in full]
    if corner == (185, 70):
        assert full[0] < 0
        assert full[1] < 0


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ((1, 2, 3, 4), (1, 2, 3, 4)),
        ((-5, -5, 3.5, 4), (0, 0, 3.5, 4)),
        ((90, 40, 120, 60), (90, 40, 100, 50)),
        ((-9, -9, -3, -2), (0, 0, 1, 1)),  # beside the image
        ((100, 50, 130, 70), (99, 49, 100, 50)),
        ((99.6, 49.7, 110, 60), (99, 49, 100, 50)),
    ],
)
def test_clipped_boxes(box, clipped):
    assert clipped_box(np.array(box), (100, 50)) == clipped
    x1, y1, x2, y2 = map(round, clipped)
    assert np.zeros((50, 100))[y1:y2, x1:x2].size


@pytest.mark.parametrize("side", [128, 112, 96, 80, 64])
def test_two_people_in_a_thumbnail(recognizer, portrait, side):
    """What is a crop of one face is decided by what is in it."""
    one = portrait.crop((129, 20, 319, 250)).resize((side // 2, round(side * 0.6)), Image.Resampling.LANCZOS)
    two = hopper().crop((113, 60, 413, 430)).resize(one.size, Image.Resampling.LANCZOS)
    both = Image.new("RGB", (side, one.height))
    both.paste(one, (0, 0))
    both.paste(two, (side // 2, 0))
    faces = recognizer(both)
    assert [face.source for face in faces] == ["detector"] * 2
    middles = sorted((face.box[0] + face.box[2]) / 2 / side for face in faces)
    assert middles == pytest.approx([0.25, 0.75], abs=0.1)
    large = recognizer(both.resize((512, round(512 * both.height / side)), Image.Resampling.BICUBIC))
    assert len(large) == 2
    (one,) = ExpressionRecognizer(recognizer.network.model, faces="largest")(both)
    assert one.box == max((face.box for face in faces), key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))


@pytest.mark.parametrize("side", [48, 64, 100, 128])
def test_a_face_that_fills_a_thumbnail_is_a_crop(recognizer, portrait, side):
    crop = portrait.crop((160, 40, 290, 170)).resize((side, side), Image.Resampling.LANCZOS)
    (face,) = recognizer(crop)
    assert (face.source, face.box) == ("crop", (0, 0, side, side))
    assert recognizer(crop.rotate(180)) == []
    upside_down = ExpressionRecognizer(recognizer.network.model, any_angle=True)(crop.rotate(180))
    assert [face.expression for face in upside_down] == ["happiness"]


def test_a_small_face_in_a_thumbnail_is_no_crop(recognizer, portrait):
    (face,) = recognizer(portrait.resize((128, 128), Image.Resampling.LANCZOS))
    assert face.source == "detector"
    assert face.box[3] - face.box[1] < 40


@pytest.mark.parametrize("turns", range(4))
def test_any_angle(recognizer, turns):
    """The face comes to the network upright: the expression is that of the upright image."""
    with Image.open(EXAMPLES / "group.jpg") as group:
        image = np.asarray(group.convert("RGB"))
    turned = np.ascontiguousarray(np.rot90(image, turns))
    found = ExpressionRecognizer(recognizer.network.model, any_angle=True)(turned)
    expected = recognizer(image)
    assert len(found) == 5
    assert sorted(face.probability for face in found) == pytest.approx(
        sorted(face.probability for face in expected), abs=0.05
    )
    assert {face.expression for face in recognizer(turned)} <= {"happiness"}  # found or not, but not wrong


def test_any_angle_from_the_command_line(tmp_path, portrait):
    portrait.rotate(180).save(tmp_path / "down.png")
    for options, count in (([], 0), (["--any-angle"], 1), (["--any-angle", "--largest"], 1)):
        result = json.loads(mrcar("predict", tmp_path / "down.png", "--json", *options).stdout)
        assert len(result["faces"]) == count
