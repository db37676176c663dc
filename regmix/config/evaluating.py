"""What runs are measured on beside the study's own text: ``evaluate:``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from regmix.config.base import Names, Positive, Strict

Points = Literal["last", "every"]


class EvaluateConfig(Strict):
    """Tasks that every run is measured on when it is trained, with its whole array."""

    tasks: Names = ()
    """Names of tasks that regmix brings (``mmlu``), or files that describe tasks."""
    data: str | None = None
    """Folder of the questions of tasks that regmix brings, relative to the study."""
    limit: Positive | None = None
    """Questions of each task: a subsample, drawn from all subjects alike; empty: all."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the subsample."""
    points: Points = "last"
    """``every``: also wherever bits per byte are measured on the way (``train.eval_points``)."""

    @field_validator("tasks")
    @classmethod
    def _once(cls, value: Names) -> Names:
        for index, name in enumerate(value):
            if name in value[:index]:
                raise ValueError(f"task '{name}' is named twice")
        return value
