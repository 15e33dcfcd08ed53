"""Networks to folders and back, bit for bit; and the model cards that go with them."""

import json
import re
import shutil

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import transformers
from huggingface_hub import ModelCard
from tools import tables
from torch import nn

from mrcar_timm import ExpressionRecognizer, evaluate
from mrcar_timm.checkpoints.packaged import PACKAGED
from mrcar_timm.checkpoints.record import Record
from mrcar_timm.checkpoints.weights_file import read_weights
from mrcar_timm.errors import WeightsError
from mrcar_timm.hub import save
from mrcar_timm.models.inference import optimize_for_inference
from mrcar_timm.models.mrcar_resnet import MRCARResNet
from mrcar_timm.network import load_network

from .command import mrcar
from .conftest import EXAMPLES, ROOT, SMALL, replaced, trainer_of

LETTERS = tuple("abcdefgh")


def made(seed: int = 0, **kwargs) -> nn.Module:
    """A network none of whose tensors is what a new one has."""
    torch.manual_seed(seed)
    net = timm.create_model("mrcar_resnet", **{"stem_width": 16, "widths": (16, 24, 32), **kwargs})
    inner = getattr(net, "model", net)
    inner.init_weights(zero_init_last=False)
    for module in inner.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return net.eval()


def outputs(net: nn.Module) -> list[torch.Tensor]:
    """Of faces and of regions."""
    inner = getattr(net, "model", net)
    generator = torch.Generator().manual_seed(3)
    shapes = (2, 1, 44, 44), (2, len(inner.regions), 1, 44, 44)
    with torch.inference_mode():
        images = [torch.randn(shape, generator=generator) for shape in shapes]
        given = [net(x.expand(*x.shape[:-3], inner.in_chans, 44, 44)) for x in images]
    return [level for each in given for level in (each if isinstance(each, list) else [each])]


def assert_same(net: nn.Module, folder) -> nn.Module:
    """Bit for bit, except that networks for grey images come back for three channels, whose sums round otherwise."""
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    channels = getattr(net, "model", net).in_chans
    assert getattr(again, "model", again).in_chans == (3 if channels == 1 else channels)
    for one, other in zip(outputs(net), outputs(again), strict=True):
        if channels == 1:
            torch.testing.assert_close(one, other)
        else:
            assert torch.equal(one, other)
    return again


