"""Everything that decides how a training runs, in one serialisable place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ..data.ferplus import LABELS
from ..data.sets import DATA_SETS
from ..errors import RecipeError
from ..regions.geometry import REGIONS, check_regions

RECIPES_DIR = Path(__file__).parent.parent / "recipes"


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes to a picture; each is drawn evenly.

    Attributes:
        degrees: The face turns by up to this angle, either way.
        zoom: The face grows by up to this part, or shrinks.
        shrink: The face shrinks by up to this part more.
        shift: The face moves by up to this part of the frame, in x and in y.
        brightness: Added to values of 0…1, either way.
        contrast: Factors of 1 ± this, about the picture's mean.
        erase: Probability that a region loses a random rectangle.
        cover: Probability that a region is covered whole; one always stays. Without it the regions that are learned
            fastest can leave the others nothing to learn.
    """

    degrees: float = 12.0
    zoom: float = 0.12
    shrink: float = 0.0
    shift: float = 0.06
    brightness: float = 0.15
    contrast: float = 0.3
    erase: float = 0.3
    cover: float = 0.0

    def times(self, factor: float) -> Augmentation:
        """The same with every range multiplied."""
        return Augmentation(**{name: value * factor for name, value in asdict(self).items()})


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the first cycle of the packaged weights.

    Attributes:
        data: Name of a data set.
        labels: Which labels of FER+ train: "votes", "majority", "original" or "blended"; of no effect elsewhere.
        limit: How many pictures of the training split are used, drawn with ``seed``, each class in its
            share; None for all.
        landmarks: "detected", or "template" for regions that take no notice of the face.
        model: Name of a registered network.
        model_args: Further arguments of the network, such as ``regions`` or ``attn_layer``.
        epochs: Passes over the training split.
        batch_size: Pictures a step.
        optimizer: "adamw", or "sgd" with a momentum of 0.9; any other that timm knows.
        schedule: "cycle" (one cycle up and down) or "steps" (constant, then falling).
        lr: Highest learning rate.
        decay: Factor of the learning rate every ``decay_every`` epochs after ``decay_after``, for "steps".
        decay_every: In epochs.
        decay_after: In epochs.
        weight_decay: The optimizer's.
        label_smoothing: Of the cross-entropy.
        mixup: α of mixup's Beta(α, α); 0 for none.
        cutmix: α of cutmix's Beta(α, α); 0 for none.
        sam: ρ of sharpness-aware minimisation, which takes two gradients a step; 0 for none.
        teachers: Run folders or weights of the package whose mean opinion is part of the targets.
        distil: Which part of the targets that is, 0…1.
        balance: Power of a class's rarity that weighs its pictures in the loss: 0 counts every picture
            alike, 1 every class.
        margin: ArcFace margin in radians.
        scale: ArcFace scale.
        drop_rate: Dropout before the head.
        average: Decay of the moving average of the weights, a step; 0 for none, 1 for the mean of all steps
            (stochastic weight averaging, for a constant learning rate).
        size: Side of the regions in pixels.
        seed: Of weights, order and augmentation.
        init: Run folder or weights of the package to start from, all but the head where the classes are
            others; random weights if None.
        branches: Regions whose branch starts from another run folder or weights than ``init``.
        augmentation: Random changes to the pictures.
    """

    data: str = "fer2013"
    labels: str = "votes"
    limit: int | None = None
    landmarks: str = "detected"
    model: str = "mrcar_resnet"
    model_args: dict[str, Any] = field(default_factory=dict)
    epochs: int = 14
    batch_size: int = 128
    optimizer: str = "adamw"
    schedule: str = "cycle"
    lr: float = 2e-3
    decay: float = 0.9
    decay_every: int = 5
    decay_after: int = 80
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    sam: float = 0.0
    teachers: tuple[str, ...] = ()
    distil: float = 0.5
    balance: float = 0.0
    margin: float = 0.1
    scale: float = 16.0
    drop_rate: float = 0.2
    average: float = 0.998
    size: int = 44
    seed: int = 0
    init: str | None = None
    branches: dict[str, str] = field(default_factory=dict)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        allowed = {
            "data": tuple(DATA_SETS),
            "labels": LABELS,
            "landmarks": ("detected", "template"),
            "schedule": ("cycle", "steps"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise RecipeError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}")
        for name, lowest in {"epochs": 1, "batch_size": 2, "size": 16, "decay_every": 1, "scale": 1e-6}.items():
            if getattr(self, name) < lowest:
                raise RecipeError(f"{name} must be at least {lowest}, got {getattr(self, name)}")
        for field_ in fields(self):
            value = getattr(self, field_.name)
            if isinstance(value, float) and value < 0:
                raise RecipeError(f"{field_.name} must not be negative, got {value}")
        for name in ("distil", "average"):
            if getattr(self, name) > 1:
                raise RecipeError(f"{name} must be in 0…1, got {getattr(self, name)}")

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions that the network looks at."""
        return check_regions(self.model_args.get("regions", REGIONS))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """A recipe from nested values; what is left out has its default.

        Raises:
            RecipeError: If there is no such setting, or a value is of another type or out of range.
        """
        return changed(cls(), values)


