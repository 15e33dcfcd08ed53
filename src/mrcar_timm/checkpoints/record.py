"""The record of weights: what they know, how they were made, on what terms, and what they scored."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import WeightsError

RECORD_NAME = "record.json"
SCORES_NAME, CONFUSION_NAME = "scores.json", "confusion_ten.csv"


@dataclass(frozen=True)
class Record:
    """The content of ``record.json``. Training and evaluation write it; nothing in it is typed by hand.

    Attributes:
        name: Architecture and tag, as in ``timm.create_model(name)``.
        sha256: Digest of the tensors, see :func:`~mrcar_timm.checkpoints.weights_file.tensor_digest`.
        num_params: Number of parameters.
        license: License of the weights.
        labels: Names of the classes, in the order of the logits.
        notes: One sentence on what the weights may be used for.
        data: The data sets behind the weights, those of the last run first. Each has a "title" and, where a reader of
            this package made it, its "name", "license", "part" and the digests ("sha256") of what was trained on.
        runs: Every training run behind the weights, the last one at the end. Each has an "id", the ids of its
            "parents" (runs it started from, or is the mean of), "recipe", "data", "epoch" and "made_by". In a recipe
            ids stand for the weights that it started from.
        scores: By split, then by "protocol, subset": "accuracy", "count", and "ece" and "nll" where known.
        confusion: By split, images by truth (rows) and prediction (columns), in the order of the labels, ten crops.
        starts: The weights that a training on a user's own data started from: "name", "sha256", "license" and "terms".
    """

    name: str
    sha256: str
    num_params: int
    license: str
    labels: tuple[str, ...]
    notes: str = ""
    data: tuple[dict[str, Any], ...] = ()
    runs: tuple[dict[str, Any], ...] = ()
    scores: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)
    starts: tuple[dict[str, Any], ...] = ()

    @property
    def terms(self) -> str:
        """The license in a word or two, for tables."""
        return "non-commercial research" if self.license == "other" else self.license

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Record:
        """The record in a folder.

        Raises:
            WeightsError: If it is missing, or no record.
        """
        file = folder / RECORD_NAME
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if "temperature" in values:
                raise WeightsError(
                    f"{file} has the format of an earlier version; write these weights again from their run"
                )
            return cls(
                **{**values, **{name: tuple(values.get(name, ())) for name in ("labels", "data", "runs", "starts")}}
            )
        except FileNotFoundError as error:
            raise WeightsError(f"{file} is missing") from error
        except (ValueError, TypeError, KeyError) as error:
            raise WeightsError(f"{file} is no record of weights: {error}") from error


def with_scores(record: Record, folders: Mapping[str, Path]) -> Record:
    """A record with what ``mrcar eval --out`` wrote.

    Args:
        record: Record of the weights that were scored.
        folders: Folders with scores.json and confusion_ten.csv, by split.

    Raises:
        WeightsError: If other weights were scored.
    """
    scores = {}
    confusion = {}
    for split, folder in folders.items():
        evaluation = json.loads((folder / SCORES_NAME).read_text(encoding="utf-8"))
        if evaluation["weights_sha256"] != record.sha256:
            raise WeightsError(f"{folder} has the scores of other weights than {record.name}")
        scores[split] = {
            f"{row['protocol']}, {row['subset']}": {key: row[key] for key in ("accuracy", "count", "ece", "nll")}
            for row in evaluation["rows"]
        }
        if (folder / CONFUSION_NAME).exists():
            with open(folder / CONFUSION_NAME, newline="", encoding="utf-8") as file:
                confusion[split] = [[int(count) for count in row[1:]] for row in list(csv.reader(file))[1:]]
    return replace(record, scores=scores, confusion=confusion)


def run_id(run: dict[str, Any]) -> str:
    """The id of a run: twelve hex digits of a digest of everything else that is said about it."""
    text = json.dumps({key: value for key, value in run.items() if key != "id"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def with_parents(run: dict[str, Any], parents: Iterable[Record]) -> tuple[dict[str, Any], ...]:
    """All runs behind weights: those of the weights they started from, each once, and the run itself, with its id."""
    known = {parent_run["id"]: parent_run for parent in parents for parent_run in parent.runs}
    return (*known.values(), {"id": run_id(run), **run})
