"""Networks with inserted attention as networks of their own: made by name, saved, published, loaded."""

import subprocess
import sys

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from mrcar_timm import (
    ExpressionRecognizer,
    UnverifiedWeightsWarning,
    WeightsError,
    hub,
    insert_attention,
    load_network,
)
from mrcar_timm.layers import CoordAttn, insertions

from .conftest import SMALL, replaced, trainer_of
from .test_insert import images, outputs, train

LABELS = ["smile", "frown", "other"]


def attended(base: str = "test_resnet", **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return train(timm.create_model("attended", base=base, num_classes=3, **kwargs)).eval()


@pytest.fixture
def folder(tmp_path):
    """A folder of a small network with attention."""
    hub.save(attended(), tmp_path / "net", "ORG/net", labels=LABELS)
    return tmp_path / "net"


def load(folder, **kwargs) -> nn.Module:
    return timm.create_model(f"local-dir:{folder}", pretrained=True, **kwargs).eval()


def same(a: nn.Module, b: nn.Module, x: torch.Tensor) -> bool:
    return all(torch.equal(*pair) for pair in zip(outputs(a, x), outputs(b, x), strict=True))


def test_attended_is_a_network_with_attention():
    torch.manual_seed(0)
    plain = timm.create_model("test_resnet", num_classes=3).eval()
    torch.manual_seed(0)
    model = timm.create_model("attended", base="test_resnet", attention="se", where="stages", num_classes=3).eval()
    assert same(model, plain, images(64))
    assert [each.module for each in insertions(model)][-1] == "layer4"
    assert model.pretrained_cfg["architecture"] == "attended"
    assert (
        timm.create_model("attended", attention_args={"rd_ratio": 0.5})
        .layer1[0]
        .bn2.inserted_attn.attn.conv1.out_channels
        == 32
    )
    assert timm.is_model("attended")
    assert "attended" not in timm.list_models(pretrained=True)


def test_weights_of_the_base_come_first(folder, tmp_path):
    plain = timm.create_model("test_resnet", num_classes=3).eval()
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    overlay = {"file": str(tmp_path / "plain.safetensors"), "num_classes": 3}
    model = timm.create_model(
        "attended", base="test_resnet", pretrained=True, num_classes=3, pretrained_cfg_overlay=overlay
    )
    assert same(model.eval(), plain, images(64))
    model = timm.create_model("attended", base=f"local-dir:{folder}", where="stages", pretrained=True).eval()
    assert same(model, load(folder), images(64))  # into one that has attention already
    hub.save(train(model), tmp_path / "more", "ORG/more", labels=LABELS)
    assert same(load(tmp_path / "more"), model, images(64))


@pytest.mark.parametrize(
    ("base", "kwargs"),
    [
        ("test_resnet", {}),
        ("test_resnet", {"attention": "cbam", "where": "stages", "neutral": False}),
        ("test_resnet", {"global_pool": "max", "drop_rate": 0.1, "in_chans": 1, "output_stride": 16}),
        ("test_mambaout", {}),
        ("regnety_002", {"where": "stages"}),
        ("densenet121", {"where": "stages", "block_config": (2, 2, 2, 2)}),
        ("mobilenetv3_small_050", {"where": "attention", "replace": True, "attention_args": {"rd_ratio": 0.25}}),
        ("test_resnet", {"where": ["layer3.*"], "attention": "coord", "attention_args": {"bias": False}}),
    ],
)
def test_round_trip(base, kwargs, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("attended", base=base, num_classes=3, **kwargs).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    hub.save(model, tmp_path / "net", "ORG/net", labels=LABELS)
    again = load(tmp_path / "net")
    assert insertions(again) == insertions(model)
    assert again.pretrained_cfg["label_names"] == LABELS
    assert same(again, model, images(64)[:, : kwargs.get("in_chans", 3)])


def test_a_network_that_attention_was_inserted_into(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3, act_layer="silu").eval()
    train(insert_attention(insert_attention(model, "coord"), "se", "stages"))
    hub.save(model, tmp_path / "net", "ORG/net")
    again = load(tmp_path / "net")
    assert {each.attention for each in insertions(again)} == {"coord", "se"}
    assert same(again, model, images(64))
    hub.save(load(tmp_path / "net"), tmp_path / "again", "ORG/net")
    assert same(load(tmp_path / "again"), model, images(64))
    hub.save(tmp_path / "net", tmp_path / "copy", "ORG/copy")
    assert same(load(tmp_path / "copy"), model, images(64))


def test_other_classes_channels_and_features(folder):
    model, x = load(folder), images(64)
    other = load(folder, num_classes=5)
    assert other(x).shape == (2, 5)
    assert same(load(folder, num_classes=0), load(folder, num_classes=0), x)
    assert torch.equal(other.forward_features(x), model.forward_features(x))
    grey = x[:, :1]
    torch.testing.assert_close(load(folder, in_chans=1)(grey), model(grey.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)
    _, levels = model.forward_intermediates(x)
    for kwargs, chosen in (({}, slice(None)), ({"out_indices": (1, 3)}, slice(1, 4, 2))):
        features = load(folder, features_only=True, **kwargs)
        for actual, expected in zip(features(x), levels[chosen], strict=True):
            torch.testing.assert_close(actual, expected)
    assert features.feature_info.channels() == [32, 192]


def test_features_are_saved_too(folder, tmp_path):
    features = load(folder, features_only=True, out_indices=(0, 2))
    hub.save(features, tmp_path / "features", "ORG/features")
    assert same(load(tmp_path / "features"), features, images(64))


def test_missing_tensors_are_an_error(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    key = "layer1.0.bn2.inserted_attn.attn.conv_h.weight"
    save_file({name: tensor for name, tensor in tensors.items() if name != key}, path)
    for kwargs in ({}, {"num_classes": 5}, {"features_only": True}):
        with (
            pytest.raises(WeightsError, match=f"lack 1 tensors of this network, among them .*{key}"),
            pytest.warns(UnverifiedWeightsWarning, match="was rewritten"),
        ):
            load(folder, **kwargs)


def test_temperature_and_calibration(tmp_path):
    model = attended()
    hub.save(model, tmp_path / "net", "ORG/net", labels=LABELS, temperature=2.0)
    torch.testing.assert_close(load(tmp_path / "net")(images(64)), model(images(64)) / 2)


def test_own_network_with_more_attention(portrait, tmp_path):
    model = timm.create_model("mrcar_resnet", pretrained=True)
    labels = model.pretrained_cfg["label_names"]
    train(insert_attention(model, "coord"))
    hub.save(model, tmp_path / "net", "ORG/net", labels=labels)
    network = load_network(tmp_path / "net")
    x = torch.rand(2, 3, 3, 44, 44)
    torch.testing.assert_close(network.model(x), model.eval()(x))
    (face,) = ExpressionRecognizer(tmp_path / "net")(portrait)
    (plain,) = ExpressionRecognizer("mrcar_resnet")(portrait)
    assert set(face.probabilities) == set(plain.probabilities)
    assert face.probabilities != plain.probabilities  # its attention counts in the folded copy too


def test_training_of_a_network_with_attention(fer_folder, tmp_path):
    model_args = {**SMALL.model_args, "base": "mrcar_resnet", "attention": "se"}
    trainer_of(replaced(SMALL, model="attended", model_args=model_args), fer_folder, tmp_path / "run").fit()
    network = load_network(tmp_path / "run")
    assert len(insertions(network.model)) == 18
    gains = [p for name, p in network.model.named_parameters() if name.endswith(".gain")]
    assert len(gains) == 18
    assert all(gain != 0 for gain in gains)


def test_what_cannot_be_saved(tmp_path):
    model = insert_attention(timm.create_model("test_resnet", num_classes=3), CoordAttn)
    with pytest.raises(WeightsError, match="cannot be described in JSON"):
        hub.save(model, tmp_path / "net", "ORG/net")
    model = insert_attention(timm.create_model("test_resnet", num_classes=3), "coord")
    model.act1 = nn.SiLU()  # which nothing tells of
    with pytest.raises(WeightsError, match="is not this one: its output is another one. Make it by timm.create_model"):
        hub.save(model, tmp_path / "net", "ORG/net")
    with pytest.raises(WeightsError, match="expected a network of this package as trained, or one with attention"):
        hub.save(timm.create_model("test_resnet"), tmp_path / "net", "ORG/net")
    assert not (tmp_path / "net").exists()
    hub.save(attended(), tmp_path / "net", "ORG/net", labels=LABELS)
    with pytest.raises(WeightsError, match="gives no expressions"):
        load_network(tmp_path / "net")


def test_card(folder):
    text = (folder / "README.md").read_text()
    assert "| `layer1.0.bn2` | coord | 32 |" in text
    assert "smile, frown, other" in text
    assert "facial" not in text
    (code,) = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    names = {}
    exec(code.replace("hf-hub:ORG/net", f"local-dir:{folder}"), names)
    assert names["output"].shape == (1, 3)


@pytest.mark.slow
def test_transformers_and_the_hub_agree(tmp_path):
    model = attended()
    hub.publish(model, "ORG/attended", labels=LABELS)
    torch.save(images(160), tmp_path / "x.pt")
    code = (
        "import sys, torch, timm, transformers, mrcar_timm\n"
        "x = torch.load(sys.argv[1])\n"
        "a = timm.create_model('hf-hub:ORG/attended', pretrained=True).eval()\n"
        "b = transformers.AutoModelForImageClassification.from_pretrained('ORG/attended').eval()\n"
        "with torch.no_grad(): torch.save([a(x), b(x).logits, list(b.config.id2label.values())], sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "x.pt", tmp_path / "y.pt"], check=True)
    by_timm, by_transformers, labels = torch.load(tmp_path / "y.pt")
    assert torch.equal(by_timm, outputs(model, images(160))[0])
    assert torch.equal(by_transformers, by_timm)
    assert labels == LABELS


def test_transformers_loads_a_folder(folder):
    again = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(images(160)).logits, load(folder)(images(160)))
