"""What others replace, watch or change in a network has an effect: adapters, hooks, quantizers, pruning, counters."""

import copy
import os
import signal
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import peft
import psutil
import pytest
import timm
import torch
import transformers
from timm.layers.coord_attn import CoordAttn as TimmCoordAttn
from timm.models import FeatureDictNet, FeatureHookNet
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from mrcar_timm import DamagedWeightsError, ExpressionRecognizer, MultiRegionTransform, UnverifiedWeightsWarning, hub
from mrcar_timm.layers import ArcFaceHead, CoordAttn
from mrcar_timm.models.inference import InferenceNetwork, TorchBackend, optimize_for_inference
from mrcar_timm.network import load_network

from .conftest import EXAMPLES, ROOT, shaken

SMALL = {"stem_width": 8, "widths": (16, 16, 16), "embed_dim": 16}
CONVS = ("conv1", "conv_h", "conv_w")


class Adapter(nn.Module):
    """What adapters do: the module, and something added to what it gives."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base, self.extra, self.calls = base, 0.0, 0

    def __getattr__(self, name):  # such as the weight
        return super().__getattr__(name) if name == "base" else getattr(super().__getattr__("base"), name)

    def forward(self, x):
        self.calls += 1
        return self.base(x) + self.extra


def small(**args):
    """A small network in double precision, in which the smallest effect shows; the same each time, as of some draws a
    leaf's activation is never passed."""
    torch.manual_seed(0)
    return shaken(timm.create_model("mrcar_resnet", **SMALL, **args)).double()


def example(count=2, side=44):
    return torch.rand(count, 3, 3, side, side, dtype=torch.float64)


def apart(a, b):
    return not torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def leaves(model):
    return [name for name, module in model.named_modules() if name and not list(module.children())]


@pytest.mark.parametrize("args", [{}, {"shared": True}, {"head": "linear", "attn_layer": "se"}])
def test_every_leaf_is_called_and_counts(args):
    model, x = small(**args), example(1, side=28)
    with torch.inference_mode():
        before = model(x)
        for name in leaves(model):
            parent = model.get_submodule(name.rpartition(".")[0])
            module = model.get_submodule(name)
            adapter = Adapter(module)
            setattr(parent, name.rpartition(".")[2], adapter)
            same = model(x)
            changed = False
            for adapter.extra in (1.0, -1.0):  # what one adds to may not pass an activation
                changed = changed or apart(model(x), before)
            assert not apart(same, before), name
            assert adapter.calls >= 2, name
            assert changed, name
            setattr(parent, name.rpartition(".")[2], module)


def test_every_leaf_counts_in_the_copy_for_inference():
    """Of one branch, of which nothing is folded or stacked away."""
    model, x = small(), example(1, side=28)
    assert isinstance(optimize_for_inference(model), InferenceNetwork)
    with torch.inference_mode():
        for name in [
            *(leaf for leaf in leaves(model) if leaf.startswith("branches.face.stages.1.")),
            "head",
            "fusion.0",
        ]:
            parent, module = model.get_submodule(name.rpartition(".")[0]), model.get_submodule(name)
            adapter = Adapter(module)
            adapter.extra = 1.0
            setattr(parent, name.rpartition(".")[2], adapter)
            assert not apart(optimize_for_inference(model)(x), model(x)), name
            setattr(parent, name.rpartition(".")[2], module)


@pytest.mark.parametrize("name", CONVS)
def test_hooks_in_the_copy_for_inference(name):
    model, x = small(), example()
    expected = model(x)
    model.branches.eyes.stages[0][0].attn.get_submodule(name).register_forward_hook(lambda *args: args[2] + 1)
    changed = model(x)
    assert apart(changed, expected)
    assert not apart(optimize_for_inference(model)(x), changed)