def changed(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with other values; those of ``model_args`` and ``augmentation`` are added to what is there.

    Raises:
        RecipeError: If there is no such setting, or a value is of another type or out of range.
    """
    values = dict(values)
    for name in ("augmentation", "model_args"):
        if not isinstance(values.get(name, {}), Mapping):
            raise RecipeError(f"{name} must be a mapping, got {values[name]!r}")
    if "augmentation" in values:
        augmentation = values["augmentation"]
        values["augmentation"] = replace(recipe.augmentation, **_checked(Augmentation, augmentation, "augmentation."))
    if "model_args" in values:
        values["model_args"] = {**recipe.model_args, **values["model_args"]}
    return replace(recipe, **_checked(Recipe, values))


def _checked(cls: type, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values, whole numbers as floats where the setting is one."""
    types = {f.name: str(f.type) for f in fields(cls)}
    out = {}
    for name, value in values.items():
        if name not in types:
            raise RecipeError(f"no setting {prefix}{name}; there are {', '.join(types)}")
        kind = types[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = {
            "float": number,
            "int": number and int(value) == value,
            "int | None": value is None or (number and int(value) == value),
            "str": isinstance(value, str),
            "str | None": value is None or isinstance(value, str),
            "tuple[str, ...]": isinstance(value, list | tuple) and all(isinstance(item, str) for item in value),
        }.get(kind, True)
        if not fits:
            raise RecipeError(f"{prefix}{name} must be of type {kind}, got {value!r}")
        if isinstance(value, list) and kind.startswith("tuple"):
            value = tuple(value)
        out[name] = float(value) if kind == "float" else int(value) if kind.startswith("int") and number else value
    return out


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(file.stem for file in RECIPES_DIR.glob("*.yaml"))


def load_recipe(name: str | Path) -> Recipe:
    """A recipe of the package by its name, or one from a YAML file.

    Raises:
        RecipeError: If there is no such recipe, or the file is none.

    Example:
        >>> load_recipe("ckplus-paper").batch_size
        64
    """
    file = RECIPES_DIR / f"{name}.yaml" if str(name) in recipe_names() else Path(name)
    if not file.is_file():
        raise RecipeError(f"no recipe {str(name)!r}; there are {', '.join(recipe_names())}, and YAML files")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file} is no YAML file: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{file}: expected settings, a line each, such as 'epochs: 30'")
    try:
        return Recipe.from_dict(values)
    except RecipeError as error:
        raise RecipeError(f"{file}: {error}") from error


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Nested values from "key=value" and "key.key=value"; values are read as YAML.

    Raises:
        RecipeError: If one is no such pair.

    Example:
        >>> parse_settings(["lr=1e-3", "model_args.attn_layer=null", "augmentation.degrees=30"])
        {'lr': 0.001, 'model_args': {'attn_layer': None}, 'augmentation': {'degrees': 30}}
    """
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise RecipeError(f"expected key=value, got {setting!r}")
        *path, last = name.split(".")
        inner = values
        for key in path:
            inner = inner.setdefault(key, {})
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"{setting!r}: {error}") from error
        inner[last] = _number(value)
    return values


def _number(value: Any) -> Any:
    """YAML 1.1 takes 1e-3 for a string, as it has no dot."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    return value
