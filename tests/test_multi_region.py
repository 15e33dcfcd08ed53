"""Any backbone of timm's behind the regions: timm's contract, saving, training, recognizing."""

import copy

import pytest
import timm
import torch
from timm.layers import set_scriptable
from timm.models import create_feature_extractor
from timm.optim import param_groups_layer_decay

from mrcar_timm import ExpressionRecognizer, RecipeError, WeightsError, hub, insert_attention, load_network
from mrcar_timm.inputs import INPUT_MEAN, INPUT_STD
from mrcar_timm.layers import ArcFaceHead
from mrcar_timm.layers.insert import insertions
from mrcar_timm.models import from_classifier
from mrcar_timm.models.inference import optimize_for_inference
from mrcar_timm.training.batches import load_training
from mrcar_timm.training.engine import Trainer, make_optimizer
from mrcar_timm.training.recipe import Recipe
from mrcar_timm.training.start import make_network

from .command import mrcar
from .conftest import EXAMPLES

SMALL = "mobilenetv3_small_050"
FAMILIES = ["resnet10t", SMALL, "mobilenetv4_conv_small_035", "convnext_atto", "efficientnet_lite0", "regnetx_002"]
MORE = ["efficientvit_b0", "ghostnetv2_100", "swin_tiny_patch4_window7_224"]
SLOWLY = [pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES + MORE if name != SMALL]
LABELS = ["smile", "other"]


def make(backbone: str = SMALL, **kwargs) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("multi_region", backbone=backbone, **kwargs).eval()


def regions_for(backbone: str, count: int = 3, n: int = 2) -> torch.Tensor:
    side = 224 if backbone.startswith("swin") else 64
    return torch.rand(n, count, 3, side, side, generator=torch.Generator().manual_seed(1))


def some_statistics(model: torch.nn.Module) -> torch.nn.Module:
    """Batch norms as after training."""
    generator = torch.Generator().manual_seed(2)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model


@pytest.mark.parametrize("backbone", [SMALL, *SLOWLY])
@pytest.mark.parametrize("shared", [True, pytest.param(False, marks=pytest.mark.slow)])
@torch.no_grad()
def test_contract(backbone, shared):
    model = some_statistics(make(backbone, shared=shared, num_classes=5))
    x = regions_for(backbone)
    logits, features = model(x), model.forward_features(x)
    assert logits.shape == (2, 5)
    assert features.shape[:2] == (2, model.num_features)
    torch.testing.assert_close(model.forward_head(features), logits)
    embedding = model.forward_head(features, pre_logits=True)
    assert embedding.shape == (2, model.head_hidden_size)
    torch.testing.assert_close(model.head(embedding), logits)
    final, levels = model.forward_intermediates(x)
    torch.testing.assert_close(final, features)
    assert [level.shape[1] for level in levels] == [info["num_chs"] for info in model.feature_info]
    torch.testing.assert_close(optimize_for_inference(model)(x), logits, rtol=1e-3, atol=1e-4)
    # The network cuts the regions of a face itself.
    face = x[:, 0]
    torch.testing.assert_close(model(face), model(model.split(face)))
    one = timm.create_model("multi_region", backbone=backbone, shared=shared, features_only=True).eval()
    assert [o.shape[1] for o in one(x)] == one.feature_info.channels()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", FAMILIES + MORE)