@pytest.mark.parametrize("name", CONVS)
def test_coordinate_attention_is_timms_where_it_is_watched(name):
    """Against timm's, which calls its children: the same function called, and the same function computed."""
    torch.manual_seed(0)
    ours, theirs = CoordAttn(64).eval(), TimmCoordAttn(64, rd_channels=8, bias=True).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 64, 8, 5)
    torch.testing.assert_close(ours(x), theirs(x))
    for layer in (ours, theirs):
        adapter = Adapter(layer.get_submodule(name))
        adapter.extra = 1.0
        setattr(layer, name, adapter)
    torch.testing.assert_close(ours(x), theirs(x))
    assert getattr(ours, name).calls == 1


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def watched(layer, how):
    """The names of what is called, or nothing where the effect is a value."""
    conv, called = layer.conv_h, []
    if how == "hook":
        conv.register_forward_hook(lambda *_: called.append(how))
    elif how == "pre-hook":
        conv.register_forward_pre_hook(lambda *_: called.append(how))
    elif how == "forward":
        forward = conv.forward
        conv.forward = lambda x: called.append(how) or forward(x)
    elif how == "parametrization":
        parametrize.register_parametrization(conv, "weight", Doubled())
    elif how == "pruning":
        prune.random_unstructured(conv, "weight", amount=0.5)
    return called


@pytest.mark.parametrize("how", ["hook", "pre-hook", "forward", "parametrization", "pruning"])
def test_ways_to_watch_a_convolution(how):
    torch.manual_seed(0)
    layer, x = CoordAttn(64).eval(), torch.rand(1, 64, 6, 6)
    nn.init.normal_(layer.conv_h.weight)
    before = layer(x)
    called = watched(layer, how)
    after = layer(x)
    assert called == ([how] if how in ("hook", "pre-hook", "forward") else [])
    assert torch.allclose(before, after, atol=1e-6) == bool(called)


def test_gradients_reach_what_watches_them():
    layer, seen = CoordAttn(64), []
    layer.conv1.register_full_backward_hook(lambda *_: seen.append("conv1"))
    layer(torch.rand(2, 64, 6, 6, requires_grad=True)).sum().backward()
    assert seen == ["conv1"]


def test_lora():
    model, x = small(), example()
    before = model(x).detach()
    targets = r".*attn\.(conv1|conv_h|conv_w)|fusion\.0"
    adapted = peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=targets), model).eval()
    lora = {name: p for name, p in adapted.named_parameters() if "lora_B" in name}
    assert len(lora) == 3 * 6 * 3 + 1
    assert not apart(adapted(x), before)
    for name, parameter in lora.items():
        nn.init.constant_(parameter, 1.0)
        assert apart(adapted(x), before), name
        nn.init.zeros_(parameter)
    for parameter in lora.values():
        nn.init.constant_(parameter, 0.1)
    adapted(x).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in lora.values())
    with torch.inference_mode():
        expected = adapted(x).numpy()
    np.testing.assert_allclose(TorchBackend(adapted)(x.numpy()), expected, rtol=1e-3, atol=1e-3)


def test_quantizers_observe_every_convolution():
    """PyTorch's own quantizer puts observers on modules; of what is not called, it would never know the range."""
    quantization = torch.ao.quantization
    model, x = small().float(), example().float()
    model.qconfig = quantization.get_default_qconfig("x86")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = quantization.prepare(model)
        prepared(x)
        observed = {
            name: module.activation_post_process.min_val.numel()
            for name, module in prepared.named_modules()
            if isinstance(module, nn.Conv2d)
        }
        assert len(observed) > 100
        assert all(observed.values()), observed
        dynamic = quantization.quantize_dynamic(small().float(), {nn.Linear}, dtype=torch.qint8)
    assert type(dynamic.fusion[0]) is not nn.Linear
    assert dynamic(x).shape == (2, 7)


