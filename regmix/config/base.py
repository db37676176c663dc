"""What every section of ``study.yaml`` is made of: strictness, and the kinds of plain values."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PATTERN = re.compile(r"[*?\[]")
"""What makes a pattern of a name."""
_NAME = re.compile(r"[^\s/\\.][^\s\\]{0,199}")


class Strict(BaseModel):
    """Frozen, and refuses keys it does not know and values of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def valid_name(value: str) -> str:
    """A name, as it is.

    Raises:
        ValueError: with the rule, if it cannot be one.
    """
    if not _NAME.fullmatch(value):
        raise ValueError(
            "a name has 1 to 200 characters, no spaces or backslashes, and starts with neither "
            "'.' nor '/'"
        )
    return value


Name = Annotated[str, AfterValidator(valid_name)]


def as_tuple(value: object) -> object:
    """YAML's lists as tuples, which are frozen; what is no list is left to be refused."""
    return tuple(value) if isinstance(value, list) else value


AsTuple = BeforeValidator(as_tuple)


def ordered(bound: tuple[float, float]) -> tuple[float, float]:
    """A pair of bounds, as it is.

    Raises:
        ValueError: the lower one exceeds the upper one.
    """
    if bound[0] > bound[1]:
        raise ValueError(f"the lower bound {bound[0]:g} exceeds the upper bound {bound[1]:g}")
    return bound


Bound = Annotated[tuple[Share, Share], AfterValidator(ordered)]
Names = Annotated[tuple[str, ...], AsTuple]
