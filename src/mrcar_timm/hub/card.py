"""The model card of weights: a README.md made from their record, with nothing typed by hand."""

from __future__ import annotations

from importlib.resources import files
from math import sqrt
from typing import Any

import numpy as np

from ..checkpoints.record import Record
from ..metrics import macro_f1
from ..regions.geometry import REGIONS

IMAGE = "confusion.png"
_TAGS = ("transformers", "image-classification", "facial-expression-recognition", "mrcar")
PROTOCOL_TITLES = {"one": "one crop", "mirror": "mirrored pair", "ten": "ten crops"}
_SUBSETS = {"all": "", "not in train": ", without duplicates of the training set"}


def render_card(record: Record, config: dict[str, Any], repo_id: str) -> str:
    """The text of a model card.

    Args:
        record: Record of the weights.
        config: Content of config.json.
        repo_id: "ORG/NAME", for the snippets.
    """
    import jinja2

    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    args, (channels, _, side) = config["model_args"], config["pretrained_cfg"]["input_size"]
    regions = tuple(args.get("regions", ()))
    template = environment.from_string(
        files(__package__).joinpath("card.md" if regions else "attended.md").read_text(encoding="utf-8")
    )
    return template.render(
        metadata=_metadata(record, _TAGS if regions else _TAGS[:2]),
        record=record,
        repo_id=repo_id,
        architecture=config["architecture"],
        base=args.get("base"),
        backbone=args.get("backbone"),
        insertions=args.get("insertions", []),
        labels=config.get("label_names", []),
        regions=regions,
        in_chans=channels,
        size=side,
        features_only=args.get("features_only", False),
        shape=(len(regions), 3, side, side),
        transform_args=_transform_args(side, regions),
        scored_on=record.data[0]["title"] if record.data else "",
        splits=list(record.scores),
        scores=_scores(record),
        calibration=_calibration(record),
        **_confusion(record),
    )


def _transform_args(side: int, regions: tuple[str, ...]) -> str:
    """Arguments of MultiRegionTransform that differ from its defaults."""
    args = {"size": side if side != 44 else None, "regions": regions if regions != REGIONS else None}
    return ", ".join(f"{name}={value!r}" for name, value in args.items() if value is not None)


def _title(key: str) -> str:
    protocol, subset = key.split(", ", 1)
    return PROTOCOL_TITLES[protocol] + _SUBSETS[subset]


def _spread(row: dict[str, float]) -> dict[str, Any]:
    """The number of images behind an accuracy, and its standard error."""
    accuracy, count = row["accuracy"], row["count"]
    return {"images": count, "standard_error": sqrt(accuracy * (1 - accuracy) / count)}


def _scores(record: Record) -> list[dict[str, Any]]:
    """Rows of the table: protocols, with a cell for each split."""
    keys = dict.fromkeys(key for split in record.scores.values() for key in split)

    def cell(rows: dict[str, dict[str, float]], key: str) -> str:
        if key not in rows:
            return ""
        spread = _spread(rows[key])
        return f"{rows[key]['accuracy']:.2%} ± {100 * spread['standard_error']:.2f} ({spread['images']:,})"

    return [{"title": _title(key), "cells": [cell(rows, key) for rows in record.scores.values()]} for key in keys]


def _calibration(record: Record) -> list[list[str]]:
    """Rows of the table."""
    return [
        [f"{split}, {_title(key)}", f"{row['ece']:.1%}", f"{row['nll']:.3f}"]
        for split, rows in record.scores.items()
        for key, row in rows.items()
        if key.endswith(", all")
    ]


def _confusion(record: Record) -> dict[str, str]:
    """Recall and the most frequent mistakes, from the confusion matrix of the test split."""
    if "test" not in record.confusion:
        return {"recall": "", "macro_f1": "", "worst": "", "mistakes": ""}
    counts = np.array(record.confusion["test"])
    parts = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    recall = dict(zip(record.labels, parts.diagonal(), strict=True))
    worst = sorted(recall, key=recall.__getitem__)[:2]
    wrong = parts - np.diag(parts.diagonal())
    most = [np.unravel_index(index, wrong.shape) for index in wrong.argsort(axis=None)[::-1][:3]]
    return {
        "recall": ", ".join(f"{name} {part:.0%}" for name, part in recall.items()),
        "macro_f1": f"{float(macro_f1(counts)):.1%}",
        "worst": " and ".join(f"{name} ({recall[name]:.0%} found)" for name in worst),
        "mistakes": ", ".join(
            f"{record.labels[truth]} for {record.labels[answer]} ({wrong[truth, answer]:.0%})" for truth, answer in most
        ),
    }


def _metadata(record: Record, tags: tuple[str, ...]) -> str:
    """The header in YAML, with the scores as ``model-index``."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Facial expression recognition",
            dataset_type=record.data[0].get("name", "unknown"),
            dataset_name=record.data[0]["title"],
            dataset_split=split,
            metric_type="accuracy",
            metric_name=f"accuracy, {_title(key)}",
            metric_value=round(row["accuracy"], 4),
            metric_args={
                "protocol": _title(key),
                "seeds": 1,
                **{name: round(value, 4) for name, value in _spread(row).items()},
            },
        )
        for split, rows in record.scores.items()
        if record.data
        for key, row in rows.items()
    ]
    card = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        license=record.license,
        license_name=record.terms.replace(" ", "-") if record.terms != record.license else None,
        tags=["timm", *tags],
        metrics=["accuracy"] if results else None,
        model_name=record.name,
        eval_results=results or None,
    )
    return card.to_yaml()
