"""Places in a network where attention over feature maps can go, found from what the network does."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from timm.layers import DropPath
from torch import nn

from .dataflow import Call, Dataflow

How = Literal["after", "before", "last_child", "behind", "instead"]


@dataclass(frozen=True)
class Place:
    """A feature map that attention is put on.

    Attributes:
        module: Name of the module, its host.
        channels: Channels of the map.
        channels_last: Whether the map is (B, H, W, C) instead of (B, C, H, W).
        how: "after" or "before" the host by a hook of it; as "last_child" of a host that runs its children; "behind"
            the host in the nn.Sequential around it; or "instead" of the host.
    """

    module: str
    channels: int
    channels_last: bool = False
    how: How = "after"


# These pass on what they are given, and leave no room between them and a sum.
_PASSING = (nn.Identity, nn.Dropout, nn.Dropout2d, DropPath)
# Names under which networks of timm keep an nn.Identity in place of attention.
_SLOTS = {"se", "se_early", "attn", "attn_last"}
# Operations between the end of a branch and the sum: scales, drops, copies.
_POINTWISE = {"mul", "mul_", "div", "div_", "add", "add_", "clone", "native_dropout", "_to_copy", "alias", "detach"}


def find_places(model: nn.Module, flow: Dataflow, where: str | Sequence[str]) -> list[Place]:
    """Find places in a network.

    Args:
        model: The network.
        flow: What it does with a square image.
        where: "residual", "stages", "attention", or names of modules, in which * and ? stand for what is between two
            dots and ** for anything.

    Raises:
        ValueError: If there are none.
    """
    if not isinstance(where, str) or where not in _FINDERS:
        places = _by_name(model, flow, [where] if isinstance(where, str) else where)
    else:
        places = _FINDERS[where][0](model, flow)
    found = list(dict.fromkeys(places))
    if not found:
        raise ValueError(_nothing_found(model, flow, where) if isinstance(where, str) else "no module was named")
    return found


def is_own_container(host: nn.Module) -> bool:
    """Whether a host is a container whose own forward decides what becomes of its children."""
    return isinstance(host, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) and not runs_its_children(host)


def runs_its_children(host: nn.Module) -> bool:
    """Whether a host runs its children one after the other."""
    return isinstance(host, nn.Sequential) and type(host).forward is nn.Sequential.forward


# Residual branches


def _residual_branches(model: nn.Module, flow: Dataflow) -> Iterator[Place]:
    modules = dict(model.named_modules())
    sums: list[int] = []
    for index, node in enumerate(flow.nodes):
        if node.op not in ("add", "add_") or len(node.inputs) != 2 or node.call < 0 or not _is_map(node.shape):
            continue
        a, b = node.inputs
        start = flow.common_ancestor(a, b)
        if a == b or start is None or not flow.nodes[a].shape == flow.nodes[b].shape == node.shape:
            continue
        (short, _), (long, branch) = sorted((flow.weights_between(start, each) or 0, each) for each in (a, b))
        if short > 1 or long <= short:  # a shortcut has a projection at most
            continue
        # It starts where the block does, or at a sum within it: what Res2Net and HRNet add up does not.
        starts = (*flow.calls[node.call].inputs, *reversed(sums))
        if not any(flow.weights_between(each, start) == 0 for each in starts):
            continue
        sums.append(index)
        # What becomes one convolution in the end has no room for attention.
        if not hasattr(modules[flow.calls[node.call].module], "reparameterize"):
            place = _end_of_branch(modules, flow, branch, start, node.call)
            if place is not None:
                yield place


def _end_of_branch(modules: dict[str, nn.Module], flow: Dataflow, node: int, start: int, block: int) -> Place | None:
    """The last module of a branch, or the drop path before which its result can be changed."""
    within = [
        call
        for call in flow.calls_within(block)
        if flow.times[call.module] == 1 and not _is_fused(modules, call.module)
    ]
    within.sort(key=lambda call: (not call.single, call.module.count(".")))
    passing = [call for call in within if isinstance(modules[call.module], _PASSING)]
    others = [call for call in within if not isinstance(modules[call.module], _PASSING)]
    before = None
    while node != start:
        shape = flow.nodes[node].shape
        for call in others:
            if call.output == node:
                return _place(flow, call.module, node)
        for call in passing:
            if call.inputs == (node,) and before is None:
                before = _place(flow, call.module, node, "before")
        inputs = flow.nodes[node].inputs
        if flow.nodes[node].op not in _POINTWISE or len(inputs) != 1 or flow.nodes[inputs[0]].shape != shape:
            break
        node = inputs[0]
    return before


def _is_fused(modules: dict[str, nn.Module], name: str) -> bool:
    """Whether ``reparameterize_model`` puts another module in place of this one, or of one around it."""
    parts = name.split(".")
    return any(hasattr(modules[".".join(parts[:end])], "fuse") for end in range(1, len(parts) + 1))


# Stages


def _stages(model: nn.Module, flow: Dataflow) -> Iterator[Place]:
    info: Any = getattr(model, "feature_info", None) or ()  # networks of other packages have none
    channels: dict[str, int] = {}
    for entry in getattr(info, "info", info):
        # Networks that give features have the modules of the network under other names.
        name = entry["module"]
        flat = name.replace(".", "_")
        names = [each for each in (name, flat, f"model.{name}", f"body.{name}", f"body.{flat}") if each in flow.times]
        channels |= dict.fromkeys(names[:1], entry["num_chs"])
    outputs = _outputs(flow)
    for name, expected in channels.items():
        if name not in outputs or not _is_map(flow.nodes[outputs[name]].shape):
            continue  # tokens, or several maps
        place = _checked(flow, name)
        if place.channels != expected:
            raise ValueError(
                f"{name} gives {place.channels} channels, but feature_info says {expected}, so it is one part of a "
                "stage; name modules"
            )
        yield place


# Attention


def _attention(model: nn.Module, flow: Dataflow) -> Iterator[Place]:
    """Modules that multiply their input by a gate that weights make from it: SE, ECA, CBAM, CA, …"""
    found: list[str] = []
    outputs = _outputs(flow)
    for call in flow.calls:
        inside = any(call.module.startswith(f"{name}.") for name in found)
        if flow.times[call.module] == 1 and call.single and not inside and _is_gate(flow, call):
            found.append(call.module)
    if not found:  # but perhaps room for it
        slots = [name for name, module in model.named_modules() if isinstance(module, nn.Identity)]
        slots = [name for name in slots if name.split(".")[-1] in _SLOTS and flow.times[name] == 1]
        found = [name for name in slots if name in outputs and _is_map(flow.nodes[outputs[name]].shape)]
    for name in found:
        yield _checked(flow, name)


def _is_gate(flow: Dataflow, call: Call) -> bool:
    if call.output is None or not call.inputs or not _is_map(flow.nodes[call.output].shape):
        return False
    start = call.inputs[0]

    def gates(node: int) -> int | None:
        """How many gates lie between the input and a node, None if anything else does."""
        op, inputs = flow.nodes[node].op, flow.nodes[node].inputs
        if node == start:
            return 0
        if len(inputs) == 1 and op in ("permute", "clone"):
            return gates(inputs[0])
        if len(inputs) == 2:
            for x, gate in (inputs, inputs[::-1]):
                # Global context may add what it has pooled; a sum of two maps is a residual block.
                pooled = flow.nodes[gate].shape != flow.nodes[x].shape
                if op in ("mul", "mul_") or (op in ("add", "add_") and pooled):
                    count = gates(x)
                    if count is not None and flow.weights_between(start, gate):
                        return count + 1
        return None

    return bool(gates(call.output))


# By name


def _by_name(model: nn.Module, flow: Dataflow, patterns: Sequence[str]) -> Iterator[Place]:
    names = [name for name, _ in model.named_modules() if name]
    found: dict[str, None] = {}
    for pattern in patterns:
        expression = re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", r"[^.]*").replace(r"\?", "[^.]")
        matches = [name for name in names if re.fullmatch(expression, name)]
        if not matches:
            near = difflib.get_close_matches(pattern, [*_FINDERS, *names])
            raise ValueError(
                f"no module is named {pattern!r}; " + (f"near: {', '.join(near)}" if near else "none near")
            )
        found |= dict.fromkeys(matches)
    for name in found:
        yield _checked(flow, name)


def _checked(flow: Dataflow, name: str) -> Place:
    if flow.times[name] != 1:
        raise ValueError(f"{name} runs {flow.times[name]} times in a forward pass, not once")
    output = _outputs(flow).get(name)
    if output is None or not _is_map(flow.nodes[output].shape):
        gives = "no tensor" if output is None else f"{flow.nodes[output].shape} for a square image"
        raise ValueError(f"{name} gives {gives}: no feature map, (B, C, H, W) or (B, H, W, C)")
    return _place(flow, name, output)


# Feature maps


def _outputs(flow: Dataflow) -> dict[str, int]:
    return {call.module: call.output for call in flow.calls if call.output is not None}


def _is_map(shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a feature map: two of its sizes are alike, as those of the image are."""
    return len(shape) == 4 and (shape[2] == shape[3] or shape[1] == shape[2])


