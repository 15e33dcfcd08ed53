"""``tools.everyday`` and ``tools.everyday_weights``: what spoils images, calibration, and a run that is stopped."""

import io
import json
import lzma

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from tools import everyday
from tools.everyday_weights import RESULTS, balanced_temperature, runs_behind

from mrcar_timm.checkpoints.packaged import PACKAGED
from mrcar_timm.metrics import fit_temperature
from mrcar_timm.regions.geometry import similarity_from_landmarks, template_landmarks

from .conftest import frown


@pytest.fixture(scope="module")
def pixels(portrait) -> np.ndarray:
    """A face of 48×48 pixels, in grey."""
    head = portrait.crop((160, 40, 290, 170)).convert("L").resize((48, 48), Image.Resampling.LANCZOS)
    return np.asarray(head)


def as_batch(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy())[None, None].float() / 255


@pytest.mark.parametrize("quality", [10, 20, 50, 70])
def test_jpeg_is_what_pillow_writes(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    expected = np.asarray(Image.open(file)).astype(float)
    spoiler = everyday.Spoiler(48, torch.device("cpu"))
    ours = spoiler.jpeg(as_batch(pixels), torch.full((1, 1, 1, 1), float(quality)))[0, 0].numpy() * 255
    # Of 255; where a coefficient lies between two values, either may be taken.
    difference = np.abs(ours.round() - expected)
    assert (difference < 1.5).mean() > 0.9
    assert difference.mean() < 0.1 * np.abs(expected - pixels).mean()


def test_blur_is_gaussian(pixels):
    spoiler = everyday.Spoiler(48, torch.device("cpu"))
    ours = spoiler.sharpen(as_batch(pixels), torch.full((1, 1, 1, 1), 1.5), torch.full((1, 1, 1, 1), -1.0))
    expected = gaussian_filter(pixels / 255, 1.5, truncate=20)
    inside = np.s_[8:-8, 8:-8]  # at the border it weighs what is there
    np.testing.assert_allclose(ours[0, 0].numpy()[inside], expected[inside], atol=1e-4)


def test_each_set_counts_alike():
    """However many labels it has: as if all had as many."""
    torch.manual_seed(0)
    few, many = torch.randn(50, 5), torch.randn(200, 5)
    labels_few, labels_many = torch.randint(5, (50,)), many.argmax(1)
    found = balanced_temperature([(few, labels_few), (many, labels_many)])
    repeated = torch.cat([few.repeat(4, 1), many]), torch.cat([labels_few.repeat(4), labels_many])
    assert found == pytest.approx(fit_temperature(*repeated), rel=1e-6)
    assert found != pytest.approx(
        fit_temperature(torch.cat([few, many]), torch.cat([labels_few, labels_many])), rel=1e-2
    )


def test_a_grey_network_starts_as_the_mean_of_its_students():
    """Of one student twice it is that student; of two, the mean of each weight."""
    states = {head: everyday.read(file) for head, file in everyday.STUDENTS.items()}
    student = timm.create_model("mrcar_resnet", num_classes=0).eval()
    student.load_state_dict({key: value for key, value in states["ferplus"].items() if key != "head.weight"})
    taught = everyday.Taught("mrcar_resnet").eval()
    everyday.take_mean(
        taught, {head: {**states["ferplus"], "head.weight": states[head]["head.weight"]} for head in states}
    )
    grey = torch.randn(2, 3, 1, 44, 44, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(taught.backbone(grey), student(grey.expand(-1, -1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    for head, state in states.items():
        assert torch.equal(taught.heads[head].weight, state["head.weight"])
    key = "branches.eyes.conv1.conv.weight"
    everyday.take_mean(taught, states)
    mean = (states["fer2013"][key] + states["ferplus"][key]).sum(1, keepdim=True) / 2
    torch.testing.assert_close(taught.backbone.state_dict()[key], mean)


def test_packaged_runs_are_those_the_program_writes():
    found = json.loads((RESULTS / "everyday/scores.json").read_text())
    for tag in ("everyday", "fer2013", "ferplus"):
        assert runs_behind(everyday.Taught("mrcar_mobilenet"), found) == PACKAGED[f"mrcar_mobilenet.{tag}"].runs


def prepared(pixels: np.ndarray) -> bytes:
    """Sixteen images of two expressions in each part, as ``prepare`` writes them."""
    rng = np.random.default_rng(0)
    faces = [pixels.astype(float), frown(pixels).astype(float)]
    frame = similarity_from_landmarks(template_landmarks(48, 48)[None])
    stored = {}
    for part, names in {
        "train": ("fer2013", "ferplus"), "validation": ("fer2013", "ferplus"), "ckplus": ("everyday",)
    }.items():  # fmt: skip
        files = []
        for k in range(16):
            file = io.BytesIO()
            noisy = (faces[k % 2] + rng.normal(0, 4, (48, 48))).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(file, "PNG")
            files.append(file.getvalue())
        stored |= {
            f"{part}_files": np.frombuffer(b"".join(files), np.uint8),
            f"{part}_lengths": np.array([len(f) for f in files]),
            f"{part}_frames": frame.repeat(16, 0),
        }
        for name in names:
            labels = np.eye(7 if name == "fer2013" else 8, dtype=np.float32)[[3, 4] * 8]
            stored[f"{part}_{name}"] = labels
    buffer = io.BytesIO()
    np.savez(buffer, **stored)
    return lzma.compress(buffer.getvalue(), preset=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "head"), [("mrcar_mobilenet", None), ("mrcar_resnet", None), ("mrcar_resnet", "fer2013")]
)
def test_a_run_learns_and_goes_on_where_it_was_stopped(network, head, pixels, tmp_path, monkeypatch):
    (tmp_path / "prepared.npz.xz").write_bytes(prepared(pixels))
    taught = {
        name: np.round(255 * np.eye(k)[[3, 4] * 8])[:, None].repeat(2, 1).astype(np.uint8)
        for name, k in (("fer2013", 7), ("ferplus", 8))
    }
    np.savez(tmp_path / "soft.npz", **taught)
    monkeypatch.setattr(everyday, "SOFT_TARGETS", tmp_path / "soft.npz")
    monkeypatch.setattr(everyday, "BATCH", 8)
    file, out = tmp_path / "prepared.npz.xz", tmp_path / "out"
    everyday.run(file, out, network, seconds=6, head=head)
    first = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    (out / "scores.json").unlink()
    everyday.run(file, out, network, seconds=20, head=head)  # a slow machine learns in these, too
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert rows[: len(first)] == first
    assert rows[len(first)]["seconds"] > first[-1]["seconds"] >= 6
    assert rows[len(first)]["epoch"] > first[-1]["epoch"]
    assert rows[-1]["loss"] < first[0]["loss"]
    found = json.loads((out / "scores.json").read_text())
    assert found["one"]["fer2013"]["fer2013"]["accuracy"] == 1
    assert {"blur", "noise", "ten", "made_by"} <= set(found)
    assert found["heads"] == list(found["one"]) == ([head] if head else list(everyday.PLANS[network].heads))
    assert (out / f"{network}.safetensors").stat().st_size < 8_100_000
