"""The history of weights, as their record tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..checkpoints.record import Record, with_parents
from ..checkpoints.resolve import resolve
from ..data.sets import DATA_SETS
from ..errors import WeightsError
from .batches import Split
from .recipe import Recipe

_LICENSE = "other"  # no data set with a reader lets weights be used commercially


@dataclass(frozen=True)
class History:
    """How weights come about: from which others, by which recipe, on which data.

    Attributes:
        parents: Records of the weights that the run starts from, or is the mean of.
        recipe: With the ids of runs in place of the names of weights; None for a mean.
        data: "name", "sha256" and "count" of what is trained on, and the same of what validates.
    """

    parents: tuple[Record, ...]
    recipe: dict[str, Any] | None
    data: dict[str, Any]

    def record(self, name: str, labels: tuple[str, ...], epoch: int | None, made_by: dict[str, Any]) -> Record:
        """The record of weights, which :func:`~mrcar_timm.checkpoints.folder.write_folder` completes."""
        ids = dict.fromkeys(parent.runs[-1]["id"] for parent in self.parents if parent.runs)
        run = {"parents": list(ids), "recipe": self.recipe, "data": self.data, "epoch": epoch, "made_by": made_by}
        own = self.data["name"] == "imagefolder"
        data = _data_behind(self.data, () if own else self.parents)
        titles = " and ".join(each["title"] for each in data)
        starts = tuple(
            {"name": each.name, "sha256": each.sha256, "license": each.license, "terms": each.terms}
            for each in (self.parents if own else ())
        )
        license, terms = _LICENSE, "for non-commercial research"
        if own:
            license = next((each["license"] for each in starts if each["license"] == _LICENSE), "unknown")
            if license == _LICENSE:
                terms = f"started from {' and '.join(each['name'] for each in starts)}, {terms} as these are"
            else:
                terms = "the terms of the images were not stated"
        notes = f"Trained on {titles}: {terms}. An expression is what a face shows, not what a person feels."
        return Record(
            name=name,
            sha256="",
            num_params=0,
            license=license,
            labels=labels,
            notes=notes,
            data=data,
            runs=with_parents(run, self.parents),
            starts=starts,
        )


def history_of_run(recipe: Recipe, train: Split, validation: Split | None) -> History:
    """The history of weights that a recipe trains."""
    parents: dict[str, Record] = {}

    def id_of(name: str) -> str:
        """The id of the run that made these weights, or their name where nothing is recorded."""
        try:
            record = resolve(name).record()
        except WeightsError:
            return name
        parents[name] = record
        return record.runs[-1]["id"] if record.runs else name

    values = recipe.to_dict()
    values["init"] = None if recipe.init is None else id_of(recipe.init)
    values["branches"] = {region: id_of(name) for region, name in recipe.branches.items()}
    data = {"name": recipe.data, **train.summary(), "samples": len(train.batches)}
    if validation is not None:
        data["validation"] = validation.summary()
    return History(tuple(parents.values()), values, data)


def _data_behind(own: dict[str, Any], parents: tuple[Record, ...]) -> tuple[dict[str, Any], ...]:
    """The data sets behind weights, each once, with the digests of all that was trained on."""
    data_set = DATA_SETS[own["name"]]
    first = {
        "name": own["name"],
        "title": own.get("title", data_set.title),
        "license": data_set.license,
        "part": data_set.trained_on,
    }
    found: dict[str, dict[str, Any]] = {}
    for each in ({**first, "sha256": [own["sha256"]]}, *(each for parent in parents for each in parent.data)):
        before = found.setdefault(each["title"], each)
        digests = {*before.get("sha256", ()), *each.get("sha256", ())}
        found[each["title"]] = {**before, "sha256": sorted(digests)}
    return tuple(found.values())
