"""Scores of an evaluation in the record of the weights."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..checkpoints.folder import read_json
from ..checkpoints.record import Record
from ..errors import WeightsError

_CONFUSION = "confusion_ten.csv"
_KEPT = ("accuracy", "count", "ece", "nll")


def with_scores(record: Record, folders: Mapping[str, Path]) -> Record:
    """A record with what ``mrcar eval --out`` wrote.

    Args:
        record: Record of the weights that were scored.
        folders: With scores.json and confusion_ten.csv, by split.

    Raises:
        WeightsError: If other weights were scored.
    """
    scores = {}
    confusion = {}
    for split, folder in folders.items():
        evaluation = read_json(folder / "scores.json")
        if evaluation["weights_sha256"] != record.sha256:
            raise WeightsError(f"{folder} has the scores of other weights than {record.name}")
        scores[split] = {
            f"{row['protocol']}, {row['subset']}": {key: row[key] for key in _KEPT} for row in evaluation["rows"]
        }
        if (folder / _CONFUSION).exists():
            with open(folder / _CONFUSION, newline="", encoding="utf-8") as file:
                confusion[split] = [[int(count) for count in row[1:]] for row in list(csv.reader(file))[1:]]
    return replace(record, scores=scores, confusion=confusion)