@pytest.mark.parametrize(
    "kwargs",
    [
        {"num_classes": 5},
        {"in_chans": 1},
        {"in_chans": 4, "num_classes": 2},
        {"regions": ("face",)},
        {"regions": ("mouth", "eyes")},
        {"attn_layer": "none"},
        {"attn_layer": "se"},
        {"head": "linear", "num_classes": 8},
        {"shared": True, "in_chans": 1},
        {"margin": 0.3, "scale": 30.0},
        {"widths": (16, 24, 32), "depths": (2, 1, 1), "stem_width": 8, "rd_ratio": 0.5, "embed_dim": 12},
        {"widths": (16, 24), "depths": (1, 1), "global_pool": "max"},
        {"embed_dim": 0},
        {"drop_rate": 0.3, "drop_path_rate": 0.2},
        {"num_classes": 0},
        {"num_classes": 0, "global_pool": ""},
    ],
    ids=str,
)
def test_round_trip(kwargs, tmp_path):
    net = made(**kwargs)
    about = {"license": "mit", "data": "My own images"}
    record = save(net, tmp_path, "me/net", labels=LETTERS[: net.num_classes], **about)
    again = assert_same(net, tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == record.license == "mit"
    assert "| My own images |" in card.text
    assert again.num_classes == net.num_classes
    assert record.sha256 == read_weights(tmp_path / "model.safetensors").digest
    assert again.pretrained_cfg["input_size"][0] == (3 if net.in_chans == 1 else net.in_chans)
    assert tuple(again.pretrained_cfg.get("label_names", ())) == LETTERS[: net.num_classes]
    if net.num_classes:
        assert load_network(tmp_path).labels == LETTERS[: net.num_classes]


@pytest.mark.parametrize(
    "resets",
    [((3,),), ((0,),), ((0, ""),), ((0, ""), (4,)), ((5, "max"),), ((0, ""), (2, "avgmax")), ((0,), (7,))],
    ids=str,
)
def test_round_trip_of_a_head_that_was_reset(resets, tmp_path):
    net = made()
    for reset in resets:
        net.reset_classifier(*reset)
    save(net, tmp_path, "me/net", labels=LETTERS[: net.num_classes])
    assert_same(net, tmp_path)


@pytest.mark.parametrize("indices", [None, (0, 1), (2,), (-1,), (1, 3)], ids=str)
def test_round_trip_of_features(indices, tmp_path):
    """Saved as features, and made from a whole network that was saved."""
    kwargs = {"features_only": True} | ({} if indices is None else {"out_indices": indices})
    net = made(in_chans=1, **kwargs)
    save(net, tmp_path / "features", "me/features")
    assert_same(net, tmp_path / "features")
    whole = made(num_classes=3)
    save(whole, tmp_path / "whole", "me/whole", labels=LETTERS[:3])
    again = timm.create_model(f"local-dir:{tmp_path / 'whole'}", pretrained=True, **kwargs).eval()
    with torch.inference_mode():
        x = torch.rand(2, 3, 44, 44)
        for one, other in zip(again(x), whole.forward_intermediates(x, indices, intermediates_only=True), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("kwargs", "prints"),
    [
        ({"num_classes": 3, "in_chans": 1}, r"[abc]"),
        ({"regions": ("face",), "pretrained_cfg_overlay": {"input_size": (3, 64, 64)}}, r"[a-g]"),
        ({"regions": ("mouth", "eyes")}, r"[a-g]"),
        ({"num_classes": 0}, r"torch\.Size\(\[1, 256\]\)"),
        ({"features_only": True, "out_indices": (1,)}, r"\[\(1, 48, 11, 11\)\]"),
    ],
    ids=str,
)
def test_snippets_of_cards_of_all_kinds_run(kwargs, prints, tmp_path, capsys, monkeypatch):
    """Those of the packaged weights run against a Hub, in the tests of publishing."""
    net = made(**kwargs)
    classes = getattr(net, "num_classes", 0)
    save(net, tmp_path / "net", "me/net", labels=LETTERS[:classes])
    shutil.copy(EXAMPLES / "collins.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    text = ModelCard.load(tmp_path / "net/README.md").text
    snippets = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    for snippet in snippets[:2]:  # the third is for transformers, which takes no folder named like this
        exec(snippet.replace("hf-hub:me/net", "local-dir:net"), {})
        assert re.match(prints, capsys.readouterr().out)
    assert len(snippets) == 1 + (classes > 0) + (classes > 0 and "face" in net.regions)


def test_fine_tuning_goes_on_from_what_was_saved(tmp_path):
    net = made(num_classes=5, in_chans=1)
    save(net, tmp_path, "me/net", labels=LETTERS[:5])
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=2).eval()
    assert other.num_classes == 2
    x = torch.rand(1, 1, 44, 44)
    torch.testing.assert_close(other.forward_features(x.expand(-1, 3, -1, -1)), net.forward_features(x))


def test_transformers_gives_the_same(tmp_path):
    for number, kwargs in enumerate([{"num_classes": 5, "in_chans": 1}, {"regions": ("face",), "head": "linear"}]):
        net = made(**kwargs)
        save(net, tmp_path / f"{number}", "me/net", labels=LETTERS[: net.num_classes])
        again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / f"{number}").eval()
        x = torch.rand(2, 1, 44, 44)
        with torch.inference_mode():  # which maps tensors to other alignments, so that sums differ in the last bits
            logits = again(x.expand(-1, 3, -1, -1)).logits
            torch.testing.assert_close(logits, net(x.expand(-1, net.in_chans, -1, -1)))
        assert tuple(again.config.id2label.values()) == LETTERS[: net.num_classes]
    net = made(num_classes=0)
    save(net, tmp_path / "features", "me/net")
    again = transformers.AutoModel.from_pretrained(tmp_path / "features").eval()
    with torch.inference_mode():
        x = torch.ones(1, 3, 44, 44)
        torch.testing.assert_close(again(x).pooler_output, net(x))


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(WeightsError, match="act_layer=SiLU cannot be written to a file"):
        save(made(act_layer=nn.SiLU), tmp_path / "a", "me/net", labels=LETTERS[:7])
    with pytest.raises(WeightsError, match="InferenceNetwork cannot be saved"):
        save(optimize_for_inference(made()), tmp_path / "a", "me/net")
    with pytest.raises(WeightsError, match="not made by timm"):  # it knows neither its input nor its normalization
        save(MRCARResNet(), tmp_path / "a", "me/net", labels=LETTERS[:7])
    with pytest.raises(WeightsError, match="Linear cannot be saved"):
        save(nn.Linear(2, 2), tmp_path / "a", "me/net")
    for labels in (("a", "b"), ("a",) * 5, (*LETTERS[:5], "a"), None):
        with pytest.raises(ValueError, match="expected 5 different labels"):
            save(made(num_classes=5), tmp_path / "a", "me/net", labels=labels)
    with pytest.raises(ValueError, match="labels, temperature, license and data go with a module"):
        save("mrcar_resnet", tmp_path / "a", "me/net", labels=LETTERS[:7])
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("head", ["arcface", "linear"])
def test_the_temperature_is_in_the_head(head, tmp_path):
    """Whichever way the network is loaded, softmax gives what softmax of the logits over T gave."""
    net = made(num_classes=3, head=head)
    save(net, tmp_path / "net", "me/net", labels=LETTERS[:3], temperature=0.6)
    x = torch.rand(4, 3, 3, 44, 44)
    with torch.inference_mode():
        expected = (net(x) / 0.6).softmax(1)
        face = x[:, 0]
        of_face = (net(face) / 0.6).softmax(1)
        ways = [
            timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True).eval(),
            load_network(tmp_path / "net").model,
            optimize_for_inference(load_network(tmp_path / "net").model),
        ]
        for way in ways:
            torch.testing.assert_close(way(x).softmax(1), expected, atol=1e-5, rtol=1e-4)
        again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "net").eval()
        torch.testing.assert_close(again(face).logits.softmax(1), of_face, atol=1e-5, rtol=1e-4)
    recognizer = ExpressionRecognizer(tmp_path / "net")
    # Exposure is normalized where values span little: these span all.
    ramps = (4 * torch.linspace(0, 1, 44) - 2).expand(4, 3, 3, 44, 44)
    with torch.inference_mode():
        expected = (net(ramps) / 0.6).softmax(1)
    found = recognizer.probabilities((ramps * 0.25 + 0.5).numpy())
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-4)
    assert "temperature" not in (tmp_path / "net/config.json").read_text()
    assert "temperature" not in (tmp_path / "net/record.json").read_text()
    with pytest.raises(ValueError, match="temperature must be a positive number"):
        save(net, tmp_path / "other", "me/net", labels=LETTERS[:3], temperature=0.0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("mrcar_mobilenet", 112), ("mrcar_resnet", 44)])
