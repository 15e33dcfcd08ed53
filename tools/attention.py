"""Does inserted attention help? Small timm networks with and without it, on FER2013's validation split.

python -m tools.attention fer2013    # goes on where it was stopped; then python -m tools.tables

Each network sees the aligned face alone, from random weights that are the same for all attentions of a seed, as are the
order of the images and their augmentation. The test split is not read.
"""

import itertools
import json
import time
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import torch.nn.functional as F
import typer
from timm.optim import create_optimizer_v2
from torch import nn

from mrcar_timm import insert_attention
from mrcar_timm.output import write_text
from mrcar_timm.precision import autocast
from mrcar_timm.provenance import provenance
from mrcar_timm.training.batches import Split, load_training
from mrcar_timm.training.evaluate import predict_logits
from mrcar_timm.training.recipe import Augmentation, Recipe

OUT = Path(__file__).parent.parent / "results" / "attention.json"
NETWORKS = ("resnet10t", "regnetx_002")
ATTENTIONS = ("none", "se", "coord")
SEEDS = (0, 1, 2)


class OfFace(nn.Module):
    """A network of images as one of the face region: (B, 1, 1, H, W) to logits."""

    in_chans = 1

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, regions: torch.Tensor) -> torch.Tensor:
        return self.model(regions.flatten(0, 1))


def make(network: str, attention: str, seed: int) -> OfFace:
    torch.manual_seed(seed)
    model = timm.create_model(network, in_chans=1, num_classes=7)
    if attention != "none":
        insert_attention(model, attention)
    return OfFace(model).to(memory_format=torch.channels_last)


def train(model: OfFace, data: Split, recipe: Recipe) -> float:
    """Train by the recipe's budget; the loss of the last epoch."""
    optimizer = create_optimizer_v2(model, "adamw", lr=recipe.lr, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * (len(data.batches) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [g["lr"] for g in optimizer.param_groups], steps)
    generator = torch.Generator().manual_seed(recipe.seed)
    model.train()
    for _ in range(recipe.epochs):
        losses = []
        for regions, targets in data.batches.training(recipe.batch_size, recipe.augmentation, generator):
            with autocast(data.batches.device):
                logits = model(regions)
            loss = F.cross_entropy(logits.float(), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


def score(model: OfFace, data: Split) -> dict[str, float]:
    logits = predict_logits(model, data.batches)[0]
    labels = data.batches.labels
    correct = (logits.argmax(1) == labels).double().mean()
    return {"accuracy": float(correct), "nll": float(F.cross_entropy(logits, labels))}


def main(
    data: Annotated[Path, typer.Argument(help="FER2013.")],
    epochs: Annotated[int, typer.Option(help="Passes over the training split.")] = 3,
    threads: Annotated[int, typer.Option(help="Threads of PyTorch.")] = 1,
) -> None:
    torch.set_num_threads(threads)
    budget = {"epochs": epochs, "batch_size": 64, "lr": 2e-3, "size": 44, "regions": ["face"]}
    recipe = Recipe(
        data="fer2013", model_args={"regions": ["face"]}, **{k: budget[k] for k in budget if k != "regions"}
    )
    training, validation = load_training(recipe, data)
    found: dict[str, Any] = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {"rows": []}
    found |= {"made_by": provenance(), "budget": budget, "augmentation": Augmentation().to_dict()}
    found |= {"training": training.summary(), "validation": validation.summary()}
    done = {(row["network"], row["attention"], row["seed"]) for row in found["rows"]}
    for seed, network, attention in itertools.product(SEEDS, NETWORKS, ATTENTIONS):
        if (network, attention, seed) in done:
            continue
        start = time.perf_counter()
        model = make(network, attention, seed)
        loss = train(model, training, recipe.changed({"seed": seed}))
        row = {"network": network, "attention": attention, "seed": seed, "loss": loss, **score(model, validation)}
        row |= {"parameters": sum(p.numel() for p in model.parameters()), "seconds": time.perf_counter() - start}
        found["rows"].append(row)
        write_text(OUT, json.dumps(found, indent=2) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    typer.run(main)
