import atexit
import csv
import gc
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .hub_server import TOKEN, HubServer

#: The Hub of this process. Its client reads the environment as it is imported: this comes before all that does so.
HUB = HubServer()
_HOME = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ |= {
    "XDG_CACHE_HOME": str(_HOME / "cache"),
    "HF_ENDPOINT": HUB.url, "HF_HOME": str(_HOME), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "0", "COLUMNS": "100", "NO_COLOR": "1",
}  # fmt: skip

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes gain more by one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# ruff: noqa: E402
import numpy as np
import pytest
import timm
import torch
from PIL import Image

import mrcar_timm
from mrcar_timm import hub
from mrcar_timm.layers import CoordAttn
from mrcar_timm.training.batches import load_training
from mrcar_timm.training.engine import Trainer
from mrcar_timm.training.recipe import Recipe

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that others run beside it."""
    items.sort(key=lambda item: "soak" not in item.nodeid)


def pytest_collection_finish() -> None:
    """Imported modules stay, and the garbage collector need not scan them: that took a sixth of an export's time."""
    gc.collect()
    gc.freeze()


def wait_while_running(process: subprocess.Popen, ready: Callable[[], bool], seconds: float = 100) -> None:
    """Wait until a file that the process writes is as ready as told; the process must still run then."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)  # nothing tells of another process's writing but a look at the file
    assert process.poll() is None


#: A training of a second.
SMALL = Recipe(epochs=2, batch_size=8, model_args={"stem_width": 8, "widths": [16, 16, 16], "embed_dim": 16}, lr=0.02)


def replaced(recipe: Recipe, **values) -> Recipe:
    """The recipe with other values in place of its own."""
    return Recipe(**{**recipe.to_dict(), **values})


@pytest.fixture(scope="session")
def portrait() -> Image.Image:
    """The portrait in examples/: one smiling face."""
    with Image.open(EXAMPLES / "collins.jpg") as image:
        return image.convert("RGB")


@pytest.fixture(scope="session")
def recognizer() -> mrcar_timm.ExpressionRecognizer:
    return mrcar_timm.ExpressionRecognizer()


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it is published, of the default weights."""
    folder = tmp_path_factory.mktemp("published")
    hub.save("mrcar_resnet.fer2013", folder, "ORG/faces")
    return folder


@pytest.fixture
def model() -> torch.nn.Module:
    """An untrained network whose residual branches do something, in evaluation mode."""
    return shaken(timm.create_model("mrcar_resnet"))


def shaken(net: torch.nn.Module) -> torch.nn.Module:
    """The network with other weights where it starts with zeros, in evaluation mode."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
        elif isinstance(module, CoordAttn):
            torch.nn.init.normal_(module.conv_h.weight, std=0.5)
            torch.nn.init.normal_(module.conv_w.weight, std=0.5)
    return net.eval()


@pytest.fixture
def fer_folder(tmp_path: Path, make_fer_folder: Callable[[Path], Path]) -> Path:
    """A small data set in FER2013's layout: 48×48 crops of the portrait, with its mouth upside down and without."""
    return make_fer_folder(tmp_path)


@pytest.fixture(scope="session")
def make_fer_folder(portrait: Image.Image) -> Callable[[Path], Path]:
    """Makes a small data set in FER2013's layout in a folder."""
    return lambda folder: write_fer_folder(folder, portrait)


def frown(pixels: np.ndarray) -> np.ndarray:
    """A crop of the portrait with the mouth upside down and in negative."""
    changed = pixels.copy()
    changed[30:44, 12:36] = 255 - pixels[30:44, 12:36][::-1]
    return changed


def write_fer_folder(place: Path, portrait: Image.Image, train: int = 8) -> Path:
    """Write a data set in FER2013's layout, of noisy crops of the portrait; so many of each class are to train on."""
    rng = np.random.default_rng(0)
    head = portrait.crop((160, 40, 290, 170)).convert("L").resize((48, 48), Image.Resampling.LANCZOS)
    pixels = np.asarray(head).astype(np.float32)
    number = 0
    counts = {"train": train, "validation": 3, "test": 3}
    usage = {"train": "Training", "validation": "PublicTest", "test": "PrivateTest"}
    for split, count in counts.items():
        for name, face in (("happy", pixels), ("sad", frown(pixels))):
            folder = place / "fer" / split / name
            folder.mkdir(parents=True)
            for _ in range(count):
                noisy = face + rng.normal(0, 4, (48, 48))
                image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
                image.save(folder / f"{usage[split]}_{number}.png")
                number += 1
    return place / "fer"


@pytest.fixture
def ckplus_folder(tmp_path: Path, portrait: Image.Image) -> Path:
    """A small data set in CK+'s layout: four subjects, two expressions, three frames of a sequence each."""
    rng = np.random.default_rng(0)
    head = portrait.crop((160, 40, 290, 170)).convert("L").resize((48, 48), Image.Resampling.LANCZOS)
    pixels = np.asarray(head).astype(np.float32)
    for session, (name, face) in enumerate((("contempt", frown(pixels)), ("happy", pixels)), start=1):
        folder = tmp_path / "ckplus" / name
        folder.mkdir(parents=True)
        for subject in range(10, 14):
            for frame in range(3):
                noisy = face + rng.normal(0, 4, (48, 48))
                image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
                image.save(folder / f"S0{subject}_00{session}_0000001{frame}.png")
    return tmp_path / "ckplus"


VOTES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")


def vote(folder: Path, counts: dict[str, dict[str, int]]) -> None:
    """Write ferplus.csv: votes for images by the name of their file."""
    with open(folder / "ferplus.csv", "w", newline="") as out:
        writer = csv.DictWriter(out, ["split", "image", "ferplus_image", *VOTES], restval=0)
        writer.writeheader()
        writer.writerows({"split": "train", "image": name, **votes} for name, votes in counts.items())


def trainer_of(recipe: Recipe, data: Path, run: Path) -> Trainer:
    """A trainer of a recipe on a data set."""
    return Trainer(recipe, *load_training(recipe, data), run)