@pytest.mark.slow
def test_a_quantized_network_gives_nearly_the_same():
    """PyTorch's quantizer of graphs: the convolutions of attention in 8 bits, too."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    model = timm.create_model("mrcar_resnet", pretrained=True).eval()
    transform = MultiRegionTransform(44)
    x = torch.stack([transform(EXAMPLES / name) for name in ("collins.jpg", "group.jpg")])
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        prepared = prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping("x86"), (x,))
        prepared(x)
        quantized = convert_fx(prepared)
        apart_by = (quantized(x).softmax(1) - model(x).softmax(1)).abs().max()
    assert apart_by < 0.1
    parts = [name for name, module in quantized.named_modules() if "quantized" in type(module).__module__]
    assert sum(name.endswith(CONVS) for name in parts) == 3 * 6 * 3


def test_counters_see_every_convolution():
    model, x = small(), example(1)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(x)
    counted = counter.get_flop_counts()
    convs = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert [name for name in convs if sum(counted.get(f"MRCARResNet.{name}", {}).values()) == 0] == []
    # Traced, as fvcore counts: operations carry the module that called them.
    traced = torch.jit.trace(model, x)
    graph = torch.jit.freeze(traced.eval()).inlined_graph
    assert len([node for node in graph.nodes() if "conv" in node.kind()]) >= len(convs)


@pytest.mark.parametrize("name", ["mrcar_resnet", "mrcar_mobilenet", "multi_region", "attended"])
@pytest.mark.parametrize("way", ["getter", "list", "dict", "hook", "fx", FeatureHookNet, FeatureDictNet])
def test_features_have_the_channels_that_they_say(name, way):
    model = timm.create_model(name, features_only=True, feature_cls=way).eval()
    features = model(torch.rand(1, 3, 64, 64))
    if way in ("dict", FeatureDictNet):
        assert list(features) == model.feature_info.module_name()
        features = list(features.values())
    assert [y.shape[1] for y in features] == model.feature_info.channels()
    expected = timm.create_model(name, features_only=True).feature_info.channels()
    assert model.feature_info.channels() == expected


def test_no_such_way_to_take_features():
    with pytest.raises(ValueError, match="feature_cls must be one of getter, list, dict, hook, fx, got 'hooks'"):
        timm.create_model("mrcar_resnet", features_only=True, feature_cls="hooks")


@pytest.mark.parametrize("name", ["mrcar_resnet", "mrcar_mobilenet", "multi_region"])
def test_torchvisions_feature_extractor(name):
    model, x = shaken(timm.create_model(name)), torch.rand(2, 3, 64, 64)
    nodes, _ = get_graph_node_names(model, suppress_diff_warning=True)
    assert not model.training
    attention = next(node for node in nodes if node.endswith("conv_h"))
    wanted = {"fusion": "embedding", attention: "attention", "head": "logits"}
    found = create_feature_extractor(model, wanted, suppress_diff_warning=True)(x)
    assert not model.training
    embedding = model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(found["embedding"], embedding, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["logits"], model(x), rtol=1e-3, atol=1e-4)
    assert found["attention"].ndim == 4


# Processes and threads

CHILD = """
import os, sys, warnings
import torch
warnings.simplefilter("always")
torch.set_num_threads(2)
from mrcar_timm import ExpressionRecognizer
recognizer = ExpressionRecognizer(backend=sys.argv[2])
expected = [face.expression for face in recognizer(sys.argv[1])]
read, write = os.pipe()
child = os.fork()
if not child:
    found = [face.expression for face in recognizer(sys.argv[1])]
    os.write(write, b"same" if found == expected else b"other")
    os._exit(0)
