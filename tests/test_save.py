"""Networks to folders and back, bit for bit; and the model cards that go with them."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import timm
import torch
import transformers
from huggingface_hub import ModelCard
from results import cards
from torch import nn

from mrcar_timm.cli.training import evaluate
from mrcar_timm.errors import WeightsError
from mrcar_timm.hub import save
from mrcar_timm.checkpoints.record import CHECKPOINTS
from mrcar_timm.models.inference import fold_for_inference
from mrcar_timm.network import load_network
from mrcar_timm.models.mrcar_resnet import MRCARResNet
from mrcar_timm.checkpoints.weights_file import read_weights
from mrcar_timm.training.package import package_run

from .conftest import EXAMPLES
from .test_training import SMALL, trainer_of

LETTERS = tuple("abcdefgh")


def made(seed: int = 0, **kwargs) -> nn.Module:
    """A network none of whose tensors is what a new one has."""
    torch.manual_seed(seed)
    net = timm.create_model("mrcar_resnet", **kwargs)
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
    shapes = (2, inner.in_chans, 44, 44), (2, len(inner.regions), inner.in_chans, 44, 44)
    with torch.inference_mode():
        given = [net(torch.randn(shape, generator=generator)) for shape in shapes]
    return [level for each in given for level in (each if isinstance(each, list) else [each])]


def assert_same(net: nn.Module, folder) -> nn.Module:
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    for one, other in zip(outputs(net), outputs(again), strict=True):
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
    assert "My own images." in card.text
    assert again.num_classes == net.num_classes
    assert record.sha256 == read_weights(tmp_path / "model.safetensors").digest
    assert again.pretrained_cfg["input_size"][0] == net.in_chans
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
        ({"features_only": True, "out_indices": (1,)}, r"\[\(1, 384, 11, 11\)\]"),
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
    assert len(snippets) == 1 + (classes > 0) + (classes > 0 and "face" in net.regions and net.in_chans == 3)


def test_fine_tuning_goes_on_from_what_was_saved(tmp_path):
    net = made(num_classes=5, in_chans=1)
    save(net, tmp_path, "me/net", labels=LETTERS[:5])
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=2).eval()
    assert other.num_classes == 2
    assert torch.equal(other.forward_features(torch.ones(1, 1, 44, 44)), net.forward_features(torch.ones(1, 1, 44, 44)))


def test_transformers_gives_the_same(tmp_path):
    for number, kwargs in enumerate([{"num_classes": 5, "in_chans": 1}, {"regions": ("face",), "head": "linear"}]):
        net = made(**kwargs)
        save(net, tmp_path / f"{number}", "me/net", labels=LETTERS[: net.num_classes])
        again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / f"{number}").eval()
        x = torch.rand(2, net.in_chans, 44, 44)
        with torch.inference_mode():
            assert torch.equal(again(x).logits, net(x))
        assert tuple(again.config.id2label.values()) == LETTERS[: net.num_classes]
    net = made(num_classes=0)
    save(net, tmp_path / "features", "me/net")
    again = transformers.AutoModel.from_pretrained(tmp_path / "features").eval()
    with torch.inference_mode():
        assert torch.equal(again(torch.ones(1, 3, 44, 44)).pooler_output, net(torch.ones(1, 3, 44, 44)))


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(WeightsError, match="act_layer=SiLU cannot be written to a file"):
        save(made(act_layer=nn.SiLU), tmp_path / "a", "me/net", labels=LETTERS[:7])
    folded = made()
    fold_for_inference(folded)
    with pytest.raises(WeightsError, match="folded"):
        save(folded, tmp_path / "a", "me/net")
    with pytest.raises(WeightsError, match="not made by timm"):  # it knows neither its input nor its normalisation
        save(MRCARResNet(), tmp_path / "a", "me/net", labels=LETTERS[:7])
    with pytest.raises(WeightsError, match="expected an MRCARResNet"):
        save(nn.Linear(2, 2), tmp_path / "a", "me/net")
    for labels in (("a", "b"), ("a",) * 5, (*LETTERS[:5], "a"), None):
        with pytest.raises(ValueError, match="expected 5 different labels"):
            save(made(num_classes=5), tmp_path / "a", "me/net", labels=labels)
    with pytest.raises(ValueError, match="labels, temperature, license and data go with a module"):
        save("mrcar_resnet", tmp_path / "a", "me/net", labels=LETTERS[:7])
    assert not (tmp_path / "a").exists()


@pytest.fixture
def run(fer_folder, tmp_path):
    """A run on grey images, and what it scored on validation."""
    trainer_of(replace(SMALL, scale=9.0, size=32), fer_folder, tmp_path / "run").fit()
    evaluate(fer_folder, str(tmp_path / "run"), "validation", "ten", out=tmp_path / "run/validation")
    return tmp_path / "run"


def test_a_run_is_saved_in_colour_with_its_scores(run, tmp_path):
    record = save(run, tmp_path / "saved", "me/smile")
    grey, colour = load_network(run), load_network(tmp_path / "saved")
    assert (grey.model.in_chans, colour.model.in_chans) == (1, 3)
    assert colour.size == grey.size == (32, 32)
    assert (colour.labels, round(grey.temperature, 4)) == (grey.labels, colour.temperature)
    x = torch.rand(2, 3, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(colour.model(x.expand(-1, -1, 3, -1, -1)), grey.model(x), atol=1e-4, rtol=1e-4)
    said = json.loads((run / "validation/scores.json").read_text())["rows"]
    assert record.scores == {"validation": {"ten, all": said[0]["accuracy"]}}
    assert record.counts == {"validation": {"ten, all": 6}}
    text = (tmp_path / "saved/README.md").read_text()
    assert f"| ten crops | {said[0]['accuracy']:.2%} ± " in text
    assert "MultiRegionTransform(size=32)" in text
    assert record.data == "FER2013, split train, less images that stand in validation or test"


def test_scores_of_other_weights_are_not_taken_over(run, tmp_path):
    scores = run / "validation/scores.json"
    scores.write_text(scores.read_text().replace(load_network(run).sha256, "0" * 64))
    with pytest.raises(WeightsError, match="scores of other weights"):
        save(run, tmp_path / "saved", "me/smile")


def test_names_that_cannot_say_what_a_run_has_are_not_packaged(run, tmp_path):
    with pytest.raises(WeightsError, match="has model_args"):
        package_run(run, tmp_path / "weights", "mrcar_resnet.small")


def test_a_packaged_file_and_a_saved_folder_are_saved_again(fer_folder, tmp_path):
    trainer_of(replace(SMALL, model_args={}, epochs=1), fer_folder, tmp_path / "run").fit()
    record = package_run(tmp_path / "run", tmp_path / "weights", "mrcar_resnet.small")
    save(tmp_path / "weights/mrcar_resnet.small.safetensors", tmp_path / "one", "me/small")
    save(tmp_path / "one", tmp_path / "two", "me/small")
    for folder in ("one", "two"):
        assert load_network(tmp_path / folder).sha256 == record.sha256
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_record_of_a_run_that_started_from_what_was_saved(fer_folder, tmp_path):
    recipe = replace(SMALL, epochs=1, seed=5)
    trainer_of(recipe, fer_folder, tmp_path / "first").fit()
    save(tmp_path / "first", tmp_path / "saved", "me/first")
    trainer_of(replace(SMALL, epochs=1, init=str(tmp_path / "saved")), fer_folder, tmp_path / "second").fit()
    record = save(tmp_path / "second", tmp_path / "again", "me/second")
    assert record.recipe["init"]["seed"] == 5
    assert record.recipe["init"]["best_epoch"] == 1


@pytest.mark.parametrize("name", CHECKPOINTS)
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
        for key, accuracy in scores.items():
            protocol, images = key.split(", ")
            title = titles[protocol] + (", without duplicates of the training set" if images != "all" else "")
            assert told.pop((split, title)) == pytest.approx(accuracy, abs=5e-5)
            assert f"| {title} |" in card.text
            assert f"{accuracy:.2%}" in card.text
    assert not told
    for text in ("non-commercial research", "Article 5(1)(f)", "not what a person feels", "10.1109/ACCESS.2023.3285781",
                 "on Kaggle", "Known biases and limits", record.sha256, str(record.temperature)):  # fmt: skip
        assert text in card.text, text
    assert ("MIT License" in card.text) == ("FER+" in record.data)


@pytest.mark.parametrize("name", cards.NAMES)
def test_cards_say_what_the_records_say(name):
    """Rendered anew, they are the files that lie in results/cards."""
    assert cards.render(name) == (cards.HERE / "cards" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", cards.NAMES)
def test_spread_and_recall_by_hand(name):
    record = CHECKPOINTS[name]
    text = cards.render(name)
    counts = torch.tensor(record.confusion["test"])
    right, total = counts.diagonal().sum().item(), counts.sum().item()
    accuracy = right / total
    assert accuracy == pytest.approx(record.scores["test"]["ten, all"])
    assert f"{accuracy:.2%} ± {(accuracy * (1 - accuracy) / total) ** 0.5 * 100:.2f} ({total:,})" in text
    for index, label in enumerate(record.labels):
        assert f"{label} {counts[index, index].item() / counts[index].sum().item():.0%}" in text
    wrong = counts.clone().fill_diagonal_(0) / counts.sum(1, keepdim=True)
    truth, answer = divmod(wrong.argmax().item(), len(counts))
    found = re.search(r"Most often taken for another: (\w+) for (\w+)", text)
    assert found.groups() == (record.labels[truth], record.labels[answer])
