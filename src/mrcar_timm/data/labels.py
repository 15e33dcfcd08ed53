"""The names of the expressions, in one place. Data sets map to them by name, never by index."""

from __future__ import annotations

EXPRESSIONS: tuple[str, ...] = (
    "anger",
    "disgust",
    "fear",
    "happiness",
    "sadness",
    "surprise",
    "neutral",
    "contempt",
)
#: The seven classes of FER2013, JAFFE and RAF-DB.
SEVEN = EXPRESSIONS[:7]

_ALIASES = {
    "angry": "anger",
    "happy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
    "disgusted": "disgust",
    "fearful": "fear",
}


def expression_or_name(name: str) -> str:
    """The expression that a class is named for, or its name where that is none.

    Example:
        >>> expression_or_name("Happy"), expression_or_name("smile")
        ('happiness', 'smile')
    """
    try:
        return expression_name(name)
    except ValueError:
        return name


def expression_name(name: str) -> str:
    """The expression that a data set's class name means.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> expression_name("Happy")
        'happiness'
    """
    key = name.strip().lower()
    key = _ALIASES.get(key, key)
    if key not in EXPRESSIONS:
        raise ValueError(f"unknown expression {name!r}; known are {EXPRESSIONS} and {tuple(_ALIASES)}")
    return key
