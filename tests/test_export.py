"""Exported networks against the networks themselves, and a runtime without PyTorch."""

import csv
import hashlib
import json
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision.ops import nms

from mrcar_timm import (
    DamagedWeightsError,
    ExportError,
    ExpressionRecognizer,
    MRCARError,
    MTCNNDetector,
    WeightsError,
    insert_attention,
    runtime,
)
from mrcar_timm.backends import load_backend
from mrcar_timm.checkpoints.packaged import PACKAGED
from mrcar_timm.checkpoints.resolve import NameWarning
from mrcar_timm.export import export
from mrcar_timm.export.folder import _write as write_export
from mrcar_timm.export.photos import regions_of_photos
from mrcar_timm.exported import Session, read_export
from mrcar_timm.faces.detector import overlaps
from mrcar_timm.faces.onnx_networks import OnnxNetworks
from mrcar_timm.faces.torch_networks import TorchNetworks
from mrcar_timm.frames import VideoWriter
from mrcar_timm.graphs import cache
from mrcar_timm.graphs import network as graphs_of_networks
from mrcar_timm.graphs.network import face_graph, network_graph
from mrcar_timm.network import Network, load_network

from .command import mrcar
from .conftest import EXAMPLES, shaken
from .scenes import composed

FILES = {"network.onnx", "network_face.onnx", "pnet.onnx", "rnet.onnx", "onet.onnx", "nms.onnx", "example.py"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The default weights, exported from the command line."""
    folder = tmp_path_factory.mktemp("exported") / "out"
    done = mrcar("export", "mrcar_mobilenet.everyday", "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "float32" in done.stdout
    return folder


@pytest.fixture
def copy(exported, tmp_path):
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def made(**args):
    """An untrained network with names for its classes."""
    model = shaken(timm.create_model(**args))
    labels = tuple(f"class {k}" for k in range(model.num_classes))
    model.pretrained_cfg = {**model.pretrained_cfg, "label_names": labels}
    return load_network(model)


def attended():
    network = made(model_name="mrcar_resnet", num_classes=3)
    insert_attention(network.model, "se", neutral=False)
    return network


NETWORKS = {
    "multi_region": lambda: made(model_name="multi_region", backbone="mobilenetv3_small_050", num_classes=4),
    "one region": lambda: made(model_name="mrcar_resnet", regions=("face",), head="linear", num_classes=2),
    "other regions": lambda: made(model_name="mrcar_resnet", regions=("mouth", "face"), shared=True, attn_layer="none"),
    "one channel": lambda: made(model_name="mrcar_resnet", in_chans=1, embed_dim=0),
    "inserted attention": attended,
}


def assert_parity(network: Network, regions: Session, faces: Session) -> None:
    """The same logits for regions and aligned faces, whatever their number."""
    generator = torch.Generator().manual_seed(0)
    for batch in (1, 3, 64):
        x = torch.randn(batch, len(network.regions), network.in_chans, *network.size, generator=generator)
        with torch.inference_mode():
            expected = network.model(x), network.model(x[:, 0])
        for session, name, values, logits in zip(
            (regions, faces), ("regions", "faces"), (x, x[:, 0]), expected, strict=True
        ):
            (found,) = session(**{name: values.contiguous().numpy()})
            np.testing.assert_allclose(found, logits, atol=1e-4, rtol=0)


def test_logits_of_the_folder(exported):
    network, folder = load_network("mrcar_mobilenet.everyday"), read_export(exported)
    assert_parity(network, folder.session(), folder.session("network_face.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NETWORKS, *(name for name in PACKAGED if name != "mrcar_mobilenet.everyday")])
def test_logits_of_every_network(name):
    network = NETWORKS[name]() if name in NETWORKS else load_network(name)
    graph = network_graph(network)
    both = [Session(content=each.SerializeToString()) for each in (graph, face_graph(graph, network))]
    assert_parity(network, *both)


def test_no_relu6_is_exported_in_place(monkeypatch):
    """The exporter would take twice as long; the network itself stays as it is."""
    given = []
    monkeypatch.setattr(graphs_of_networks, "to_onnx", lambda model, *_: given.append(model) or onnx.ModelProto())
    network = load_network("mrcar_mobilenet.everyday")
    network_graph(network)
    for model, in_place in ((given[0], False), (network.model, True)):
        assert {module.inplace for module in model.modules() if isinstance(module, nn.ReLU6)} == {in_place}


def test_folder(exported):
    """Labels, normalization and what cuts the regions are in the graphs; digests and the license in the record."""
    assert {file.name for file in exported.iterdir()} == FILES | {"export.json"}
    record = json.loads((exported / "export.json").read_text(encoding="utf-8"))
    digests = {name: hashlib.sha256((exported / name).read_bytes()).hexdigest() for name in FILES}
    assert record["files"] == digests
    packaged = PACKAGED["mrcar_mobilenet.everyday"]
    assert record["sha256"] == packaged.sha256
    assert tuple(record["labels"]) == packaged.labels
    assert "non-commercial research" in record["notes"]
    assert record["made_by"]["onnx"] == onnx.__version__
    for name, shape in (("network.onnx", ["batch", 3, 3, 112, 112]), ("network_face.onnx", ["batch", 3, 112, 112])):
        session = runtime.read_export(exported).session(name).session
        assert session.get_inputs()[0].shape == shape
        about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
        assert tuple(about["labels"]) == packaged.labels
        assert about["mean"] == [0.5] * 3
        assert list(about["region_matrices"]) == ["face", "eyes", "mouth"]
        content = (exported / name).read_bytes().decode("latin1")
        assert not any(str(place) in content for place in (Path.home(), EXAMPLES.parent))


ALONE = """
import json, psutil, sys
import mrcar_timm.drawing, mrcar_timm.images, mrcar_timm.runtime
recognizer = mrcar_timm.runtime.load(sys.argv[1])
faces = recognizer(sys.argv[2])
image = mrcar_timm.images.to_rgb(sys.argv[2])
tracked = mrcar_timm.FaceTracker(recognizer)(image, 0.0)
assert [face.expression for face in tracked] == [face.expression for face in faces]
mrcar_timm.drawing.annotate(image, faces)
print(json.dumps({
    "faces": [face.to_dict() for face in faces],
    "modules": sorted({name.split(".")[0] for name in sys.modules}),
    "megabytes": psutil.Process().memory_info().rss / 1e6,
}))
"""


def alone(*args):
    """What a Python process of its own prints; it must succeed."""
    done = subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_photo_to_expressions_without_pytorch(exported, recognizer):
    """As with PyTorch, in a process of its own that is light."""
    found = json.loads(alone("-c", ALONE, exported, EXAMPLES / "group.jpg"))
    assert not {"torch", "torchvision", "timm", "facenet_pytorch", "onnx", "typer"} & set(found["modules"])
    assert found["megabytes"] < 200
    faces = recognizer(EXAMPLES / "group.jpg")
    assert len(found["faces"]) == len(faces)
    for face, expected in zip(found["faces"], faces, strict=True):
        assert face["expression"] == expected.expression
        assert face["probabilities"] == pytest.approx(expected.probabilities, abs=0.01)
        assert np.abs(np.subtract(face["landmarks"], expected.landmarks)).max() < 1


def test_example(exported, portrait, tmp_path):
    """It imports nothing else, has thirty lines of code, and says what the recognizer says."""
    portrait.crop((168, 52, 284, 168)).save(tmp_path / "face.png")
    printed = alone(exported / "example.py", tmp_path / "face.png").split()
    said = dict(zip(printed[::2], printed[1::2], strict=True))
    assert float(said["happiness"].rstrip("%")) > 90
    assert float(said["face:"].rstrip("%")) > 99
    lines = (exported / "example.py").read_text(encoding="utf-8").splitlines()
    code = [line for line in lines[5:] if line.strip() and not line.strip().startswith("#")]
    assert len(code) <= 30
    imports = {line.split()[1].split(".")[0] for line in code if line.startswith(("import", "from"))}
    assert imports - sys.stdlib_module_names == {"numpy", "onnxruntime", "PIL"}


def test_networks_of_the_detector(exported, portrait):
    """Each gives what facenet-pytorch's gives, for real crops and random boxes."""
    ours, theirs = OnnxNetworks(read_export(exported)), TorchNetworks()
    image = np.asarray(portrait)
    for side, net in ((24, "rnet"), (48, "onet")):
        corners = np.random.default_rng(0).integers(0, 460, (40, 2))
        crops = np.stack([image[y : y + side, x : x + side] for x, y in corners])
        for a, b in zip(getattr(ours, net)(crops), getattr(theirs, net)(crops), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
    for shape in ((150, 200), (151, 97), (12, 12)):
        pixels = image[: shape[0], 100 : 100 + shape[1]].astype(np.float32)
        for a, b in zip(ours.pnet(pixels), theirs.pnet(pixels), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
    corners = np.random.default_rng(1).random((500, 2), np.float32) * 100
    boxes = np.concatenate([corners, corners + 5 + np.random.default_rng(2).random((500, 2), np.float32) * 40], 1)
    scores = np.random.default_rng(3).random(500, np.float32)
    kept = ours.nms(boxes, scores, 0.5)
    np.testing.assert_array_equal(kept, nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.5))
    np.testing.assert_array_equal(kept, theirs.nms(boxes, scores, 0.5))
    for size in ((300, 301), (77, 200), (1, 1)):
        apart = np.abs(ours.resize(image, *size).astype(int) - theirs.resize(image, *size))
        assert apart.max() <= 1
        assert (apart > 0).mean() < 0.01


def test_the_same_faces_as_with_pytorch(exported):
    """In plain photos and in clutter, all and the largest, of any angle, and followed."""
    plain, other = MTCNNDetector(), runtime.load_detector(exported)
    group = np.asarray(Image.open(EXAMPLES / "group.jpg").convert("RGB"))
    cluttered = composed(12, (900, 700), 3, (40, 110), cluttered=True)[0]
    for image in (group, cluttered, group[:40, :40]):
        expected, found = plain(image), other(image)
        assert len(found) == len(expected)
        if len(found):
            shared = overlaps(found.boxes, expected.boxes)
            assert (shared.max(1) > 0.7).all()
            apart = np.abs(found.landmarks - expected.landmarks[shared.argmax(1)]).max((1, 2))
            assert (apart < 0.03 * (found.boxes[:, 3] - found.boxes[:, 1]) + 0.5).all()
            one = other.largest(image)
            assert overlaps(one.boxes, plain.largest(image).boxes)[0, 0] > 0.7
    turned = np.ascontiguousarray(np.rot90(group))
    assert len(runtime.load_detector(exported, any_angle=True)(turned)) == 5
    known = plain(group).landmarks
    np.testing.assert_allclose(other.follow(group, known).landmarks, plain.follow(group, known).landmarks, atol=0.1)
    with pytest.raises(ValueError, match="runs on the CPU"):
        other.to("cuda")


def test_recognizer_with_either_backend(exported, recognizer):
    """ONNX Runtime for a registered network, which is exported into the cache, and for an exported folder."""
    assert recognizer.backend == "torch"
    expected = recognizer(EXAMPLES / "group.jpg")
    ways = [
        ExpressionRecognizer(backend="onnx"),
        ExpressionRecognizer(backend="auto"),
        ExpressionRecognizer(exported),
        ExpressionRecognizer(str(exported), backend="auto"),
    ]
    for way in ways:
        assert way.backend == "onnx"
        for face, other in zip(way(EXAMPLES / "group.jpg"), expected, strict=True):
            assert face.probabilities == pytest.approx(other.probabilities, abs=1e-4)
        assert way.to("cpu") is way
        with pytest.raises(ValueError, match="runs on the CPU"):
            way.to("cuda")
    regions = recognizer.regions(EXAMPLES / "collins.jpg").astype(np.float64) * 0.25 + 0.5  # of whichever type
    expected = recognizer.probabilities(torch.from_numpy(regions))
    np.testing.assert_allclose(ways[-1].probabilities(regions), expected, atol=1e-4)
    seven = ExpressionRecognizer(exported, without=["contempt"])(EXAMPLES / "collins.jpg")[0]
    assert sum(seven.probabilities.values()) == pytest.approx(1)
    assert "contempt" not in seven.probabilities


def test_backends_from_the_command_line(exported):
    photo = EXAMPLES / "collins.jpg"
    plain, by_name, by_folder = (
        mrcar("predict", photo, "--json", *args)
        for args in ((), ("--backend", "onnx"), ("--model", exported, "--backend", "onnx"))
    )
    assert plain.returncode == by_name.returncode == by_folder.returncode == 0
    (face,) = json.loads(plain.stdout)["faces"]
    for done in (by_name, by_folder):
        (other,) = json.loads(done.stdout)["faces"]
        assert other["probabilities"] == pytest.approx(face["probabilities"], abs=2e-4)
    wrong = mrcar("predict", photo, "--model", exported, "--backend", "torch")
    assert wrong.returncode == 1
    assert "was exported for ONNX Runtime" in " ".join(wrong.stderr.split())


def test_video_with_either_backend(exported, portrait, tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 25) as writer:
        for k in range(12):
            writer.write(
                np.asarray(portrait.transform(portrait.size, Image.Transform.AFFINE, (1, 0, 3 * k, 0, 1, k))), k / 25
            )
    rows = {}
    for way, options in {"torch": (), "onnx": ("--backend", "onnx"), "folder": ("--model", exported)}.items():
        done = mrcar("video", tmp_path / "clip.mp4", "--csv", tmp_path / f"{way}.csv", *options)
        assert done.returncode == 0, done.stderr
        with open(tmp_path / f"{way}.csv", newline="", encoding="utf-8") as file:
            rows[way] = list(csv.DictReader(file))
    assert len(rows["torch"]) == 12
    for way in ("onnx", "folder"):
        for row, other in zip(rows[way], rows["torch"], strict=True):
            assert (row["expression"], row["face"]) == (other["expression"], other["face"])
            assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=2e-4)


def test_a_registered_name_means_the_registered_network(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mrcar_resnet").symlink_to(exported)
    with pytest.warns(NameWarning, match="is the registered network"):
        assert ExpressionRecognizer("mrcar_resnet").backend == "torch"
    for name in ("local-dir:mrcar_resnet", "./mrcar_resnet", Path("mrcar_resnet")):
        assert ExpressionRecognizer(name).network.name == "mrcar_mobilenet.everyday"
    assert runtime.load("mrcar_resnet").backend == "onnx"


def test_wrong_backends(exported):
    with pytest.raises(ValueError, match="backend must be one of"):
        ExpressionRecognizer(backend="tensorrt")
    with pytest.raises(ValueError, match="runs on the CPU"):
        load_backend(None, "onnx", "cuda")
    with pytest.raises(ValueError, match="was exported for ONNX Runtime"):
        load_backend(exported, "torch")


@pytest.mark.parametrize("module", ["onnxruntime", "onnx", "onnxscript"])
def test_what_is_not_installed_is_named(module, monkeypatch, tmp_path, exported):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for call in (lambda: ExpressionRecognizer(backend="onnx"), lambda: export("mrcar_resnet", tmp_path / "out")):
        with pytest.raises(MRCARError, match=r'pip install "mrcar-timm\[onnx\]"'):
            call()
    monkeypatch.setattr("mrcar_timm.backends.find_spec", lambda name: None if name == module else True)
    assert ExpressionRecognizer(backend="auto").backend == "torch"
    if module == "onnxruntime":
        with pytest.raises(MRCARError, match=r'pip install "mrcar-timm\[onnx\]"'):
            runtime.load(exported)
    else:
        assert runtime.load(exported).backend == "onnx"  # to run, neither is needed


def test_what_cannot_be_exported(monkeypatch, tmp_path):
    network = made(model_name="mrcar_resnet", num_classes=2)

    def refuse(self, x):
        raise ValueError("not today")

    monkeypatch.setattr(type(network.model.split), "forward", refuse)
    with pytest.raises(ExportError, match="MRCARResNet cannot be exported: not today"):
        export(network.model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert load_backend(network.model, "auto")[1].name == "torch"
    with pytest.raises(ExportError, match="cannot be exported"):
        load_backend(network.model, "onnx")


def test_the_cache_is_filled_once_and_repaired(monkeypatch, tmp_path, model):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network = made(model_name="mrcar_resnet", stem_width=8, widths=(16, 16, 16), num_classes=2)
    made_graphs = []
    monkeypatch.setattr(cache, "network_graph", lambda net: made_graphs.append(net) or network_graph(net))
    x = np.zeros((1, 3, 3, 44, 44), np.float32)
    expected = cache.cached_session(network)(regions=x)
    cache.cached_session(network)
    assert len(made_graphs) == 1
    (file,) = (tmp_path / "mrcar_timm/onnx").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    np.testing.assert_allclose(cache.cached_session(network)(regions=x)[0], expected[0], atol=1e-6)
    assert len(made_graphs) == 2
    assert len(list(file.parent.iterdir())) == 1
    shutil.rmtree(file.parent)
    file.parent.write_text("a file where the folder should be")
    np.testing.assert_allclose(cache.cached_session(network)(regions=x)[0], expected[0], atol=1e-6)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["network.onnx", "pnet.onnx", "onet.onnx"])
@pytest.mark.parametrize("damage", [flip, lambda file: file.write_bytes(b""), lambda file: file.unlink()])
def test_damaged_files(copy, name, damage):
    """Of what is used the file and the reason are named; nothing is inferred from it."""
    damage(copy / name)
    with pytest.raises(WeightsError, match=f"{name} is (damaged|missing)"):
        runtime.load(copy)(EXAMPLES / "collins.jpg")
    if (copy / name).exists():
        with pytest.raises(DamagedWeightsError) as caught:
            runtime.load(copy)(EXAMPLES / "collins.jpg")
        assert caught.value.path == copy / name


def test_foreign_folders(copy, tmp_path):
    with pytest.raises(WeightsError, match="holds no exported network"):
        runtime.load(tmp_path / "nothing")
    (copy / "network.onnx").write_bytes(b"no graph at all")
    record = json.loads((copy / "export.json").read_text(encoding="utf-8"))
    record["files"]["network.onnx"] = hashlib.sha256(b"no graph at all").hexdigest()
    (copy / "export.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ExportError, match=r"network\.onnx cannot be run by ONNX Runtime"):
        runtime.load(copy)(EXAMPLES / "collins.jpg")
    for change, message in (
        ({"format": 99}, "has format 99"),
        ({"size": [112]}, "is damaged"),
        ({"files": {}}, "says nothing of"),
    ):
        (copy / "export.json").write_text(json.dumps({**record, **change}), encoding="utf-8")
        with pytest.raises((WeightsError, ExportError), match=message):
            runtime.load(copy)
    (copy / "export.json").write_text("{", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"export\.json is damaged"):
        ExpressionRecognizer(copy)
    (copy / "export.json").unlink()
    with pytest.raises(WeightsError, match="holds no exported network"):
        ExpressionRecognizer(copy)


def test_what_else_takes_networks_says_that_it_is_exported(exported, fer_folder):
    done = mrcar("eval", "--data", fer_folder, "--model", exported)
    assert done.returncode == 1
    assert "was exported for ONNX Runtime, to use alone" in " ".join(done.stderr.split())


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/network.onnx").write_text("mine, too")
    for folder in (tmp_path, tmp_path / "precious.txt", tmp_path / "own"):
        with pytest.raises(ExportError, match="holds something else"):
            export("mrcar_resnet", folder)
    assert {file.name for file in tmp_path.rglob("*")} == {"precious.txt", "own", "network.onnx"}
    assert (tmp_path / "own/network.onnx").read_text() == "mine, too"


def test_an_interrupted_export_can_be_done_again(copy, tmp_path, monkeypatch):
    """Over another export what is left of it is not taken for whole; a new folder is there at once or not at all."""
    files = {"network.onnx": b"new", "export.json": b"{}"}

    def interrupted(self, target):
        if self.name in ("export.json", f".new.{os.getpid()}.tmp"):
            raise KeyboardInterrupt
        os.replace(self, target)

    with monkeypatch.context() as patched:
        for name in ("replace", "rename"):
            patched.setattr(Path, name, interrupted)
        for folder in (tmp_path / "new", copy):
            with pytest.raises(KeyboardInterrupt):
                write_export(folder, files)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    with pytest.raises(DamagedWeightsError, match=r"network\.onnx"):
        runtime.load(copy)(EXAMPLES / "collins.jpg")
    (tmp_path / "new").mkdir()
    for folder in (tmp_path / "new", copy):
        write_export(folder, files)
        assert (folder / "network.onnx").read_bytes() == b"new"
        assert (folder / "export.json").read_bytes() == b"{}"
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "new"}


def _logits(session, values, results):
    results.put(session(regions=values)[0])


@pytest.mark.parametrize("start", multiprocessing.get_all_start_methods())
def test_sessions_in_other_processes(exported, start):
    """Threads do not survive a fork; a session does, and it can be pickled."""
    session = read_export(exported).session()
    values = np.zeros((3, 3, 3, 112, 112), np.float32)
    (expected,) = session(regions=values)
    context = multiprocessing.get_context(start)
    results = context.Queue()
    process = context.Process(target=_logits, args=(session, values, results))
    process.start()
    np.testing.assert_allclose(results.get(timeout=60), expected, atol=1e-5)
    process.join(timeout=60)
    assert process.exitcode == 0
    assert len(pickle.dumps(session)) < 1000


def test_snippets_of_the_document(exported, portrait, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("out").symlink_to(exported)
    shutil.copy(EXAMPLES / "collins.jpg", "photo.jpg")
    portrait.crop((168, 52, 284, 168)).save("face.png")
    text = (EXAMPLES.parent / "docs/deploy.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len(snippets) == 2
    for snippet in snippets:
        exec(compile(snippet, "docs/deploy.md", "exec"), {})
        assert "happiness" in capsys.readouterr().out


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twenty-five faces in six photos, one of them damaged."""
    folder = tmp_path_factory.mktemp("photos")
    for k in range(5):
        with Image.open(EXAMPLES / "group.jpg") as image:
            image.convert("RGB").point(lambda v, k=k: v * (1 - 0.1 * k)).save(folder / f"{k}.png")
    (folder / "damaged.jpg").write_bytes(b"no image")
    return folder


@pytest.mark.slow
def test_8_bits_calibrated_by_photos(photos, recognizer, tmp_path):
    done = mrcar("export", "mrcar_mobilenet.everyday", "--out", tmp_path / "out", "--int8", "--images", photos)
    assert done.returncode == 0, done.stderr
    folder = read_export(tmp_path / "out")
    assert (folder.precision, folder.record["scores"]) == ("int8", None)
    assert folder.record["calibration"] == {"faces": 25, "of": "photos"}
    assert (tmp_path / "out/network.onnx").stat().st_size < 6e6
    network = load_network("mrcar_mobilenet.everyday")
    regions = regions_of_photos(network, [photos])
    with torch.inference_mode():
        expected = network.model(torch.from_numpy(regions)).softmax(1).numpy()
    (logits,) = folder.session()(regions=regions)
    found = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert 0 < np.abs(found - expected).max() < 0.1
    (logits,) = folder.session("network_face.onnx")(faces=regions[:, 0])
    with torch.inference_mode():
        expected = network.model(torch.from_numpy(regions[:, 0])).numpy()
    assert (logits.argmax(1) == expected.argmax(1)).all()
    (face,) = runtime.load(tmp_path / "out")(EXAMPLES / "collins.jpg")
    assert face.probability == pytest.approx(recognizer(EXAMPLES / "collins.jpg")[0].probability, abs=0.05)


def test_8_bits_need_faces(tmp_path):
    with pytest.raises(ExportError, match="need faces"):
        export("mrcar_resnet", tmp_path / "out", int8=True)
    with pytest.raises(ExportError, match=r"1 faces in 1 photos; 20 at least"):
        export("mrcar_resnet", tmp_path / "out", int8=True, images=[EXAMPLES / "collins.jpg"])


@pytest.mark.slow
def test_8_bits_scored_on_a_data_set(fer_folder, tmp_path):
    """Both precisions are scored on the validation split, as `mrcar eval` scores the network."""
    out = tmp_path / "out"
    done = mrcar("export", "mrcar_resnet.fer2013", "--out", out, "--int8", "--data", fer_folder)
    assert done.returncode == 0, done.stderr
    scores = read_export(out).record["scores"]
    assert (scores["split"], scores["float32"]["count"], scores["int8"]["count"]) == ("validation", 6, 6)
    assert {"accuracy", "macro_f1", "ece"} <= scores["int8"].keys()
    assert 0 <= scores["probabilities_apart"]["mean"] <= scores["probabilities_apart"]["most"] < 0.5
    assert "the likeliest class is the same" in " ".join(done.stdout.split())
    done = mrcar("eval", "--data", fer_folder, "--model", "mrcar_resnet.fer2013", "--out", tmp_path / "scores")
    rows = json.loads((tmp_path / "scores/scores.json").read_text(encoding="utf-8"))["rows"]
    (row,) = (row for row in rows if (row["protocol"], row["subset"]) == ("one", "all"))
    assert scores["float32"]["accuracy"] == row["accuracy"]


@pytest.mark.slow
def test_a_run_is_exported(tmp_path, fer_folder):
    done = mrcar(
        "train", "--data", fer_folder, "--run", tmp_path / "run", "--epochs", "1", "--set", "batch_size=8",
        "--set", 'model_args={"stem_width": 8, "widths": [16, 16, 16]}',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = mrcar("export", tmp_path / "run", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    network, folder = load_network(tmp_path / "run"), read_export(tmp_path / "out")
    assert folder.labels == network.labels
    assert_parity(network, folder.session(), folder.session("network_face.onnx"))
    again = mrcar("export", tmp_path / "run", "--out", tmp_path / "out")
    assert again.returncode == 0
