"""Attention in a network that was made without it.

Paper: `Coordinate Attention for Efficient Mobile Network Design` - https://arxiv.org/abs/2103.02907
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from timm.layers import create_attn
from torch import nn

from .coord_attn import CoordAttn, UnitGate
from .dataflow import Dataflow, record
from .places import Place, find_places, is_own_container, runs_its_children

#: Name of an inserted layer as a child of its host, whose parameters are "<host>.inserted_attn.…".
CHILD = "inserted_attn"

Attention = str | type[nn.Module] | Callable[..., nn.Module]


@dataclass(frozen=True)
class Insertion(Place):
    """A place, and what makes the attention that is there.

    Attributes:
        attention: Name, class or callable.
        neutral: Whether it started without effect.
        kwargs: Arguments of the attention.
    """

    attention: Attention = "coord"
    neutral: bool = True
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The fields that are not the default, for JSON."""
        default = asdict(Insertion("", 0))
        return {key: value for key, value in asdict(self).items() if value != default[key]} | {
            "attention": self.attention
        }


class InsertedAttention(nn.Module):
    """Attention in its place in a network.

    Without effect at the start: the gates of :class:`CoordAttn` are exactly one; any other attention is mixed in by
    a gain that is zero, ``x + gain · (attn(x) - x)``.

    Args:
        insertion: Where it is and what makes it.
        replaced: The module that it stands in for.

    Shape:
        (B, C, H, W), or with ``channels_last`` (B, H, W, C), to the same.
    """

    __constants__ = ("channels_last",)

    def __init__(self, insertion: Insertion, replaced: nn.Module | None = None) -> None:
        super().__init__()
        self.insertion = insertion
        self.channels_last = insertion.channels_last
        self.replaced = (replaced,)  # in a tuple: it is no part of the network
        self.attn, is_neutral = _make_attention(insertion)
        mixed = insertion.neutral and not is_neutral
        self.register_parameter("gain", nn.Parameter(torch.zeros(())) if mixed else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.attn(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if self.channels_last else self.attn(x)
        if self.gain is not None:
            y = x + self.gain * (y - x)
        return y


def _make_attention(insertion: Insertion) -> tuple[nn.Module, bool]:
    """The layer, and whether it is neutral by itself."""
    attention, channels, kwargs = insertion.attention, insertion.channels, dict(insertion.kwargs)
    if attention in ("coord", CoordAttn):
        if not insertion.neutral or "gate_layer" in kwargs:
            return CoordAttn(channels, **kwargs), False
        layer = CoordAttn(channels, gate_layer=UnitGate, **kwargs)
        for conv in (layer.conv_h, layer.conv_w):
            for parameter in conv.parameters():
                nn.init.zeros_(parameter)
        return layer, True
    if callable(attention):
        return attention(channels, **kwargs), False
    if not isinstance(attention, str):
        raise ValueError(f"attention must be a name, a class or a callable, got {attention!r}")
    try:
        layer = create_attn(attention, channels, **kwargs)
    except AssertionError as error:
        raise ValueError(f"timm.layers.create_attn knows no attention {attention!r}") from error
    if layer is None:
        raise ValueError(f"timm.layers.create_attn makes no attention of {attention!r}")
    return layer, False


def insert_attention(
    model: nn.Module,
    attention: Attention = "coord",
    where: str | Sequence[str] = "residual",
    *,
    replace: bool = False,
    neutral: bool = True,
    example: torch.Tensor | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Put attention into a network, in place.

    Until it is trained the network computes what it did before, to the bit, and its own parameters keep their names, so
    that its checkpoints still fit. Places are found by a dry run.

    Args:
        model: Any network whose features are maps, of timm or not; its weights stay.
        attention: "coord" for :class:`CoordAttn`, another name that :func:`timm.layers.create_attn` takes, or a class
            or callable that makes a layer (B, C, H, W) to the same from the number of channels.
        where: "residual": at the end of every residual branch, before the sum. "stages": behind each stage that
            ``feature_info`` names and that gives one map. "attention": on the attention that the network has, or, if
            it has none, where it keeps room for it. Or names of modules, in which * and ? stand for what is between two
            dots and ** for anything.
        replace: Put it instead of the modules found, which must keep the shape of their input, and not behind them.
        neutral: Whether the layers start without effect; else they are as they are made.
        example: A square input for the dry run; one image of the size in ``pretrained_cfg``, or 224, if None.
        **kwargs: Arguments of the attention.

    Returns:
        The network.

    Raises:
        ValueError: If there is no such place or attention, or the network would not run; it is then unchanged.

    Example:
        >>> import timm
        >>> model = timm.create_model("resnet18").eval()
        >>> x = torch.rand(1, 3, 64, 64)
        >>> before = model(x)
        >>> bool((insert_attention(model, "coord")(x) == before).all()), len(insertions(model))
        (True, 8)
    """
    example = _example(model) if example is None else example
    if example.shape[-1] != example.shape[-2]:
        raise ValueError(f"the example must be square, to tell rows and columns, got {tuple(example.shape)}")
    flow = _record(model, example)
    taken = {insertion.module for insertion in insertions(model)}
    places = [place for place in find_places(model, flow, where) if CHILD not in place.module]
    for place in places:
        if place.module in taken:
            raise ValueError(f"{place.module} has attention already; remove_attention takes it out")
    if replace:
        places = [_instead(flow, place) for place in places]
    else:
        places = [_with_way(model, place) for place in places]
    found = [Insertion(**asdict(place), attention=attention, neutral=neutral, kwargs=kwargs) for place in places]
    return insert_at(model, _verified(model, found, example))


def insert_at(model: nn.Module, places: Sequence[Insertion]) -> nn.Module:
    """Put attention where it was in another network of this kind; see :func:`insertions`."""
    for insertion in places:
        parent_name, _, name = insertion.module.rpartition(".")
        host, parent = model.get_submodule(insertion.module), model.get_submodule(parent_name)
        layer = InsertedAttention(insertion, host if insertion.how == "instead" else None).train(host.training)
        reference = next(model.parameters())
        layer.to(reference.device, reference.dtype)
        if insertion.how == "instead":
            parent._modules[name] = layer
        elif insertion.how == "behind":
            modules = list(parent._modules.items())
            index = [key for key, _ in modules].index(name) + 1
            parent._modules.clear()
            parent._modules.update([*modules[:index], (f"{name}_{CHILD}", layer), *modules[index:]])
        else:
            host.add_module(CHILD, layer)
            if insertion.how == "after":
                host.register_forward_hook(_after, prepend=True)  # before hooks that collect features
            elif insertion.how == "before":
                host.register_forward_pre_hook(_before, prepend=True)
    return model


def insertions(model: nn.Module) -> list[Insertion]:
    """Where attention was inserted, and what.

    Raises:
        ValueError: If a host has been replaced by a module that does not run it.

    Example:
        >>> import timm
        >>> model = insert_attention(timm.create_model("resnet18"), "se", ["layer4.*"])
        >>> [(each.module, each.channels) for each in insertions(model)]
        [('layer4.0', 512), ('layer4.1', 512)]
    """
    return [layer.insertion for layer in _connected(model)]


def attention_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters of the attention that was inserted, to train them alone or at a rate of their own.

    Raises:
        ValueError: If there is none, or a host has been replaced by a module that does not run it.

    Example:
        >>> import timm
        >>> model = insert_attention(timm.create_model("resnet18").requires_grad_(False), "coord")
        >>> optimizer = torch.optim.AdamW(attention_parameters(model))
    """
    parameters = [parameter for layer in _connected(model) for parameter in layer.parameters()]
    if not parameters:
        raise ValueError("no attention was inserted into this network")
    return parameters


def remove_attention(model: nn.Module) -> nn.Module:
    """Take out all attention that was inserted, in place; what it replaced comes back.

    Returns:
        The network as it was.

    Raises:
        ValueError: If there is none.
    """
    layers = list(_inserted(model))
    if not layers:
        raise ValueError("no attention was inserted into this network")
    for parent, name, layer in layers:
        (replaced,) = layer.replaced
        if replaced is not None:
            reference = next(layer.parameters())
            parent._modules[name] = replaced.to(reference.device, reference.dtype).train(layer.training)
            continue
        del parent._modules[name]
        for hooks in (parent._forward_hooks, parent._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if hook in (_after, _before)]:
                del hooks[key]
    return model


# Functions of the module, so that a network with them can be copied, pickled and scripted.
def _after(module, input: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:  # type: ignore[no-untyped-def]
    return module.inserted_attn(output)


def _before(module, input: tuple[torch.Tensor]) -> tuple[torch.Tensor]:  # type: ignore[no-untyped-def]
    return (module.inserted_attn(input[0]),)


def _inserted(model: nn.Module) -> Iterator[tuple[nn.Module, str, InsertedAttention]]:
    """Inserted layers with their parents and names."""
    for parent in list(model.modules()):
        for name, layer in list(parent._modules.items()):
            if isinstance(layer, InsertedAttention):
                yield parent, name, layer


def _connected(model: nn.Module) -> Iterator[InsertedAttention]:
    """Inserted layers, all of which the network runs.

    Conversions such as that to synchronized batch norms make new modules, which have the children and not the hooks.
    """
    for parent, _, layer in _inserted(model):
        how = layer.insertion.how
        hooks = {"after": parent._forward_hooks, "before": parent._forward_pre_hooks}.get(how)
        if hooks is not None and not {_after, _before} & set(hooks.values()):
            raise ValueError(
                f"{layer.insertion.module} has lost the hook that runs its attention, as it was converted to "
                f"{type(parent).__name__}; insert attention after converting"
            )
        yield layer


def _example(model: Any) -> torch.Tensor:
    cfg = getattr(model, "pretrained_cfg", None) or {}
    channels, *size = cfg.get("input_size") or (3, 224, 224)
    side = max(size)
    first = next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), channels)
    parameter = next(model.parameters())
    return torch.zeros(1, getattr(model, "in_chans", first), side, side, device=parameter.device, dtype=parameter.dtype)


def _record(model: nn.Module, example: torch.Tensor) -> Dataflow:
    try:
        return record(model, example)
    except Exception as error:  # whatever a network of any kind raises
        raise ValueError(
            f"{type(model).__name__} does not take a batch of shape {tuple(example.shape)}, so what it does is not "
            f"known; give it an example: {error}"
        ) from error


def _with_way(model: nn.Module, place: Place) -> Place:
    """A place with the way into its host."""
    host = model.get_submodule(place.module)
    if place.how == "before":
        return place
    if runs_its_children(host):
        return replace(place, how="last_child")
    outer = model.get_submodule(place.module.rpartition(".")[0])
    if is_own_container(host) and runs_its_children(outer):
        return replace(place, how="behind")
    return place


def _instead(flow: Dataflow, place: Place) -> Place:
    call = next(call for call in flow.calls if call.module == place.module)
    shapes = [flow.nodes[node].shape for node in (*call.inputs, call.output) if node is not None]
    if not call.single or len(set(shapes)) != 1 or place.how != "after":
        raise ValueError(f"attention cannot replace {place.module}, which makes {shapes[-1]} from {shapes[:-1]}")
    return replace(place, how="instead")


def _verified(model: nn.Module, places: list[Insertion], example: torch.Tensor) -> list[Insertion]:
    """The places, after a trial in a copy: each layer runs once, and gives the shape that it gets."""
    trial = insert_at(deepcopy(model), places)
    try:
        flow = record(trial, example)
    except Exception as error:  # whatever a network or an attention of any kind raises
        raise ValueError(
            f"with attention at {places[0].module} and others the network does not run: {error}"
        ) from error
    names = {
        layer.insertion.module: name for name, layer in trial.named_modules() if isinstance(layer, InsertedAttention)
    }
    if again := [each for each in places if each.how == "after" and flow.times[names[each.module]] == 2]:
        # A host that runs whatever children it has, as RegNet's stages do.
        return _verified(model, [replace(p, how="last_child") if p in again else p for p in places], example)
    for insertion in places:
        name = names[insertion.module]
        if flow.times[name] != 1:
            raise ValueError(f"attention at {insertion.module} would run {flow.times[name]} times, not once")
        call = next(call for call in flow.calls if call.module == name)
        given = flow.nodes[call.inputs[0]].shape
        made = None if call.output is None else flow.nodes[call.output].shape
        if made != given:
            raise ValueError(
                f"{insertion.attention} makes {made} from {given} at {insertion.module}, not the same shape"
            )
    return places
