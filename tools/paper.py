"""The paper's tables within minutes on one GPU: CK+ in ten folds by three protocols, and ablations on FER2013.

    python -m tools.paper prepare data/fer data/ck/CK+48 .gpu/paper.tar.xz
    python -m tools.paper run .gpu/paper.tar.xz $OUT ckplus --device cuda
    python -m tools.paper run .gpu/paper.tar.xz $OUT fer2013 --device cuda

``prepare`` packs images and landmarks, so that facenet-pytorch is not needed there; pydantic and platformdirs are.
``run`` trains several networks at once, each in a process of its own, and stops after its seconds. What is done by then
is in OUT: for CK+ the ``crossval.json`` of each protocol over the folds that are finished, for FER2013 the logs of the
runs.
"""

import json
import shutil
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

import typer

from mrcar_timm.data.splits import read_part
from mrcar_timm.experiments.ablate import PAPERS, ablate
from mrcar_timm.experiments.crossval import FOLD_PROTOCOLS, cross_validate, cut_folds, train_fold
from mrcar_timm.provenance import provenance
from mrcar_timm.training.batches import make_split
from mrcar_timm.training.recipe import Recipe, load_recipe

FOLDS, SEEDS = 10, (0, 1, 2)
EPOCHS = {"ckplus": 100, "fer2013": 60}
WORK = Path("/tmp/paper")

app = typer.Typer(add_completion=False)
Epochs = Annotated[int, typer.Option()]


def recipe_of(stage: str, epochs: int) -> Recipe:
    """The paper's schedule on CK+; on FER2013 a cycle of AdamW, which reaches more in as few epochs."""
    return load_recipe("ckplus-paper" if stage == "ckplus" else "fer2013").changed({"epochs": epochs})


@app.command()
def fold(protocol: str, number: int, epochs: int, device: str = "cpu") -> None:
    """Train and test one fold of CK+."""
    data, recipe = WORK / "CK+48", recipe_of("ckplus", epochs)
    images = read_part("ckplus", data, "all")
    whole = make_split(images, data, recipe.regions, recipe.size, device)
    train_fold(whole, cut_folds(images, protocol, FOLDS, recipe.seed), number, recipe, WORK / protocol, device)


@app.command()
def variant(name: str, seed: int, epochs: int, device: str = "cpu") -> None:
    """Train one variant on FER2013."""
    ablate(recipe_of("fer2013", epochs), WORK / "fer", WORK / "fer2013", [name], [seed], device=device)


@app.command()
def prepare(fer: Path, ckplus: Path, out: Path) -> None:
    """Pack what ``run`` needs; a file's order by name puts like images together."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out, "w:xz", preset=6) as archive:
        for folder, name in ((ckplus, "CK+48"), (fer, "fer")):
            for file in sorted(folder.rglob("*")):
                part = file.relative_to(folder)
                if file.is_file():
                    archive.add(file, f"{name}/{part}")
    print(f"{out.stat().st_size / 2**20:.1f} MiB")


@app.command()
def run(
    archive: Path,
    out: Path,
    stage: Literal["ckplus", "fer2013"],
    device: str = "cpu",
    seconds: float = 520,
    at_once: int = 5,
    epochs: int | None = None,
) -> None:
    """Train what the stage asks for, several at once, until the seconds have passed."""
    begin = time.time()
    out.mkdir(parents=True, exist_ok=True)
    if not WORK.exists():
        with tarfile.open(archive) as packed:
            packed.extractall(WORK, filter="data")
    epochs = epochs or EPOCHS[stage]
    jobs = (
        [["fold", protocol, str(n)] for protocol in reversed(FOLD_PROTOCOLS) for n in range(FOLDS)]  # the longest first
        if stage == "ckplus"
        else [["variant", name, str(seed)] for seed in SEEDS for name in PAPERS]
    )

    def work(job: list[str]) -> None:
        left = seconds - 15 - (time.time() - begin)
        if left > 0:
            command = [sys.executable, "-m", "tools.paper", *job, str(epochs), "--device", device]
            try:
                code = subprocess.run(command, timeout=left, check=False).returncode
            except subprocess.TimeoutExpired:
                code = -1
            print(f"{' '.join(job)}: exit {code} after {time.time() - begin:.0f} s", flush=True)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(work, jobs))
    if stage == "ckplus":
        for protocol in FOLD_PROTOCOLS:
            done = next(
                (n for n in range(FOLDS) if not (WORK / protocol / f"fold_{n}" / "scores.json").exists()), FOLDS
            )
            if done:
                cross_validate(recipe_of(stage, epochs), WORK / "CK+48", WORK / protocol, protocol, FOLDS, done, device)
                shutil.copy(WORK / protocol / "crossval.json", out / f"{protocol}.json")
    else:
        logs = {str(log.parent.relative_to(WORK)): log.read_text() for log in sorted(WORK.glob("fer2013/*/*/log.csv"))}
        (out / "logs.json").write_text(json.dumps(logs, indent=2) + "\n")
    about = {"stage": stage, "epochs": epochs, "seconds": time.time() - begin, "made_by": provenance()}
    (out / f"{stage}.json").write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    app()