def test_every_way_gives_the_same_calibrated_probabilities(name, size, tmp_path):
    """timm, torch.hub, transformers, ONNX and the recognizer, for an aligned face and the default weights."""
    save(name, tmp_path / "net", "me/net")
    model = timm.create_model(name, pretrained=True).eval()
    # Values that span enough to stay as they are.
    face = torch.rand(2, 3, size // 4, size // 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    x = (face - 0.5) / 0.25
    file = tmp_path / "net.onnx"
    torch.onnx.export(model, (x,), file, input_names=["x"], dynamo=True)
    of_transformers = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "net").eval()
    with torch.inference_mode():
        found = {
            "timm": model(x),
            "timm, folder": timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True).eval()(x),
            "torch.hub": torch.hub.load(str(ROOT), name, source="local", pretrained=True).eval()(x),
            "transformers": of_transformers(x).logits,
            "ONNX": torch.from_numpy(onnxruntime.InferenceSession(file).run(None, {"x": x.numpy()})[0]),
        }
        regions = model.split(face)
    expected = ExpressionRecognizer(name).probabilities(regions.numpy())
    for way, logits in found.items():
        assert np.abs(logits.softmax(1).numpy() - expected).max() < 1e-5, way


@pytest.fixture(scope="module")
def run(make_fer_folder, tmp_path_factory):
    """A run on grey images, and what it scored on validation."""
    folder = tmp_path_factory.mktemp("saved_run")
    data = make_fer_folder(folder)
    trainer_of(replaced(SMALL, scale=9.0, size=32), data, folder / "run").fit()
    scored = ("--protocol", "ten", "--out", folder / "run/validation")
    done = mrcar("eval", "--data", data, "--model", folder / "run", *scored)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_a_run_folder_goes_everywhere(run, portrait, tmp_path):
    """What training writes is what timm, the recognizer, evaluation and publishing take."""
    network = load_network(run)
    of_timm = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
    assert (of_timm.in_chans, of_timm.pretrained_cfg["label_names"]) == (3, list(network.labels))
    x = torch.rand(2, 3, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(of_timm(x), network.model(x))
    assert ExpressionRecognizer(run)(portrait)[0].expression in network.labels
    found = evaluate(network, run.parent / "fer", protocols=("one", "ten"))
    stored = json.loads((run / "validation/scores.json").read_text())
    assert found.scores["ten", "all"].accuracy == stored["rows"][0]["accuracy"]
    assert stored["weights_sha256"] == found.weights_sha256 == network.sha256
    record = save(run, tmp_path / "saved", "me/smile")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "saved" / file).read_bytes() == (run / file).read_bytes()
    assert record.name == "smile"
    (row,) = record.scores["validation"].values()
    assert (row["accuracy"], row["count"]) == (stored["rows"][0]["accuracy"], 6)
    text = (tmp_path / "saved/README.md").read_text()
    assert f"| ten crops | {row['accuracy']:.2%} ± " in text
    assert "MultiRegionTransform(size=32)" in text
    assert "| FER2013 | split train, without the images that are in validation or test |" in text
    assert {file.name for file in (tmp_path / "saved").iterdir()} == {
        "README.md", "config.json", "model.safetensors", "record.json",
    }  # fmt: skip


