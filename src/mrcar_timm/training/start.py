"""Start a network from the weights of other networks, or from parts of them."""

from __future__ import annotations

from typing import Any

import timm
import torch

from ..data.labels import expression_or_name
from ..errors import RecipeError, WeightsError
from ..inputs import to_color, to_grey
from ..network import load_network
from .recipe import Recipe


def make_network(recipe: Recipe, channels: int, classes: tuple[str, ...]) -> Any:
    """A recipe's network with random weights.

    Args:
        recipe: Names the network and its arguments.
        channels: Channels of the images. A network of one is made for grey images, as it can be stored for three;
            ``multi_region``, of which that is not known, gets them three times.
        classes: Names of the classes.

    Raises:
        RecipeError: If there is no such network, or it does not take the arguments.
    """
    in_chans = 3 if recipe.model == "multi_region" else channels
    try:
        return timm.create_model(
            recipe.model,
            in_chans=in_chans,
            num_classes=len(classes),
            drop_rate=recipe.drop_rate,
            margin=recipe.margin,
            scale=recipe.scale,
            pretrained_cfg_overlay={
                "input_size": (in_chans, recipe.size, recipe.size),
                "label_names": list(classes),
            },
            **recipe.model_args,
        )
    except (TypeError, RuntimeError, ValueError, AssertionError) as error:  # timm asserts that it knows an attention
        raise RecipeError(f"no network {recipe.model} with {recipe.model_args}: {error}") from error


def load_start(model: Any, init: str, classes: tuple[str, ...]) -> None:
    """Load the weights of another network into one of the same shape.

    The head takes the classes that both know, "happy" as "happiness"; first convolutions are summed to grey for one of
    one channel. A network with fewer regions takes their branches, and their columns of the layer that fuses them.

    Raises:
        WeightsError: If the start is missing, or is a network of another shape.
    """
    start = load_network(init)
    state = state_for(model, start.model.state_dict())
    if model.regions != start.model.regions:
        state = _of_regions(state, start.model.regions, model.regions)
    own = {key: value.cpu() for key, value in model.state_dict().items()}
    for key in [key for key in state if key.startswith("head.")]:
        if key in own and own[key].shape[1:] == state[key].shape[1:]:
            known = dict(zip(start.labels, state[key], strict=True))
            rows = [known.get(name, known.get(expression_or_name(name))) for name in classes]
            state[key] = torch.stack([mine if row is None else row for row, mine in zip(rows, own[key], strict=True)])
        else:
            del state[key]  # an embedding of another width, or another kind of head
    odd = [key for key, value in state.items() if key not in own or own[key].shape != value.shape]
    odd += [key for key in own if key not in state and not key.startswith("head.")]
    if odd:
        raise WeightsError(f"{init} is a network of another shape; {len(odd)} tensors differ, such as {odd[0]}")
    model.load_state_dict(state, strict=False)


def load_branch(model: Any, region: str, init: str) -> None:
    """Load the branch of one region of another network.

    Raises:
        WeightsError: If that network is missing or has no such branch, or one of another shape.
    """
    prefix = f"branches.{region}."
    state = {
        key: value
        for key, value in state_for(model, load_network(init).model.state_dict()).items()
        if key.startswith(prefix)
    }
    own = {key: value for key, value in model.state_dict().items() if key.startswith(prefix)}
    if not own or {key: value.shape for key, value in state.items()} != {key: v.shape for key, v in own.items()}:
        raise WeightsError(f"{init} has no branch for {region!r} of this network's shape")
    model.load_state_dict(state, strict=False)


def state_for(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights for three channels, or one, as a network takes them that has one, or three."""
    return to_grey(state) if model.in_chans == 1 else to_color(state) if model.in_chans == 3 else state


def _of_regions(
    state: dict[str, torch.Tensor], known: tuple[str, ...], wanted: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """The part of a state dict that belongs to some of its regions."""
    fusion = dict(zip(known, state["fusion.0.weight"].chunk(len(known), 1), strict=True))
    unseen = tuple(f"branches.{name}." for name in known if name not in wanted)
    state = {key: value for key, value in state.items() if not key.startswith(unseen)}
    return {**state, "fusion.0.weight": torch.cat([fusion[name] for name in wanted if name in fusion], 1)}
