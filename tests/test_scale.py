"""The figures of docs/scale.md, and the simulation behind some of them."""

import pytest
from tools import tables
from tools.scale import makespan, shares

from mrcar_timm.checkpoints.packaged import PACKAGED


@pytest.mark.parametrize(
    ("chunks", "slowness", "ahead", "seconds"),
    [
        ([1, 1, 1, 1], [1, 1], 100, 2),
        ([1, 1, 1, 1], [1, 3], 100, 3),  # 0-1, 0-3, 1-2, 2-3
        ([1, 1, 1, 1], [1, 1], 1, 4),  # each waits for the one before it
        ([5, 1, 1, 1], [1, 1], 100, 5),  # 0-5; 0-1, 1-2, 2-3
        ([5, 1, 1, 1], [1, 1], 2, 6),  # the third waits for the first to be written
        ([2, 3], [1, 1, 1], 100, 3),
        ([2, 3], [2], 100, 10),
    ],
)
def test_a_queue(chunks, slowness, ahead, seconds):
    """Worked out by hand."""
    assert makespan(chunks, slowness, ahead) == seconds


def test_equal_shares():
    assert shares([1, 1, 1, 1], [1, 3]) == 6
    assert shares([1, 2, 3, 4], [1, 1]) == 6


def test_embeddings_are_of_the_packaged_weights_and_good_for_search():
    found = tables.read("embeddings")
    assert found["weights_sha256"] == {name: PACKAGED[name].sha256 for name in found["weights_sha256"]}
    assert [row["network"] for row in found["rows"]] == [name for name in PACKAGED if len(PACKAGED[name].labels) == 8]
    assert all(row["nearest"] > 3 * row["chance"] for row in found["rows"])
    assert "dirty" not in found["made_by"]["commit"]


def test_figures_are_whole_and_two_processes_pay():
    found = tables.read("scale")
    for made_by in (found["made_by"], found["simulation"]["made_by"]):
        assert all(made_by[key] for key in ("command", "commit", "machine", "torch"))
        assert "dirty" not in made_by["commit"]
    assert found["commands"]["two"]["images_a_second"] >= 1.7 * found["commands"]["one"]["images_a_second"]
    for photo in found["photos"].values():
        parts = sum(photo[f"{stage}_ms"] for stage in ("read", "detect", "network"))
        assert parts == pytest.approx(photo["all_ms"], rel=0.05)
    for row in found["simulation"]["rows"]:
        assert row["shares_slow"] < row["queue_slow"] <= row["best_slow"] + 1e-9
        assert row["queue"] <= 1 + 1e-9
