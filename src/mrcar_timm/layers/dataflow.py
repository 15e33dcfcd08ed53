"""What a network does with its input: which operation made which tensor, in the call of which module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_WEIGHTED = {"convolution", "_convolution", "addmm", "mm", "bmm", "baddbmm", "linear"}


@dataclass(frozen=True)
class Node:
    """A tensor.

    Attributes:
        op: Operation that made it, by its name in ATen.
        inputs: Nodes that it was made from.
        shape: Its shape.
        call: The innermost call of a module that it was made in, -1 outside of all.
    """

    op: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    call: int

    @property
    def weighted(self) -> bool:
        """Whether it was made by a convolution or a matrix product."""
        return self.op in _WEIGHTED or self.op.startswith("_scaled_dot_product")


@dataclass
class Call:
    """A call of a module.

    Attributes:
        module: Name of the module.
        parent: The call that it was made in, -1 for none.
        inputs: Nodes among its arguments.
        single: Whether it takes one tensor and nothing else.
        output: The node that it gives, None if it gives something else than one tensor.
    """

    module: str
    parent: int
    inputs: tuple[int, ...]
    single: bool
    output: int | None = None


class Dataflow:
    """A forward pass as a graph of :class:`Node`, in the order in which they were made, with its :class:`Call` list."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.calls: list[Call] = []

    @cached_property
    def times(self) -> Counter[str]:
        """How often each module was called."""
        return Counter(call.module for call in self.calls)

    @cached_property
    def _ancestors(self) -> list[int]:
        """For each node itself and all that it was made from, as bits."""
        ancestors: list[int] = []
        for index, node in enumerate(self.nodes):
            bits = 1 << index
            for parent in node.inputs:
                bits |= ancestors[parent]
            ancestors.append(bits)
        return ancestors

    def leads_to(self, start: int, end: int) -> bool:
        """Whether a node was made from another, or is it."""
        return bool(self._ancestors[end] >> start & 1)

    def common_ancestor(self, a: int, b: int) -> int | None:
        """The last node that both were made from."""
        common = self._ancestors[a] & self._ancestors[b]
        return common.bit_length() - 1 if common else None

    def weights_between(self, start: int, end: int) -> int | None:
        """The most convolutions and matrix products on a path between two nodes, None if there is no path."""
        most = {start: 0}
        for index in range(start + 1, end + 1):
            if self.leads_to(start, index) and self.leads_to(index, end):
                node = self.nodes[index]
                most[index] = max(most[parent] for parent in node.inputs if parent in most) + node.weighted
        return most.get(end)

    def calls_within(self, call: int) -> list[Call]:
        """Calls made in a call, directly or not, in their order."""
        within = {call}
        for index in range(call + 1, len(self.calls)):
            if self.calls[index].parent in within:
                within.add(index)
        return [self.calls[index] for index in sorted(within - {call})]


def record(model: nn.Module, example: torch.Tensor) -> Dataflow:
    """Run a network once, in evaluation mode, and record what it does.

    The network stays as it is: what runs is a copy, since some fill caches. It runs on the meta device, without values
    and at no cost, where the network lets it; else on the device of the example.
    """
    try:
        return _run(_on_meta(model), example.to("meta"))
    except Exception:  # of any kind: the network needs values, or has tensors that are not registered
        return _run(deepcopy(model), example)


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy with the shapes of its tensors and no values."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    return deepcopy(model, memo)


def _run(model: nn.Module, example: torch.Tensor) -> Dataflow:
    recorder = _Recorder()
    for name, module in model.eval().named_modules():
        recorder.follow(name, module)
    recorder.add(example, "input", ())
    with torch.no_grad(), recorder:
        model(example)
    return recorder.flow


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.flow = Dataflow()
        self.stack = [-1]
        self.node_of: dict[int, int] = {}
        self.alive: list[torch.Tensor] = []  # as long as they live, an id is of one tensor

    def add(self, tensor: torch.Tensor, op: str, inputs: tuple[int, ...]) -> None:
        self.alive.append(tensor)
        self.node_of[id(tensor)] = len(self.flow.nodes)
        self.flow.nodes.append(Node(op, inputs, tuple(tensor.shape), self.stack[-1]))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = self._nodes((args, kwargs))
        if inputs:  # whatever was made from weights alone is no part of the flow
            for tensor in _tensors(result):
                self.add(tensor, func._schema.name.split("::")[-1], inputs)
        return result

    def follow(self, name: str, module: nn.Module) -> None:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            single = len(args) == 1 and isinstance(args[0], torch.Tensor) and not kwargs
            self.flow.calls.append(Call(name, self.stack[-1], self._nodes((args, kwargs)), single))
            self.stack.append(len(self.flow.calls) - 1)

        def leave(module: nn.Module, args: Any, result: Any) -> None:
            call = self.flow.calls[self.stack.pop()]
            if isinstance(result, torch.Tensor):
                call.output = self.node_of.get(id(result))

        module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
        module.register_forward_hook(leave)

    def _nodes(self, value: Any) -> tuple[int, ...]:
        return tuple(self.node_of[id(tensor)] for tensor in _tensors(value) if id(tensor) in self.node_of)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