def test_scores_of_other_weights_are_not_taken_over(run, tmp_path):
    again = shutil.copytree(run, tmp_path / "run")
    scores = again / "validation/scores.json"
    scores.write_text(scores.read_text().replace(load_network(run).sha256, "0" * 64))
    with pytest.raises(WeightsError, match="scores of other weights"):
        save(again, tmp_path / "saved", "me/smile")


def test_a_saved_folder_is_saved_again(run, tmp_path):
    save(run, tmp_path / "one", "me/small")
    save(tmp_path / "one", tmp_path / "two", "me/small")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name
    with pytest.raises(WeightsError, match="is the network itself"):
        save(tmp_path / "one", tmp_path / "one", "me/small")


def test_record_of_a_run_that_started_from_what_was_saved(run, tmp_path):
    save(run, tmp_path / "saved", "me/first")
    recipe = replaced(SMALL, epochs=1, init=str(tmp_path / "saved"), size=32)
    trainer_of(recipe, run.parent / "fer", tmp_path / "second").fit()
    first, second = save(tmp_path / "second", tmp_path / "again", "me/second").runs
    assert first == Record.read(run).runs[0]
    assert second["recipe"]["init"] == first["id"]


def test_folders_of_earlier_versions_are_refused_with_advice(run, tmp_path):
    old = shutil.copytree(run, tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps({**config, "mrcar": {"sha256": "0", "temperature": 0.9}}))
    for load in (lambda: load_network(old), lambda: timm.create_model(f"local-dir:{old}", pretrained=True)):
        with pytest.raises(WeightsError, match="format of an earlier version.*publish them again"):
            load()
    (old / "config.json").write_text(json.dumps({"recipe": {}, "classes": []}))
    with pytest.raises(WeightsError, match="run folder of an earlier version.*train again"):
        load_network(old)
    record = json.loads((run / "record.json").read_text())
    (old / "record.json").write_text(json.dumps({**record, "temperature": 0.9}))
    with pytest.raises(WeightsError, match="format of an earlier version"):
        Record.read(old)


@pytest.mark.parametrize("name", PACKAGED)
def test_card_is_read_by_the_hubs_own_parser(name, tmp_path):
    record = save(name, tmp_path, f"ORG/{name}")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "other"
    assert card.data.license_name == "non-commercial-research"
    assert card.data.library_name == "timm"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.model_name == name
    told = {(each.dataset_split, each.metric_args["protocol"]): each.metric_value for each in card.data.eval_results}
    titles = {"one": "one crop", "mirror": "mirrored pair", "ten": "ten crops"}
    for split, scores in record.scores.items():
        for key, row in scores.items():
            protocol, subset = key.split(", ")
            title = titles[protocol] + (", without duplicates of the training set" if subset != "all" else "")
            assert told.pop((split, title)) == pytest.approx(row["accuracy"], abs=5e-5)
            assert f"| {title} |" in card.text
            assert f"{row['accuracy']:.2%}" in card.text
    assert not told
    for text in ("non-commercial research", "Article 5(1)(f)", "not what a person feels", "10.1109/ACCESS.2023.3285781",
                 "on Kaggle", "Known biases and limits", record.sha256):  # fmt: skip
        assert text in card.text, text
    assert "MIT License" in card.text


@pytest.mark.parametrize("name", PACKAGED)
def test_spread_and_recall_by_hand(name):
    record = PACKAGED[name]
    text = tables.cards()[name]
    counts = torch.tensor(record.confusion["test"])
    right, total = counts.diagonal().sum().item(), counts.sum().item()
    accuracy = right / total
    assert accuracy == pytest.approx(record.scores["test"]["ten, all"]["accuracy"])
    assert f"{accuracy:.2%} ± {(accuracy * (1 - accuracy) / total) ** 0.5 * 100:.2f} ({total:,})" in text
    for index, label in enumerate(record.labels):
        assert f"{label} {counts[index, index].item() / counts[index].sum().item():.0%}" in text
    wrong = counts.clone().fill_diagonal_(0) / counts.sum(1, keepdim=True)
    truth, answer = divmod(wrong.argmax().item(), len(counts))
    found = re.search(r"Most often taken for another: (\w+) for (\w+)", text)
    assert found.groups() == (record.labels[truth], record.labels[answer])