os.waitpid(child, 0)
print(os.read(read, 10).decode(), len(expected), torch.get_num_threads())
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_recognizer_that_was_used_before_a_fork_answers(backend):
    """PyTorch's threads do not survive a fork: the child would wait for them for good."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(EXAMPLES / "group.jpg"), backend],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    try:
        out, errors = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert out.split() == ["same", "5", "2"], errors
    assert "ForkWarning: PyTorch ran before this process was forked, and runs on one thread here" in errors


def expressions(_: int) -> list[tuple[str, float]]:
    return [(face.expression, round(face.probability, 2)) for face in ExpressionRecognizer()(EXAMPLES / "group.jpg")]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_four_processes_at_once(method):
    with get_context(method).Pool(4) as pool:
        first, *others = pool.map_async(expressions, range(4)).get(timeout=300)
    assert len(first) == 5
    assert others == [first] * 3


@pytest.mark.slow
def test_eight_threads_on_one_recognizer(recognizer):
    """The same faces, and memory that stays as it is."""
    photos = [EXAMPLES / "collins.jpg", EXAMPLES / "group.jpg"]
    expected = [[face.to_dict() for face in recognizer(photo)] for photo in photos]

    def work(number: int) -> float:
        k = number % 2
        found = [face.to_dict() for face in recognizer(photos[k])]
        assert [face["expression"] for face in found] == [face["expression"] for face in expected[k]]
        assert np.abs(np.subtract([f["box"] for f in found], [f["box"] for f in expected[k]])).max() < 0.5
        return psutil.Process().memory_info().rss / 1e6

    with ThreadPoolExecutor(8) as pool:
        memory = list(pool.map(work, range(400)))
    assert max(memory[200:]) < max(memory[50:200]) + 100


# transformers


@pytest.mark.parametrize("name", ["mrcar_resnet", "mrcar_mobilenet", "multi_region"])
def test_transformers_gives_other_classes_a_head_of_ordinary_size(tmp_path, name):
    """transformers makes networks without values; what it then does not fill is what the memory was."""
    args = SMALL if name == "mrcar_resnet" else {}
    net = shaken(timm.create_model(name, num_classes=7, **args))
    hub.save(net, tmp_path, "me/net", labels=tuple("abcdefg"))
    junk = [torch.full((3, net.head_hidden_size), float("nan")) for _ in range(2000)]  # memory that was used before
    del junk
    model = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path, num_labels=3, ignore_mismatched_sizes=True
    )
    weight = model.timm_model.head.weight.detach()
    expected = (2 / sum(weight.shape)) ** 0.5  # Xavier's
    assert weight.shape[0] == 3
    assert 0.7 * expected < weight.std() < 1.4 * expected
    theirs = {**model.timm_model.state_dict(), **dict(model.timm_model.named_buffers())}
    for key, value in {**net.state_dict(), **dict(net.named_buffers())}.items():
        if not key.startswith("head."):
            torch.testing.assert_close(theirs[key], value)
    x, labels = torch.rand(8, 3, 64, 64), torch.arange(8) % 3
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(3):
        loss = model.train()(pixel_values=x, labels=labels).loss
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_a_head_without_values_gets_them_once():
    """timm fills again what is not in a state dict; weights that were loaded are."""
    head = ArcFaceHead(4, 3)
    weight = head.weight.detach().clone()
    head.init_non_persistent_buffers()
    assert torch.equal(head.weight, weight)
    bare = ArcFaceHead(4, 3, device="meta").to_empty(device="cpu")
    nn.init.constant_(bare.weight, float("nan"))
    bare.init_non_persistent_buffers()
    assert torch.isfinite(bare.weight).all()
    loaded = ArcFaceHead(4, 3, device="meta").to_empty(device="cpu")
    loaded.load_state_dict({"weight": weight})
    loaded.init_non_persistent_buffers()
    assert torch.equal(loaded.weight, weight)


def test_what_transformers_saves_loads_again(tmp_path):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    hub.save("mrcar_resnet.fer2013", first, "me/net")
    model = transformers.AutoModelForImageClassification.from_pretrained(first)
    model.save_pretrained(second)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    model.save_pretrained(third)
    x = torch.rand(2, 3, 44, 44)
    for folder in (second, third):
        with pytest.warns(UnverifiedWeightsWarning, match="was rewritten after config.json .* may not be calibrated"):
            network = load_network(folder)
        with pytest.warns(UnverifiedWeightsWarning):
            again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        with torch.inference_mode():
            torch.testing.assert_close(again(x), network.model(x), rtol=1e-4, atol=1e-4)
            if folder == third:
                torch.testing.assert_close(again(x), model.eval()(x).logits, rtol=1e-3, atol=1e-3)
        with pytest.warns(UnverifiedWeightsWarning):
            assert ExpressionRecognizer(folder)(EXAMPLES / "collins.jpg")[0].expression == "happiness"


def test_weights_that_were_altered_are_damaged_all_the_same(tmp_path):
    """An altered file has its own digest still; an exchanged one has another than config.json."""
    hub.save("mrcar_resnet.fer2013", tmp_path, "me/net")
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100] + bytes(100))
    with pytest.raises(DamagedWeightsError):
        load_network(tmp_path)
    hub.save("mrcar_resnet.ferplus", tmp_path / "other", "me/other")
    file.write_bytes((tmp_path / "other/model.safetensors").read_bytes())
    with pytest.raises(DamagedWeightsError, match="config.json beside it is of other weights"):
        load_network(tmp_path)
