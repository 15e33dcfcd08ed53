"""results/steps.py: what was tried, one factor at a time."""

import json
from pathlib import Path

import pytest
import typer
from results import steps

from mrcar_timm.regions.geometry import BOXES_IN_FACE
from mrcar_timm.training.engine import make_network
from mrcar_timm.training.recipe import Recipe


def test_every_step_changes_one_thing():
    """Each is a recipe whose network can be made, and differs from the baseline."""
    planned = steps.recipes(Path("runs"))
    baseline, _ = planned[steps.BASELINE]
    for name, (recipe, boxes) in planned.items():
        make_network(recipe, 1, 7)
        assert name == steps.BASELINE or recipe != baseline or boxes
        assert set(boxes) <= set(BOXES_IN_FACE)
    done: set[str] = set()  # a step that builds on others comes behind them
    for name, (recipe, _) in planned.items():
        assert {Path(run).name for run in (*recipe.teachers, *recipe.branches.values())} <= done
        done.add(name)
    # As many parameters, within a tenth, in all networks that say how wide and deep they are.
    sizes = {
        name: sum(p.numel() for p in make_network(recipe, 1, 7).parameters())
        for name, (recipe, _) in planned.items()
        if {"widths", "depths"} & recipe.model_args.keys() or name == steps.BASELINE
    }
    assert len(sizes) == 4
    assert all(abs(size / sizes[steps.BASELINE] - 1) < 0.1 for size in sizes.values()), sizes


def test_changed_boxes_last_as_long_as_told():
    before = dict(BOXES_IN_FACE)
    with steps.changed_boxes({"eyes": (0, 2, 44, 28)}):
        assert BOXES_IN_FACE["eyes"] == (0, 2, 44, 28)
    assert before == BOXES_IN_FACE


def test_steps_go_on_and_are_ranked(fer_folder, tmp_path, monkeypatch):
    plan = {
        "baseline": ({}, {}),
        "narrow regions": ({}, {"eyes": (5, 9, 39, 23)}),
        "face alone": ({"model_args": {"regions": ["face"]}}, {}),
    }
    small = {"stem_width": 8, "widths": [16, 16, 16], "embed_dim": 16}

    def recipes(runs):
        base = Recipe(data="fer2013", epochs=1, batch_size=8, model_args=small)
        return {name: (steps.changed(base, change), boxes) for name, (change, boxes) in plan.items()}

    monkeypatch.setattr(steps, "recipes", recipes)
    runs = tmp_path / "runs"
    with pytest.raises(typer.Exit):
        steps.run(fer_folder, runs, minutes=0)
    steps.run(fer_folder, runs, only="face")
    done = steps.read_steps(runs / "steps.csv")
    assert list(done) == ["face alone"]
    steps.run(fer_folder, runs)
    done = steps.read_steps(runs / "steps.csv")
    assert set(done) == set(plan)
    assert json.loads(done["narrow regions"]["recipe"])["boxes"] == {"eyes": [5, 9, 39, 23]}

    monkeypatch.setattr(steps, "HERE", tmp_path)
    monkeypatch.setattr(steps, "timed", lambda rows: {name: 4.0 - len(name) / 10 for name in rows})
    steps.report(runs)
    table = (tmp_path / "steps.md").read_text(encoding="utf-8")
    accuracies = [float(row["ten"]) for row in done.values()]
    printed = [line.split(" | ")[2] for line in table.splitlines() if " | ×" in line]
    assert printed == [f"{value:.2%}" for value in sorted(accuracies, reverse=True)]
    assert table == steps.render()


def test_a_network_is_timed_once_for_all_steps_that_have_it(monkeypatch):
    seen = []

    def time_in_turn(networks, repeats):
        seen.append(len(networks))
        return {key: [1.0 + i] for i, key in enumerate(networks)}

    monkeypatch.setattr(steps, "time_in_turn", time_in_turn)
    rows = {
        name: {"recipe": json.dumps(recipe.to_dict() | {"boxes": boxes})}
        for name, (recipe, boxes) in steps.recipes(Path("runs")).items()
        if name in ("baseline", "mixup 0.2", "face alone", "face alone, 64 pixels")
    }
    ms = steps.timed(rows)
    assert seen == [3]
    assert ms["baseline"] == ms["mixup 0.2"] != ms["face alone"]
