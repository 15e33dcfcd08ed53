"""results/steps.py: what was tried, one factor at a time."""

import json
import shutil
from pathlib import Path

import pytest
import typer
from results import steps

from mrcar_timm.regions.geometry import BOXES_IN_FACE
from mrcar_timm.training.engine import make_network


def test_every_step_changes_one_thing():
    """Each is a recipe whose network can be made, and differs from the baseline of its table."""
    planned = steps.recipes(Path("runs"))
    for (table, name), (recipe, boxes) in planned.items():
        make_network(recipe, 1, 7)
        baseline, _ = planned[table, steps.BASELINE]
        assert name == steps.BASELINE or recipe != baseline or boxes
        assert set(boxes) <= set(BOXES_IN_FACE)
    done = {Path("runs/ferplus-face")}  # a step that builds on others comes behind them
    for (table, name), (recipe, _) in planned.items():
        starts = (*recipe.teachers, *recipe.branches.values(), *filter(None, [recipe.init]))
        assert {Path(start) for start in starts} <= done
        done.add(Path("runs", table, name))
    # As many parameters, within a tenth, in all networks that say how wide and deep they are.
    sizes = {
        name: sum(p.numel() for p in make_network(recipe, 1, 7).parameters())
        for (table, name), (recipe, _) in planned.items()
        if table == "network" and ({"widths", "depths"} & recipe.model_args.keys() or name == steps.BASELINE)
    }
    assert len(sizes) == 4
    assert all(abs(size / sizes[steps.BASELINE] - 1) < 0.1 for size in sizes.values()), sizes


def test_changed_boxes_last_as_long_as_told():
    before = dict(BOXES_IN_FACE)
    with steps.changed_boxes({"eyes": (0, 2, 44, 28)}):
        assert BOXES_IN_FACE["eyes"] == (0, 2, 44, 28)
    assert before == BOXES_IN_FACE


PLAN = """
shape:
  about: Small networks.
  baseline: {data: fer2013, epochs: 1, batch_size: 8, model_args: {stem_width: 8, widths: [16, 16, 16], embed_dim: 16}}
  steps:
    baseline: {}
    face alone: {model_args: {stem_width: 8, widths: [16, 16, 16], embed_dim: 16, regions: [face]}}
    narrow regions: {boxes: {eyes: [5, 9, 39, 23]}}
further:
  about: From a run of the other table.
  baseline:
    data: fer2013
    init: shape/baseline
    limit: 12
    epochs: 1
    batch_size: 8
    model_args: {stem_width: 8, widths: [16, 16, 16], embed_dim: 16}
  steps:
    baseline: {}
    taught: {teachers: [baseline]}
"""


def test_steps_go_on_and_are_ranked(fer_folder, tmp_path, monkeypatch):
    here, runs = tmp_path / "here", tmp_path / "runs"
    here.mkdir()
    (here / "steps.yaml").write_text(PLAN, encoding="utf-8")
    shutil.copy(steps.HERE / "fer2013_validation.json", here)
    monkeypatch.setattr(steps, "HERE", here)
    with pytest.raises(typer.Exit):
        steps.run(fer_folder, runs, minutes=0)
    steps.run(fer_folder, runs, only="shape: face")
    done = steps.read_steps(runs / "steps.csv")
    assert list(done) == [("shape", "face alone")]
    steps.run(fer_folder, runs)
    done = steps.read_steps(runs / "steps.csv")
    assert set(done) == {(table, name) for table, content in steps.plan().items() for name in content["steps"]}
    assert json.loads(done["shape", "narrow regions"]["recipe"])["boxes"] == {"eyes": [5, 9, 39, 23]}
    assert {int(row["pictures"]) for (table, _), row in done.items() if table == "further"} == {12}

    monkeypatch.setattr(steps, "timed", lambda rows: {key: 4.0 - len(key[1]) / 10 for key in rows})
    steps.report(runs)
    text = (here / "steps.md").read_text(encoding="utf-8")
    assert text == steps.render()
    for table in steps.plan():
        section = text.split(f"## {table.capitalize()}")[1].split("##")[0]
        rows = {name: row for (of, name), row in done.items() if of == table}
        printed = [line.split(" | ") for line in section.splitlines() if " | ×" in line]
        assert [cells[2] for cells in printed] == [
            f"{value:.2%}" for value in sorted((float(row["mirror"]) for row in rows.values()), reverse=True)
        ]
        gains = {cells[0].removeprefix("| "): float(cells[4]) for cells in printed}
        base = float(rows["baseline"]["mirror"])
        assert gains == {
            name: pytest.approx(100 * (float(row["mirror"]) - base), abs=0.006) for name, row in rows.items()
        }


def test_a_network_is_timed_once_for_all_steps_that_have_it(monkeypatch):
    seen = []

    def time_in_turn(networks, repeats):
        seen.append(len(networks))
        return {key: [1.0 + i] for i, key in enumerate(networks)}

    monkeypatch.setattr(steps, "time_in_turn", time_in_turn)
    rows = {
        key: {"recipe": json.dumps(recipe.to_dict() | {"boxes": boxes})}
        for key, (recipe, boxes) in steps.recipes(Path("runs")).items()
        if key[1] in ("baseline", "face alone", "mixup 0.2") or key == ("network", "64 pixels")
    }
    ms = steps.timed(rows)
    assert seen == [3]
    assert ms["regions", "face alone"] == ms["network", "baseline"] == ms["fine-tuning", "mixup 0.2"]
    assert len(set(ms.values())) == 3


def test_recorded_table_is_what_its_rows_say():
    assert (steps.HERE / "steps.md").read_text(encoding="utf-8") == steps.render()


def test_every_planned_step_is_recorded():
    """With the recipe that the plan has now."""
    rows = steps.read_steps(steps.HERE / "steps.csv")
    planned = steps.recipes(Path("runs/steps"))
    assert rows.keys() == planned.keys()
    for key, (recipe, boxes) in planned.items():
        assert json.loads(rows[key]["recipe"]) == json.loads(json.dumps(recipe.to_dict() | {"boxes": boxes}))


def test_the_readme_names_the_best_step_of_the_regions():
    rows = steps.read_steps(steps.HERE / "steps.csv")
    scores = {step: float(row["mirror"]) for (table, step), row in rows.items() if table == "regions"}
    assert max(scores, key=scores.__getitem__) == "each region first, then all"
    assert "each region's branch learns alone first" in (steps.HERE.parent / "README.md").read_text(encoding="utf-8")