def test_every_parameter_learns_and_belongs_to_a_layer(backbone):
    model = make(backbone, num_classes=3).train()
    model(regions_for(backbone)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    scales = {name: group["lr_scale"] for group in groups for name in group["param_names"]} if (
        "param_names" in groups[0]
    ) else {}  # fmt: skip
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert len({group["lr_scale"] for group in groups}) > 5
    assert all(scale <= scales["fusion.0.weight"] for name, scale in scales.items() if name.startswith("branches."))


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "shared"), [(name, name != FAMILIES[0]) for name in FAMILIES])
def test_script_trace_export_and_copy(backbone, shared):
    x = regions_for(backbone)
    with set_scriptable(True):
        model = some_statistics(make(backbone, shared=shared))
        scripted = torch.jit.script(model)
    with torch.no_grad():
        logits = model(x)
        torch.testing.assert_close(scripted(x), logits, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(torch.jit.trace(model, x)(x), logits, rtol=1e-3, atol=1e-4)
        exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
        torch.testing.assert_close(exported.module()(x[:1]), model(x[:1]), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(copy.deepcopy(model)(x), logits)
        traced = create_feature_extractor(model, ["fusion"])
        torch.testing.assert_close(traced(x)["fusion"], model.forward_head(model.forward_features(x), pre_logits=True))


@pytest.mark.slow
def test_compiled_and_with_checkpointing():
    model, x = some_statistics(make()), regions_for(SMALL)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="aot_eager")(x), model(x), rtol=1e-3, atol=1e-4)
    model.set_grad_checkpointing()
    model.train()(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_there_are_no_weights_under_its_name():
    with pytest.raises(WeightsError, match=r"multi_region\.untrained has no weights"):
        timm.create_model("multi_region", pretrained=True)


def test_attention_is_that_of_insert_attention_and_starts_without_effect():
    with_attention, plain = make(), make(attention="none")
    backbone = timm.create_model(SMALL, num_classes=0)
    places = [i.module for i in insertions(insert_attention(backbone, "coord", "stages"))]
    assert [i["module"] for i in with_attention.model_args()["insertions"]] == places
    assert insertions(plain) == []
    with_attention.load_state_dict(plain.state_dict(), strict=False)
    x = regions_for(SMALL)
    with torch.no_grad():
        torch.testing.assert_close(with_attention(x), plain(x))


def test_one_backbone_for_all_regions_is_a_third_of_three():
    counts = [sum(p.numel() for p in make(shared=s, attention="none").branches.parameters()) for s in (True, False)]
    assert 3 * counts[0] == counts[1]


def test_the_backbone_sees_what_it_would_see_alone():
    """Normalized by the backbone's own mean and deviation, of each channel."""
    model = make("resnet10t", regions=("face",), attention="none", embed_dim=0, head="linear")
    backbone = model.branches["shared"].model
    image = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(backbone.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        alone = backbone.forward_features((image - mean) / std)
        torch.testing.assert_close(model.forward_features((image - INPUT_MEAN[0]) / INPUT_STD[0]), alone)


def test_heads_classes_and_pooling():
    model = make(num_classes=0)
    x = regions_for(SMALL)
    assert model(x).shape == (2, 256)
    model.reset_classifier(9)
    assert isinstance(model.get_classifier(), ArcFaceHead)
    assert model.eval()(x).shape == (2, 9)
    model.reset_classifier(0, "")
    assert model(x).shape == (2, model.num_features, 2, 2)
    model.reset_classifier(4, "max")
    assert model.eval()(x).shape == (2, 4)
    assert make(head="linear", embed_dim=0, in_chans=1)(x[:, :, :1]).shape == (2, 7)


def test_wrong_backbones_and_arguments():
    with pytest.raises(ValueError, match="vit_tiny_patch16_224 gives no feature maps"):
        make("vit_tiny_patch16_224")
    with pytest.raises(RuntimeError, match="nothing"):
        make("nothing")
    with pytest.raises(ValueError, match="must be"):
        make(regions=("nose",))
    with pytest.raises(RecipeError, match=r"no network multi_region with \{'backbone': 'nothing'\}"):
        make_network(Recipe(model="multi_region", model_args={"backbone": "nothing"}), 3, ("a", "b"))


@pytest.mark.parametrize("kwargs", [
    {}, {"shared": False, "regions": ("face", "mouth")}, {"attention": "se", "head": "linear"},
    {"attention": "none", "embed_dim": 0, "backbone_args": {"drop_path_rate": 0.1}},
])  # fmt: skip
def test_saved_and_loaded_it_is_the_same(kwargs, tmp_path):
    model = some_statistics(make(num_classes=2, **kwargs))
    hub.save(model, tmp_path / "net", "ORG/net", labels=LABELS)
    network = load_network(tmp_path / "net")
    x = regions_for(SMALL, len(model.regions))
    with torch.no_grad():
        torch.testing.assert_close(network.model(x), model(x))
    assert network.labels == ("smile", "other")
    # With other classes the backbone stays; with another number of channels the first convolution is adapted.
    other = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True, num_classes=5, in_chans=1)
    assert other.eval()(x[:, :, :1]).shape == (2, 5)
    key = next(key for key in model.state_dict() if key.endswith("blocks.0.0.conv_dw.weight"))
    torch.testing.assert_close(other.state_dict()[key], model.state_dict()[key])


def test_weights_of_another_backbone_are_an_error(tmp_path):
    import json

    hub.save(make(num_classes=2), tmp_path / "net", "ORG/net", labels=LABELS)
    config = json.loads((tmp_path / "net/config.json").read_text())
    config["model_args"]["backbone"] = "mobilenetv3_small_075"
    (tmp_path / "net/config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"of \d+ they have another shape"):
        load_network(tmp_path / "net")


@pytest.mark.parametrize("backbone", ["resnet10t", SMALL, pytest.param("convnext_atto", marks=pytest.mark.slow)])
def test_a_classifier_of_timm_comes_into_the_recognizer(backbone):
    torch.manual_seed(3)
    classifier = some_statistics(timm.create_model(backbone, num_classes=2).eval())
    network = from_classifier(classifier, LABELS)
    image = torch.rand(2, 3, 224, 224)
    mean, std = (torch.tensor(classifier.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        expected = classifier((image - mean) / std)
        torch.testing.assert_close(network((image - INPUT_MEAN[0]) / INPUT_STD[0]), expected, rtol=1e-3, atol=1e-4)
    recognizer = ExpressionRecognizer(network)
    assert recognizer.network.size == tuple(classifier.pretrained_cfg["input_size"][1:])
    [face] = recognizer(EXAMPLES / "collins.jpg")
    assert set(face.probabilities) == set(LABELS)


def test_what_is_no_network_of_regions_says_how_to_become_one():
    classifier = timm.create_model("resnet10t", num_classes=2)
    with pytest.raises(WeightsError, match="from_classifier"):
        ExpressionRecognizer(classifier)
    with pytest.raises(ValueError, match="expected 2 different labels"):
        from_classifier(classifier, ["smile"])
    with pytest.raises(ValueError, match="linear classifier"):
        from_classifier(timm.create_model("resnet10t", num_classes=0), LABELS)


def test_trained_by_the_command_line_on_grey_images(fer_folder, tmp_path):
    """Grey images reach a network for color three times."""
    run = tmp_path / "run"
    done = mrcar("train", "--data", fer_folder, "--run", run, "--model", "multi_region", "--attn", "coord",
                 "--set", f"model_args.backbone={SMALL}", "--epochs", 1, "--batch-size", 8)  # fmt: skip
    assert done.returncode == 0, done.stderr
    network = load_network(run)
    assert network.model.in_chans == 3
    assert network.model.model_args()["insertions"]
    done = mrcar("eval", "--data", fer_folder, "--model", run, "--protocol", "one")
    assert done.returncode == 0, done.stderr
    done = mrcar("predict", EXAMPLES / "collins.jpg", "--model", run)
    assert done.returncode == 0, done.stderr


def test_frozen_branches_stay_and_are_set_free(fer_folder, tmp_path):
    freeze = {"freeze": "backbone", "freeze_epochs": 1, "average": 0.0, "lr": 0.01}
    recipe = Recipe(model="multi_region", model_args={"backbone": SMALL}, epochs=2, batch_size=8, **freeze)
    train, validation = load_training(recipe, fer_folder)
    trainer = Trainer(recipe, train, validation, tmp_path / "run")
    before = copy.deepcopy(trainer.model.state_dict())

    def changed() -> set[str]:
        state = trainer.model.state_dict()
        return {key.split(".")[0] for key, value in state.items() if not torch.equal(value, before[key])}

    seen = []
    trainer.fit(lambda row: seen.append(changed()))
    assert "branches" not in seen[0]
    assert {"fusion", "head"} <= seen[0]
    assert "branches" in seen[1]


def test_rates_of_layers():
    model = make(num_classes=2)
    recipe = Recipe(lr=1e-3, layer_decay=0.8, backbone_lr=0.5)
    rates = {}
    names = {id(p): name for name, p in model.named_parameters()}
    for group in make_optimizer(model, recipe).param_groups:
        rates |= {names[id(p)]: group["lr"] for p in group["params"]}
    assert rates.keys() == dict(model.named_parameters()).keys()
    assert rates["head.weight"] == pytest.approx(1e-3)
    branches = {name: rate for name, rate in rates.items() if name.startswith("branches.")}
    assert max(branches.values()) <= 0.5 * 1e-3
    first = rates["branches.shared.model.conv_stem.weight"]
    assert first == min(rates.values())
    assert first < 0.2 * max(branches.values())
