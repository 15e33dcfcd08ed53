"""Into which networks of timm attention can be inserted: the smallest three of each module, on all kinds of places.

python -m tools.insertion    # then python -m tools.tables

Weights and batch-norm statistics are random. In each place found the network must compute what it did before, to the
bit; in a copy too; its checkpoint must fit; and it must be itself again when the attention is taken out.
"""

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import typer
from torch import nn

from mrcar_timm import insert_attention, remove_attention
from mrcar_timm.cli.console import bar
from mrcar_timm.layers.insert import InsertedAttention, insertions
from mrcar_timm.output import write_text
from mrcar_timm.provenance import provenance

OUT = Path(__file__).parent.parent / "results" / "insertion.json"
WHERE = ("residual", "stages", "attention")
OURS = {"mrcar_resnet", "attended"}
LARGEST = 140e6


def smallest_networks(each: int = 3) -> Iterator[tuple[str, str]]:
    """The smallest networks of each module of timm, as (module, network)."""
    for module in sorted(set(timm.list_modules()) - OURS):
        sizes = []
        for name in timm.list_models(module=module):
            with torch.device("meta"), contextlib.suppress(Exception):  # some need values as they are made
                sizes.append((sum(p.numel() for p in timm.create_model(name).parameters()), name))
        yield from ((module, name) for size, name in sorted(sizes)[:each] if size <= LARGEST)


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give a network random weights and statistics: nothing in it is zero or one by its initialization."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.7, 1.4, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2 or not parameter.any():
                parameter.add_(torch.rand(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def example_of(model: Any, batch: int = 1) -> torch.Tensor:
    size = model.pretrained_cfg["input_size"]
    return torch.rand(batch, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def check(model: nn.Module, where: str, x: torch.Tensor, expected: torch.Tensor) -> int:
    """Insert attention, check what must hold, take it out: the number of places.

    Raises:
        ValueError: If there are none.
        AssertionError: If something does not hold.
    """
    plain = {key: value.clone() for key, value in model.state_dict().items()}
    insert_attention(model, "coord", where)
    places = len(insertions(model))
    with torch.inference_mode():
        assert torch.equal(model(x), expected), "another result"
        # In other memory a convolution may round otherwise.
        torch.testing.assert_close(copy.deepcopy(model)(x), expected, msg="another result of a copy")
    state = model.state_dict()
    inserted = {key for key in state if key not in plain}
    assert inserted, "no keys"
    assert all("inserted_attn" in key for key in inserted), "other keys"
    assert all(torch.equal(state[key], value) for key, value in plain.items()), "other weights"
    missing, unexpected = model.load_state_dict(plain, strict=False)
    assert set(missing) <= inserted, "a checkpoint of the plain network lacks more than what was inserted"
    assert not unexpected, "a checkpoint of the plain network has more than is needed"
    for layer in model.modules():
        if isinstance(layer, InsertedAttention):
            nn.init.normal_(layer.attn.conv_h.weight)
    with torch.inference_mode():
        assert not torch.equal(model(x), expected), "no effect once it is trained"
    remove_attention(model)
    assert list(model.state_dict()) == list(plain), "other keys after removal"
    with torch.inference_mode():
        assert torch.equal(model(x), expected), "another result after removal"
    return places


def sweep_one(module: str, name: str) -> dict[str, Any]:
    torch.manual_seed(0)
    model = randomize(timm.create_model(name))
    x = example_of(model)
    with torch.inference_mode():
        expected = model(x)
    assert expected.isfinite().all()
    row: dict[str, Any] = {"module": module, "network": name, "errors": {}}
    for where in WHERE:
        row[where], error = places_or_error(copy.deepcopy(model), where, x, expected)
        row["errors"] |= {where: error} if error else {}
    return row


def places_or_error(model: nn.Module, *args: Any) -> tuple[int | None, str | None]:
    """The number of places, 0 if there are none, None if something does not hold; and why."""
    try:
        return check(model, *args), None
    except ValueError as error:
        return 0, str(error)
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def main() -> None:
    networks = list(bar(smallest_networks(), "networks of timm", 3 * len(timm.list_modules())))
    rows, made_by = [], provenance()
    for module, name in bar(networks, "inserting", len(networks)):
        try:
            rows.append(sweep_one(module, name))
        except Exception as error:
            rows.append({"module": module, "network": name, "errors": {"network": f"{type(error).__name__}: {error}"}})
        write_text(OUT, json.dumps({"made_by": made_by, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