def _place(flow: Dataflow, name: str, node: int, how: How = "after") -> Place:
    _, first, middle, last = flow.nodes[node].shape
    channels_last = first == middle and (middle != last or _made_channels_last(flow, node))
    return Place(name, last if channels_last else first, channels_last, how)


def _made_channels_last(flow: Dataflow, node: int) -> bool:
    """Whether a tensor has its channels last, from what made it: its shape does not tell if all sizes are alike."""
    permuted = False
    while flow.nodes[node].inputs:
        op = flow.nodes[node].op
        if op == "convolution" or "batch_norm" in op:
            return permuted
        if op in ("addmm", "mm", "native_layer_norm"):
            return not permuted
        permuted ^= op == "permute" and len(flow.nodes[node].shape) == 4
        node = flow.nodes[node].inputs[0]
    return False


_Finder = Callable[[nn.Module, Dataflow], Iterator[Place]]

_FINDERS: dict[str, tuple[_Finder, str]] = {
    "residual": (_residual_branches, "the end of a residual branch, before it is added to its shortcut"),
    "stages": (_stages, "a stage that feature_info names"),
    "attention": (_attention, "a module that multiplies its input by a gate made from it, or room for one"),
}


def _nothing_found(model: nn.Module, flow: Dataflow, where: str) -> str:
    found: dict[str, int] = {}
    for other, (finder, _) in _FINDERS.items():
        with suppress(ValueError):
            found[other] = len(set(finder(model, flow)))
    instead = [f"where={other!r} finds {count}" for other, count in found.items() if count]
    if not instead and any(node.op == "add" and len(node.shape) == 3 for node in flow.nodes):
        instead = [
            "it computes on tokens (B, N, C), which have no rows and columns; name modules that give a map, if any"
        ]
    return (
        f"where={where!r} looks for {_FINDERS[where][1]}, with a map (B, C, H, W) or (B, H, W, C): "
        f"{type(model).__name__} has none; {', '.join(instead) or 'name modules that give a map'}"
    )
