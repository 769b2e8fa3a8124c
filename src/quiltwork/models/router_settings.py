"""What a config.json may say of a router, checked before a router is made of it.

Each number has the domain that the options of the methods have (`quiltwork.compose`), so that a directory which was
sealed by somebody else says nothing that a composer could not have said. Every check raises a ValueError that names the
setting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from quiltwork.errors import InvalidOption
from quiltwork.evidence.forgetting import require_forgetting

_FEATURES = ("tokens", "bigrams", "trigrams")
_LARGEST = 1e30
"""No setting is larger; a number beyond makes infinities of what it is multiplied with."""


def number(value: Any, name: str, *, least: float = -_LARGEST, most: float = _LARGEST) -> float:
    """A finite number of a closed range.

    Raises:
        ValueError: it is none.
    """
    # NaN fails every comparison
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{name} is {str(value)[:50]!a}")
    return float(value)


def positive(value: Any, name: str) -> float:
    """A positive finite number.

    Raises:
        ValueError: it is none.
    """
    return number(value, name, least=1 / _LARGEST)


def weights(values: Any) -> None:
    """Refuse weights of slots that are no positive numbers.

    Raises:
        ValueError: one is none.
    """
    for value in values if isinstance(values, list) else [None]:
        positive(value, "a slot's weight")


def choice(settings: Mapping[str, Any], name: str = "top_k") -> None:
    """Refuse a number of experts a token that is neither None nor one or more.

    Raises:
        ValueError: it is neither.
    """
    value = settings[name]
    if value is not None and not (type(value) is int and 1 <= value < 2**31):
        raise ValueError(f"{name} is {str(value)[:50]!a}")


def flag(settings: Mapping[str, Any], name: str) -> None:
    """Refuse what is neither true nor false.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(settings[name], bool):
        raise ValueError(f"{name} is neither true nor false")


def rows(settings: Mapping[str, Any]) -> None:
    """Check the settings of a router of rows.

    Raises:
        KeyError, ValueError: one is missing, or is outside its domain.
    """
    choice(settings)
    flag(settings, "renormalise")
    flag(settings, "bias")
    weights(settings["weights"])


def evidence(settings: Mapping[str, Any], shape: tuple[int, ...], parties: int) -> None:
    """Check the settings of an evidence router.

    Args:
        settings: as config.json has them.
        shape: of its rows.
        parties: how many.

    Raises:
        KeyError, ValueError: one is missing, is outside its domain, or is not of these rows.
    """
    flag(settings, "public")
    choice(settings)
    weights(settings["weights"])
    if settings["features"] not in _FEATURES:
        raise ValueError("features are none of " + ", ".join(_FEATURES))
    if type(settings["symbols"]) is not int or shape != (settings["public"] + parties, settings["symbols"]):
        raise ValueError(f"evidence of shape {list(shape)} for {parties} parties and {settings['symbols']!a} symbols")
    number(settings["separator"], "separator", least=0, most=2**31)
    number(settings["minimum_weight"], "minimum_weight", least=0.0, most=math.nextafter(1.0, 0.0))
    for name in ("floor", "half_life", "switching"):
        if settings[name] is not None:
            number(settings[name], name)
    if settings["bound"] is not None:
        positive(settings["bound"], "bound")
    _require_forgetting(settings)


def _require_forgetting(settings: Mapping[str, Any]) -> None:
    try:
        require_forgetting(
            positive(settings["temperature"], "temperature"), settings["half_life"], settings["switching"]
        )
    except InvalidOption as error:
        raise ValueError(f"{error.what}: {error.why}") from error


def discriminants(settings: Mapping[str, Any]) -> None:
    """Check the settings of rows that are computed of moments.

    Raises:
        KeyError, ValueError: one is missing, or is outside its domain.
    """
    choice(settings)
    flag(settings, "renormalise")
    if settings["covariance"] not in ("pooled", "public"):
        raise ValueError("there is no such covariance")
    number(settings["shrinkage"], "shrinkage", least=0.0, most=1.0)
    positive(settings["temperature"], "temperature")
    for value in (settings["public_rows"], *settings["rows"].values()):
        # as far as a contribution may state: nobody could leave a model that its composer cannot open
        if type(value) is not int or not 1 <= value < 2**63:
            raise ValueError(f"{str(value)[:50]!a} rows of moments")
