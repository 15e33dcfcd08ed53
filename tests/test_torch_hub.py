"""torch.hub, from a folder and from GitHub, in fresh processes."""

import ast
import os
import shutil
import subprocess
import sys

import pytest
import torch

import mrcar_timm
from mrcar_timm.network import load_network

from .conftest import EXAMPLES, ROOT
from .github_server import GitHub

pytestmark = pytest.mark.slow

ENTRY_POINTS = ["expression_recognizer", "mrcar_mobilenet", "mrcar_resnet", "multi_region_transform"]
#: Takes an editable installation away; hubconf.py goes before any other, which the tests see by the file's name.
PROLOGUE = (
    "import sys\n"
    f"sys.path[:] = [path for path in sys.path if path not in ({str(ROOT)!r}, {str(ROOT / 'src')!r})]\n"
    "import torch\n"
)


def run(code: str, folder, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TORCH_HOME": str(folder / "torch"), **environment}
    command = [sys.executable, "-c", PROLOGUE + code]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, timeout=120)


@pytest.fixture
def folder(tmp_path):
    shutil.copy(EXAMPLES / "collins.jpg", tmp_path / "photo.jpg")
    return tmp_path


#: Uses all entry points of what ``where`` names; prints a line each.
USE = """
net = torch.hub.load(*where, 'mrcar_resnet', pretrained=True, **how).eval()
transform = torch.hub.load(*where, 'multi_region_transform', **how)
recognizer = torch.hub.load(*where, 'expression_recognizer', 'mrcar_resnet.ferplus', **how)
regions = transform('photo.jpg')
with torch.inference_mode(): print(net(regions[None]).numpy().tobytes().hex())
print([face.expression for face in recognizer('photo.jpg')], len(recognizer.network.labels))
print(torch.hub.load(*where, 'mrcar_resnet', tag='ferplus', pretrained=True, **how).num_classes)
import mrcar_timm; print(mrcar_timm.__file__)
"""


def assert_used(lines: list[str], root: str) -> None:
    regions = mrcar_timm.MultiRegionTransform()(EXAMPLES / "collins.jpg")
    with torch.inference_mode():
        logits = load_network("mrcar_resnet").model(regions[None]).contiguous()
    used = torch.frombuffer(bytearray(bytes.fromhex(lines[0])), dtype=torch.float32)
    torch.testing.assert_close(used, logits.flatten(), atol=1e-4, rtol=1e-4)
    assert lines[1:3] == ["['happiness'] 8", "8"]
    assert lines[3].startswith(root)


def test_from_a_folder(folder):
    done = run(f"where, how = ({str(ROOT)!r},), dict(source='local')" + USE, folder)
    assert done.returncode == 0, done.stderr
    assert_used(done.stdout.splitlines(), str(ROOT))


def test_from_github(folder):
    code = f"""
where, how = ('OWNER/REPO:v1',), dict(trust_repo=True)
print(torch.hub.list(*where, **how))
for name in {ENTRY_POINTS}: print(torch.hub.help(*where, name, **how).replace(chr(10), ' '))
{USE}
"""
    with GitHub(ROOT, folder) as github:
        done = run(code, folder, **github.environment)
        assert done.returncode == 0, done.stderr
        asked = list(github.requests)
    downloading, listed, recognizer, mobilenet, net, transform, *used = done.stdout.splitlines()
    assert downloading.startswith("Downloading")
    assert sorted(ast.literal_eval(listed)) == ENTRY_POINTS
    assert "(B, 3, 112, 112)" in mobilenet
    assert "(B, 3, 44, 44)" in net
    assert "(B, 3, 3, 44, 44)" in net
    assert "(3, 3, 44, 44)" in transform
    for name, text in zip(ENTRY_POINTS, (recognizer, mobilenet, net, transform), strict=True):
        assert f'torch.hub.load(checkout, "{name}", source="local"' in text
    assert_used(used, str(folder / "torch/hub"))
    assert asked.count("codeload.github.com/OWNER/REPO/legacy.zip/v1") == 1  # and from torch's cache from there on
    done = run(code, folder, https_proxy="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[5:] == used


def test_a_revision_that_github_does_not_know(folder):
    with GitHub(ROOT, folder) as github:
        done = run("torch.hub.load('OWNER/REPO:v9', 'mrcar_resnet', trust_repo=True)", folder, **github.environment)
    assert done.returncode == 1
    assert "Cannot find v9 in https://github.com/OWNER/REPO" in done.stderr


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_examples_in_the_help_run(name, folder):
    """Those that torch.hub.help shows, with a checkout and a photo."""
    code = (
        "import doctest, sys; sys.path.insert(0, checkout); import hubconf\n"
        "names = dict(torch=torch, checkout=checkout)\n"
        f"(test,) = doctest.DocTestFinder().find(hubconf.{name}, {name!r}, globs=names)\n"
        "assert len(test.examples) == 2\n"
        "sys.exit(doctest.DocTestRunner().run(test).failed)"
    )
    done = run(f"checkout = {str(ROOT)!r}\n" + code, folder)
    assert done.returncode == 0, done.stdout + done.stderr
