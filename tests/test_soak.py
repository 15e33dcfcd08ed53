"""Ten minutes of odd inputs: exit codes are right, and memory stays as it is."""

import json
import os
import subprocess
import sys

import pytest

from . import soak
from .conftest import ROOT


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_minutes_of_odd_inputs():
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "600"],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["seen"].keys() == soak.KINDS.keys()
    assert min(found["seen"].values()) > 5
    assert found["grown"] < 50, found  # megabytes, from the second quarter to the last
    assert found["files"] <= 2, found
