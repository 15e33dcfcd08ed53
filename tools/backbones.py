"""Backbones of timm's behind the regions, beside mrcar_resnet, on a part of FER2013.

    python -m tools.backbones train fer2013    # goes on where it was stopped
    python -m tools.backbones speed            # on a quiet machine; then python -m tools.tables

All start from random weights, of one seed, and see the same 4,000 images in the same order for the same epochs. The
test split is not read.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import typer

from mrcar_timm.models.inference import optimize_for_inference
from mrcar_timm.output import write_text
from mrcar_timm.provenance import provenance
from mrcar_timm.training.batches import load_training
from mrcar_timm.training.engine import Trainer
from mrcar_timm.training.evaluate import predict_logits
from mrcar_timm.training.recipe import Recipe
from mrcar_timm.training.start import make_network

OUT = Path(__file__).parent.parent / "results" / "backbones.json"
BACKBONES = (
    "resnet18", "mobilenetv3_small_100", "mobilenetv4_conv_small", "convnext_atto", "efficientnet_b0", "regnetx_002",
)  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "no regions": {"regions": ["face"]},
    "no attention": {"attention": "none"},
}
BUDGET = Recipe(limit=4000, epochs=4, batch_size=64, average=0.98)

app = typer.Typer(add_completion=False)


def recipe_of(network: str, variant: str) -> Recipe:
    args = dict(VARIANTS[variant])
    if network == "mrcar_resnet":
        if "attention" in args:
            args["attn_layer"] = args.pop("attention")
        return BUDGET.changed({"model_args": args})
    return BUDGET.changed({"model": "multi_region", "model_args": {"backbone": network, **args}})


def read() -> dict[str, Any]:
    return json.loads(OUT.read_text()) if OUT.exists() else {"rows": []}


def write(found: dict[str, Any]) -> None:
    write_text(OUT, json.dumps(found, indent=2) + "\n")


@app.command()
def train(data: Path) -> None:
    """Train and score what is not scored yet."""
    found = read()
    splits: dict[tuple[str, ...], Any] = {}
    for variant in VARIANTS:
        for network in ("mrcar_resnet", *BACKBONES):
            if any((row["network"], row["variant"]) == (network, variant) for row in found["rows"]):
                continue
            recipe = recipe_of(network, variant)
            if recipe.regions not in splits:
                splits[recipe.regions] = load_training(recipe, data)
            training, validation = splits[recipe.regions]
            begin = time.time()
            with tempfile.TemporaryDirectory() as folder:
                trainer = Trainer(recipe, training, None, Path(folder) / "run")
                trainer.fit()
            seconds = time.time() - begin
            model = trainer.average.module
            logits = predict_logits(model, validation.batches)[0]
            row = {
                "network": network,
                "variant": variant,
                "accuracy": float((logits.argmax(1) == validation.batches.labels).float().mean()),
                "parameters": sum(p.numel() for p in model.parameters()),
                "train_seconds": round(seconds, 1),
            }
            print(json.dumps(row), flush=True)
            found = {
                **read(),
                "rows": [*found["rows"], row],
                "data": {"train": training.summary(), "validation": validation.summary()},
                "recipe": BUDGET.to_dict(),
                "made_by": found.get("made_by") or provenance(),
            }
            write(found)


@app.command()
def speed(rounds: int = 15) -> None:
    """Milliseconds for the regions of one face on one thread: medians of rounds in which all take their turn."""
    torch.set_num_threads(1)
    networks = {}
    for row in read()["rows"]:
        recipe = recipe_of(row["network"], row["variant"])
        model = make_network(recipe, 3, tuple("abcdefg"))
        x = torch.rand(1, len(recipe.regions), 3, recipe.size, recipe.size)
        networks[row["network"], row["variant"]] = (optimize_for_inference(model), x)
    times: dict[Any, list[float]] = {key: [] for key in networks}
    with torch.inference_mode():
        for _ in range(rounds):
            for key, (model, x) in networks.items():
                model(x)
                begin = time.perf_counter()
                for _ in range(5):
                    model(x)
                times[key].append((time.perf_counter() - begin) / 5 * 1000)
    found = read()
    for row in found["rows"]:
        row["ms"] = round(statistics.median(times[row["network"], row["variant"]]), 2)
    found["speed_made_by"] = provenance()
    write(found)


if __name__ == "__main__":
    app()
