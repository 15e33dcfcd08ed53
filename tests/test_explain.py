"""Explanations against what can be computed by hand, and of every kind of network."""

import json
from copy import deepcopy

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageOps

from mrcar_timm import ExportError, ExpressionRecognizer, hub, load_network
from mrcar_timm.checkpoints.packaged import PACKAGED
from mrcar_timm.explain import explain_regions
from mrcar_timm.heatmaps import draw_explanations
from mrcar_timm.layers import CoordAttn
from mrcar_timm.models import MRCARResNet
from mrcar_timm.regions.geometry import REGIONS

from .command import mrcar
from .conftest import EXAMPLES, ROOT, shaken

SMALL = {"stem_width": 8, "widths": (16, 16, 16), "embed_dim": 16}


def explained(model, x, targets, asked=None):
    """Explanations of random images, whose looks do not matter here."""
    images = np.zeros((*x.shape[:2], 3, *x.shape[3:]), np.float32)
    return explain_regions(model, x.numpy(), images, asked or list(range(model.num_classes)), targets)


def faces(count=3, regions=3, size=44, channels=3):
    return torch.randn(count, regions, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("head", ["arcface", "linear"])
def test_of_the_mouth_alone(head):
    """Where only the mouth counts, all evidence lies there, of the sign of what covering it costs."""
    model = shaken(MRCARResNet(**SMALL, head=head))
    with torch.no_grad():
        model.fusion[0].weight[:, :32] = 0  # face and eyes
    x = faces(8)
    signs = set()
    for target in range(7):
        for found in explained(model, x, [target] * 8):
            mouth = found["mouth"]
            assert np.sign(mouth.evidence.sum()) == np.sign(mouth.drop) != 0
            signs.add(np.sign(mouth.drop))
            for name in ("face", "eyes"):
                assert not found[name].evidence.any()
                assert found[name].drop == pytest.approx(0, abs=1e-5)
    assert signs == {-1, 1}


@pytest.mark.parametrize("name", PACKAGED)
def test_a_heat_map_adds_up_to_what_covering_costs(name):
    recognizer = ExpressionRecognizer(name)
    for expression in recognizer.labels:
        (found,) = recognizer.explain(EXAMPLES / "collins.jpg", expression)
        assert found.probability == found.face.probabilities[expression]
        odds = found.probability / (1 - found.probability)
        for region in found.regions.values():
            assert region.evidence.sum() == pytest.approx(region.drop, rel=0.02, abs=0.02)
            without = region.covered / (1 - region.covered)
            assert np.log(odds / without) == pytest.approx(region.drop, abs=1e-3)


def tent(cells, pixels, first, step):
    """For each cell the weights of the pixels around its place, (cells, pixels)."""
    at = np.clip((np.arange(pixels) + 0.5 - first) / step, 0, cells - 1)
    return np.array([np.interp(at, np.arange(cells), np.eye(cells)[cell]) for cell in range(cells)])


def test_grad_cam_by_hand():
    """Of two classes and a linear head, gradients are the difference of its weights, everywhere the same.

    Of 44 pixels three cells are left, over the first, the 17th and the 33rd: each stride begins at the first pixel.
    """
    model = shaken(MRCARResNet(**{**SMALL, "embed_dim": 0}, head="linear", num_classes=2)).double()
    x = faces(2).double()
    with torch.no_grad():
        maps, blank = (model.forward_features(each) for each in (x, x.mean((3, 4), True).expand_as(x)))
        weight = model.head.weight[1] - model.head.weight[0]
        features = ((maps - blank) * weight[:, None, None] / 9).numpy()
        logits = model(x)
    spread = tent(3, 44, 0.5, 16)
    spread /= spread.sum(1, keepdims=True)
    for n, found in enumerate(explained(model, x.float(), [1, 1])):
        for i, region in enumerate(REGIONS):
            expected = features[n, 16 * i : 16 * (i + 1)].sum(0)
            np.testing.assert_allclose(found[region].evidence, spread.T @ expected @ spread, rtol=1e-3, atol=1e-7)
            without = logits[n, 1] - logits[n, 0] - expected.sum()
            assert found[region].covered == pytest.approx(without.sigmoid().item(), abs=1e-5)


def test_attention_is_what_it_multiplies_by():
    model = shaken(MRCARResNet(**SMALL, act_layer=torch.nn.Tanh))  # gives no zeros, by which one cannot divide
    x = faces(2)
    ratios = {}

    def note(layer, args, output):
        ratios[names[layer]] = (output.double() / args[0].double()).mean(1)

    names = {layer: name for name, layer in model.named_modules() if isinstance(layer, CoordAttn)}
    found = explained(model, x, [0, 0])
    for layer in names:
        layer.register_forward_hook(note)
    with torch.no_grad():
        model(x)
    assert len(names) == 18
    for name, ratio in ratios.items():
        _, region, block = name.split(".", 2)
        size = ratio.shape[-1]
        weights = tent(size, 44, 0.5, {22: 2, 11: 4, 6: 8, 3: 16}[size])
        for n in range(2):
            expected = weights.T @ ratio[n].numpy() @ weights
            np.testing.assert_allclose(found[n][region].attention[block], expected, rtol=1e-4)


def test_without_some_expressions():
    """The odds are those among the expressions that are asked for."""
    model, x = shaken(MRCARResNet(**SMALL)), faces(2)
    (first, _) = explained(model, x, [1, 1], asked=[2, 4, 5])
    with torch.no_grad():
        p = model(x)[0, [2, 4, 5]].softmax(0)[1]
    region = first["eyes"]
    assert np.log(p / (1 - p)) - np.log(region.covered / (1 - region.covered)) == pytest.approx(region.drop, abs=1e-4)


def test_a_mirrored_network_sees_mirrored_maps():
    """Kernels from right to left; at sizes such as 49 no stride prefers a side."""
    model = shaken(MRCARResNet(**SMALL, regions=("eyes", "mouth")))
    mirrored = deepcopy(model)
    with torch.no_grad():
        for module in mirrored.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.copy_(module.weight.flip(3))
    x = faces(2, regions=2, size=49)
    for one, other in zip(explained(model, x, [3, 4]), explained(mirrored, x.flip(4), [3, 4]), strict=True):
        for region in ("eyes", "mouth"):
            np.testing.assert_allclose(other[region].evidence, one[region].evidence[:, ::-1], rtol=1e-3, atol=1e-5)
            for block, values in one[region].attention.items():
                np.testing.assert_allclose(other[region].attention[block], values[:, ::-1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", PACKAGED)
def test_a_mirrored_photo_gives_mirrored_maps(name, portrait):
    """As far as the network itself, and cells of which there are three or four, allow."""
    recognizer = ExpressionRecognizer(name)
    (one,), (other,) = recognizer.explain(portrait), recognizer.explain(ImageOps.mirror(portrait))

    def joined(explanation, step):
        return np.concatenate([region.evidence[:, ::step].ravel() for region in explanation.regions.values()])

    assert np.corrcoef(joined(one, 1), joined(other, -1))[0, 1] > 0.7
    for region in REGIONS:
        assert other.regions[region].drop == pytest.approx(one.regions[region].drop, rel=0.3, abs=0.15)


KINDS = {
    "face alone": ("mrcar_resnet", {"regions": ("face",)}),
    "shared": ("mrcar_resnet", {"shared": True}),
    "no attention": ("mrcar_resnet", {"attn_layer": "none"}),
    "other attention": ("mrcar_resnet", {"attn_layer": "se"}),
    "linear": ("mrcar_resnet", {"head": "linear"}),
    "grey": ("mrcar_mobilenet", {"in_chans": 1}),
    "backbone": ("multi_region", {"backbone": "resnet10t"}),
    "backbone without maps' places": ("multi_region", {"backbone": "mobilenetv3_small_050", "shared": False}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network(kind, dtype):
    name, args = KINDS[kind]
    model = shaken(timm.create_model(name, **args)).to(dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = faces(2, len(model.regions), 64, model.in_chans)
    found = explained(model, x, [0, 1])
    with torch.no_grad():
        exact = model.float()(x).softmax(1)
    for n, each in enumerate(found):
        assert tuple(each) == model.regions
        for region in each.values():
            assert region.evidence.ndim == 2
            assert np.isfinite(region.evidence).all()
            assert region.evidence.any()
            odds = np.log(exact[n, n] / (1 - exact[n, n])).item()
            assert np.log(region.covered / (1 - region.covered)) == pytest.approx(odds - region.drop, abs=1e-3)
            assert bool(region.attention) == (args.get("attn_layer", "coord") == "coord")
            assert all(values.min() >= 0 for values in region.attention.values())
    assert all(torch.equal(before[key].float(), value.float()) for key, value in model.state_dict().items())


def test_a_network_in_half_precision_recognizes_and_explains(portrait):
    expected = ExpressionRecognizer("mrcar_resnet.ferplus")(portrait)[0].probabilities
    for dtype, tolerance in ((torch.float16, 5e-3), (torch.bfloat16, 5e-2)):
        model = timm.create_model("mrcar_resnet.ferplus", pretrained=True).to(dtype)
        recognizer = ExpressionRecognizer(model)
        (found,) = recognizer.explain(portrait)
        assert found.face.probabilities == pytest.approx(expected, abs=tolerance)
        assert next(model.parameters()).dtype == dtype


def test_images_of_explanations(portrait):
    recognizer = ExpressionRecognizer()
    found = recognizer.explain(portrait)
    drawn = draw_explanations(found)
    pixels = np.asarray(drawn).astype(int)
    red = (pixels[..., 0] - pixels[..., 1:].max(2)).max()
    assert red > 60
    both = draw_explanations(found * 2)
    assert both.height == 2 * drawn.height
    first, second = (np.asarray(both.crop((0, top, 200, top + 24))) for top in (0, drawn.height))
    alone = np.asarray(drawn.crop((0, 0, 200, 24)))
    assert (first != second).any()  # numbers, which one face has none of
    assert (alone != first).any()
    network = timm.create_model(
        "mrcar_resnet", attn_layer="none", pretrained_cfg_overlay={"label_names": list("abcdefg")}
    )
    plain = draw_explanations(ExpressionRecognizer(shaken(network)).explain(portrait))
    assert plain.width < drawn.width


def test_what_cannot_be_explained(recognizer, tmp_path):
    assert recognizer.explain(np.zeros((64, 64, 3), np.uint8)) == []
    with pytest.raises(ValueError, match="expected one of anger, .* got 'joy'"):
        recognizer.explain(EXAMPLES / "collins.jpg", "joy")
    assert mrcar("export", "mrcar_resnet.fer2013", "--out", tmp_path / "out").returncode == 0
    with pytest.raises(ExportError, match="exported without gradients"):
        ExpressionRecognizer(tmp_path / "out").explain(EXAMPLES / "collins.jpg")


def test_reduced_photos_are_explained_alike(portrait, tmp_path):
    """Above 50 megapixels an image is reduced as it is read."""
    large = portrait.resize((portrait.width * 18, portrait.height * 18))
    assert large.width * large.height > 50_000_000
    large.save(tmp_path / "large.jpg", quality=85)
    recognizer = ExpressionRecognizer(faces="largest")
    (one,), (other,) = recognizer.explain(portrait), recognizer.explain(tmp_path / "large.jpg")
    for region in REGIONS:
        assert other.regions[region].drop == pytest.approx(one.regions[region].drop, rel=0.3, abs=0.15)


def test_command(tmp_path):
    out = tmp_path / "why.png"
    done = mrcar("explain", EXAMPLES / "group.jpg", "--out", out, "--expression", "anger")
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == [str(number) for number in range(1, 6) for _ in REGIONS]
    assert {row[1] for row in rows} == {"anger"}
    with Image.open(out) as image:
        assert image.height > 5 * 3 * 112
    printed = mrcar("explain", EXAMPLES / "group.jpg", "--expression", "anger", "--json", "--largest")
    (found,) = json.loads(printed.stdout)["explanations"]
    (face,) = [row for row in rows if row[0] == "1" and row[3] == "face"]
    assert float(face[4]) == pytest.approx(found["regions"]["face"]["drop"], abs=0.2)


def test_command_says_that_there_is_no_attention(tmp_path):
    model = shaken(timm.create_model("mrcar_resnet", attn_layer="none"))
    hub.save(model, tmp_path / "plain", "me/plain", labels=list("abcdefg"))
    done = mrcar("explain", EXAMPLES / "collins.jpg", "--model", tmp_path / "plain", "--out", tmp_path / "why.png")
    assert done.returncode == 0, done.stderr
    assert "this network has no coordinate attention" in done.stderr
    assert (tmp_path / "why.png").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((EXAMPLES / "collins.jpg", "--out", EXAMPLES / "collins.jpg"), "is the image itself"),
        ((EXAMPLES / "collins.jpg", "--out", "why.xyz"), "no format of images is called .xyz"),
        (("pyproject.toml",), "not an image"),
        (("{blank}",), "no face found"),
    ],
)
def test_command_says_what_is_wrong(args, message, tmp_path):
    blank = tmp_path / "blank.png"
    Image.new("RGB", (64, 64)).save(blank)
    done = mrcar("explain", *(blank if arg == "{blank}" else arg for arg in args))
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_labels_of_the_network_are_those_of_the_odds():
    recognizer = ExpressionRecognizer(without=["contempt"])
    assert "contempt" in load_network().labels
    with pytest.raises(ValueError, match="got 'contempt'"):
        recognizer.explain(EXAMPLES / "collins.jpg", "contempt")


def test_what_the_documentation_says():
    """The figures of docs/demo.md, and that the gradients at one point do not add up."""
    text = (ROOT / "docs/demo.md").read_text(encoding="utf-8")
    recognizer = ExpressionRecognizer()
    (found,) = recognizer.explain(EXAMPLES / "collins.jpg")
    figures = ", ".join(f"{name} {region.drop:.2f} {region.covered:.2f}" for name, region in found.regions.items())
    assert f"# {figures}\n" in text
    model = recognizer.network.model
    features = [each.detach().requires_grad_() for each in model.forward_regions(torch.from_numpy(
        recognizer.regions(EXAMPLES / "collins.jpg")
    ))]  # fmt: skip
    logits = model.forward_head(torch.cat(features, 1))[0]
    index = recognizer.labels.index("happiness")
    others = torch.cat([logits[:index], logits[index + 1 :]]).logsumexp(0)
    (gradient, *_) = torch.autograd.grad(logits[index] - others, features)
    plain = (gradient.mean((2, 3), keepdim=True) * features[0]).sum().item()
    assert f"it gives the face {plain:.1f} where covering it costs {found.regions['face'].drop:.1f}" in text
