"""A program for torchrun: trains a recipe, and writes what this process has then.

    torchrun --nproc-per-node 2 tests/train_together.py DATA RUN RECIPE [exact]

With "exact" all that depends on how a batch is shared out is off: changes to images, statistics of
batches, and rounding to bfloat16.
"""

import json
import sys
import time
from pathlib import Path

import torch

from mrcar_timm.training import batches, engine
from mrcar_timm.training.batches import load_training
from mrcar_timm.training.engine import Trainer
from mrcar_timm.training.group import joined_group
from mrcar_timm.training.recipe import load_recipe

torch.set_num_threads(1)
data, run, recipe_file, *exact = sys.argv[1:]
recipe = load_recipe(recipe_file)
with joined_group() as group:
    with group.one_by_one():
        begin = time.time()
        splits = load_training(recipe, Path(data))
        Path(f"{run}.{group.rank}.json").write_text(json.dumps({"begin": begin, "end": time.time()}))
    trainer = Trainer(recipe, *splits, Path(run), group=group)
    if exact:
        engine.autocast = lambda device: torch.autocast(device.type, enabled=False)  # bfloat16 has three digits
        batches.random_changes = lambda n, *_: torch.eye(3, dtype=torch.float64).expand(n, 3, 3)
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
                module.train = lambda mode=True, module=module: module
    trainer.fit()
    torch.save(trainer.model.state_dict(), f"{run}.{group.rank}.pt")
