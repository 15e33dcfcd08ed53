"""Everything that decides how a training runs, in one serialisable place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..data.face_crops import FaceChoice
from ..data.sets import DATA_SETS
from ..errors import RecipeError
from ..regions.geometry import REGIONS, check_regions

RECIPES_DIR = Path(__file__).parent.parent / "recipes"

Part = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Settings(BaseModel):
    """Settings that are checked when they are made, with errors that name the setting."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise RecipeError("; ".join(self._said(each) for each in error.errors())) from error

    @classmethod
    def _said(cls, error: Any) -> str:
        name = ".".join(map(str, error["loc"]))
        if error["type"] == "extra_forbidden":
            return f"no setting {name}; there are {', '.join(cls.model_fields)}"
        message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        return f"{name} {message}, got {error['input']!r}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return self.model_dump(mode="json")


class Augmentation(_Settings):
    """Ranges of the random changes to an image; each is drawn evenly.

    Attributes:
        degrees: The face turns by up to this angle, either way.
        zoom: The face grows or shrinks by up to this part.
        shrink: The face shrinks by up to this part more.
        shift: The face moves by up to this part of the frame, in x and in y.
        brightness: Added to values in 0…1, either way.
        contrast: Factors of 1 ± this, about the mean of the image.
        erase: Probability that a region loses a random rectangle.
        cover: Probability that a region is covered whole; one always stays. Without it the regions that are learned
            fastest can leave the others nothing to learn.
    """

    degrees: NotNegative = 12.0
    zoom: NotNegative = 0.12
    shrink: NotNegative = 0.0
    shift: NotNegative = 0.06
    brightness: NotNegative = 0.15
    contrast: NotNegative = 0.3
    erase: NotNegative = 0.3
    cover: NotNegative = 0.0

    def times(self, factor: float) -> Augmentation:
        """The same with every range multiplied."""
        return Augmentation(**{name: value * factor for name, value in self.to_dict().items()})


