"""Processes that train one network together, each on its share of every batch."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import distributed, nn

from ..errors import MRCARError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

# While the first process looks for the faces of a large data set, the others wait. That one has died they are told by
# the connection, at once.
_PATIENCE = timedelta(days=1)


def _together(function: Callable[P, R]) -> Callable[P, R]:
    """Say what it means where the others do not answer."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise MRCARError(f"another process of this training has ended, or cannot be reached ({reason})") from error

    return guarded


@dataclass(frozen=True)
class Group:
    """The processes of a training, of which this is one. The default is one process, alone.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
        local_rank: Its number on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """Number of this process and how many there are."""
        return self.rank, self.size

    def own(self, device: str) -> str:
        """The device of this process: of "cuda" the GPU with its number."""
        return f"cuda:{self.local_rank}" if device == "cuda" and self.size > 1 else device

    @contextmanager
    def one_by_one(self) -> Iterator[None]:
        """Let the first process of each machine do something before the others do, such as filling a cache."""
        if self.local_rank > 0:
            self._wait()
        yield
        if self.local_rank == 0:
            self._wait()

    @_together
    def _wait(self) -> None:
        if self.size > 1:
            distributed.barrier()

    @_together
    def tell(self, value: T) -> T:
        """What the first process has for a value."""
        if self.size == 1:
            return value
        values: list[Any] = [value if self.is_first else None]
        distributed.broadcast_object_list(values)
        return values[0]

    @_together
    def gather(self, value: T) -> list[T]:
        """What each process has for a value."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    @_together
    def average(self, model: nn.Module, weight: torch.Tensor) -> None:
        """Average gradients, and the statistics of layers that learn them, over the processes, in place.

        Args:
            model: The network.
            weight: How much those of this process count, a scalar.
        """
        if self.size == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        # What is frozen stays as it is, to the last bit.
        learning = [module for module in model.modules() if module.training]
        statistics = [b for module in learning for b in module.buffers(recurse=False) if b.is_floating_point()]
        tensors = [*gradients, *statistics]
        flat = torch.cat([*(tensor.float().flatten() * weight for tensor in tensors), weight.float().reshape(1)])
        distributed.all_reduce(flat)
        *parts, _ = (flat / flat[-1]).split([*(tensor.numel() for tensor in tensors), 1])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    @_together
    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of tensors over the processes."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values


@contextmanager
def joined_group() -> Iterator[Group]:
    """The group of this process, as torchrun tells it; else this process alone.

    Raises:
        MRCARError: If the others cannot be reached.
    """
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys() or os.environ["WORLD_SIZE"] == "1":
        yield Group()
        return
    group = Group(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:  # all on this machine: on the loopback alone
        loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
        if loopback is not None:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    if torch.cuda.is_available():
        torch.cuda.set_device(group.local_rank % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    _together(distributed.init_process_group)(backend, timeout=_PATIENCE)
    try:
        yield group
    finally:
        distributed.destroy_process_group()