class Recipe(_Settings):
    """How to train. The defaults are the first cycle of the packaged weights.

    Attributes:
        data: Name of a data set.
        labels: Which labels of FER+ train; no effect elsewhere.
        limit: How many images of the training split are used, drawn with ``seed``, each class in its share; None for
            all.
        landmarks: "detected", or "template" for regions at the same place in every image.
        faces: Which faces of a photo are used, where the images are photos: "largest", "all", or "crop" where each
            is a crop of a face already.
        model: Name of a registered network.
        model_args: Further arguments of the network, such as ``regions`` or ``attn_layer``.
        epochs: Passes over the training split; None for :func:`epochs_for` so many images.
        patience: Stop after so many epochs without a better one on validation; None goes on to the last.
        batch_size: Images a step.
        optimizer: "adamw", "sgd" (with a momentum of 0.9), or any other that timm knows.
        schedule: "cycle" (one cycle up and down) or "steps" (constant, then falling).
        lr: Highest learning rate.
        layer_decay: Factor of the learning rate for each layer further from the head.
        backbone_lr: Factor of the learning rate for all before the layer that fuses the regions.
        freeze: "backbone" keeps all before that layer as it starts.
        freeze_epochs: For the first so many epochs; None for all.
        decay: Factor of the learning rate every ``decay_every`` epochs after ``decay_after``, for "steps".
        decay_every: In epochs.
        decay_after: In epochs.
        weight_decay: Weight decay of the optimizer.
        label_smoothing: ε of the cross-entropy.
        mixup: α of mixup's Beta(α, α); 0 for none.
        teachers: Networks whose mean probabilities are part of the targets.
        distil: How large that part is, 0…1.
        balance: Power of a class's rarity that weighs its images in the loss: 0 counts every image alike, 1 every
            class.
        margin: ArcFace margin in radians.
        scale: ArcFace scale.
        drop_rate: Dropout before the head.
        average: Decay of the moving average of the weights, a step; 0 for none.
        average_all: Take the mean of all steps instead (stochastic weight averaging, for a constant learning rate).
        size: Side of the regions in pixels.
        seed: Seed of weights, order and augmentation.
        init: Network to start from, except for the head where the classes differ; random weights if None.
        branches: Regions whose branch starts from another network than ``init``.
        augmentation: Random changes to the images.

    Raises:
        RecipeError: If a setting does not exist, or has a value that it cannot have.

    Example:
        >>> Recipe(margin=7)
        Traceback (most recent call last):
        mrcar_timm.errors.RecipeError: margin must be less than 3.141592653589793, got 7
    """

    model_config = ConfigDict(protected_namespaces=())

    data: str = "fer2013"
    labels: Literal["votes", "majority", "original", "blended"] = "votes"
    limit: Annotated[int, Field(ge=1)] | None = None
    landmarks: Literal["detected", "template"] = "detected"
    faces: FaceChoice = "largest"
    model: str = "mrcar_resnet"
    model_args: dict[str, Any] = {}
    epochs: Annotated[int, Field(ge=1)] | None = 14
    patience: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=2)] = 128
    optimizer: str = "adamw"
    schedule: Literal["cycle", "steps"] = "cycle"
    lr: Positive = 2e-3
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    backbone_lr: NotNegative = 1.0
    freeze: Literal["none", "backbone"] = "none"
    freeze_epochs: Annotated[int, Field(ge=1)] | None = None
    decay: NotNegative = 0.9
    decay_every: Annotated[int, Field(ge=1)] = 5
    decay_after: Annotated[int, Field(ge=0)] = 80
    weight_decay: NotNegative = 0.05
    label_smoothing: Part = 0.1
    mixup: NotNegative = 0.0
    teachers: tuple[str, ...] = ()
    distil: Part = 0.5
    balance: NotNegative = 0.0
    margin: Annotated[float, Field(ge=0, lt=math.pi)] = 0.1
    scale: Positive = 16.0
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.2
    average: Annotated[float, Field(ge=0, lt=1)] = 0.998
    average_all: bool = False
    size: Annotated[int, Field(ge=16)] = 44
    seed: int = 0
    init: str | None = None
    branches: dict[str, str] = {}
    augmentation: Augmentation = Augmentation()

    @field_validator("data")
    @classmethod
    def _known_data(cls, name: str) -> str:
        if name not in DATA_SETS:
            raise ValueError(f"must be one of {', '.join(DATA_SETS)}")
        return name

    @field_validator("optimizer")
    @classmethod
    def _known_optimizer(cls, name: str) -> str:
        from timm.optim import list_optimizers

        if name not in list_optimizers():
            raise ValueError("must be an optimizer that timm knows, such as adamw or sgd")
        return name

    @field_validator("model_args")
    @classmethod
    def _known_regions(cls, args: dict[str, Any]) -> dict[str, Any]:
        regions = args.get("regions", REGIONS)
        if isinstance(regions, str):
            raise ValueError(f"regions must be a list such as [face], got {regions!r}")
        check_regions(regions)
        return args

    def for_images(self, count: int) -> Recipe:
        """The recipe with a number of epochs for so many training images."""
        return self.changed({"epochs": epochs_for(count)}) if self.epochs is None else self

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions that the network looks at."""
        return check_regions(self.model_args.get("regions", REGIONS))

    def differences(self, other: Recipe) -> list[str]:
        """Settings that differ, such as "lr is 0.001 there, 0.002 here", here being this recipe.

        Example:
            >>> Recipe(lr=0.002).differences(Recipe(lr=0.001))
            ['lr is 0.001 there, 0.002 here']
        """
        here, there = _flat(self.to_dict()), _flat(other.to_dict())
        missing = object()
        return [
            f"{name} is {there.get(name, 'not set')} there, {here.get(name, 'not set')} here"
            for name in dict.fromkeys([*here, *there])
            if here.get(name, missing) != there.get(name, missing)
        ]

    def changed(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe with other values; those of ``model_args`` and ``augmentation`` are added to what is there.

        Raises:
            RecipeError: If a setting does not exist, or has a value that it cannot have.
        """
        merged = self.to_dict()
        for name, value in values.items():
            if isinstance(value, _Settings):
                value = value.to_dict()
            if name in ("augmentation", "model_args") and isinstance(value, Mapping):
                value = {**merged[name], **value}
            merged[name] = value
        return Recipe(**merged)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their names with dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return flat


def epochs_for(count: int) -> int:
    """Epochs for so many training images: fewer as they get more, so that 200 take minutes and 20,000 an hour.

    Example:
        >>> epochs_for(200), epochs_for(1000), epochs_for(20_000)
        (30, 19, 8)
    """
    return min(40, max(6, round(30 * (200 / count) ** 0.29)))


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
        return Recipe(**values)
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
