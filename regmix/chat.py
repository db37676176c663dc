"""What a recipe says about conversations: their sources, the template, what is too long."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from regmix.config.base import AsTuple, Name, Names, PositiveFloat, Strict
from regmix.errors import UserError
from regmix.mixture import Mixture

ChatFormat = Literal["auto", "messages", "prompt_completion"]
TooLong = Literal["drop", "truncate"]


class ChatFiles(Strict):
    """A named set of conversations."""

    name: Name
    files: Annotated[Names, Field(min_length=1)]
    """Files, folders or globs, JSON lines or parquet; relative paths start at the stage file."""
    format: ChatFormat = "auto"
    """What a row holds: ``messages``, or a prompt and its completion; auto: what it has."""
    prompt_field: str = "prompt"
    completion_field: str = "completion"
    """Keys of a prompt and its completion."""

    @property
    def pair(self) -> tuple[str, str]:
        """The keys of a prompt and of its completion."""
        return self.prompt_field, self.completion_field


class ChatSource(ChatFiles):
    """A set that is weighted, or repeated, as one."""

    weight: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the run's tokens: of whole conversations, padding apart."""
    epochs: PositiveFloat | None = None
    """Passes over the source; of a fractional one the last is a seeded part."""


class Conversations(Strict):
    """Sets of conversations that are tokenised alike: to be measured on, or with shares trained."""

    sources: Annotated[tuple[ChatFiles, ...], AsTuple, Field(min_length=1)]
    template: str | None = None
    """A Jinja chat template with ``{% generation %}`` marks, relative to the stage file; empty: the
    tokenizer's own, or a plain one where it has none."""
    max_length: TooLong = "drop"
    """What becomes of a conversation longer than the context; either is counted."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for index, name in enumerate(self.names):
            if name in self.names[:index]:
                raise ValueError(f"source '{name}' is named twice")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Source names in the order in which they are listed."""
        return tuple(s.name for s in self.sources)


class ChatData(Conversations):
    """What one stage trains on."""

    sources: Annotated[tuple[ChatSource, ...], AsTuple, Field(min_length=1)]

    @model_validator(mode="after")
    def _checked(self) -> Self:
        self._one_measure()
        if self.sources[0].weight is not None:
            try:
                self.mixture()
            except UserError as exc:
                raise ValueError(str(exc)) from exc
        return self

    def _one_measure(self) -> None:
        """Every source has a weight, or every one has epochs, and none has both."""
        weights = [s.name for s in self.sources if s.weight is not None]
        epochs = [s.name for s in self.sources if s.epochs is not None]
        both = [name for name in weights if name in epochs]
        neither = [s.name for s in self.sources if s.name not in (*weights, *epochs)]
        told = "; ".join(
            f"{', '.join(names)}: {what}"
            for names, what in (
                (both, "both"),
                (neither, "neither"),
                ([n for n in weights if n not in both], "weight"),
                ([n for n in epochs if n not in both], "epochs"),
            )
            if names
        )
        if both or neither or (weights and epochs):
            raise ValueError(f"give every source a 'weight', or every source 'epochs' ({told})")

    def mixture(self) -> Mixture | None:
        """The sources' weights; None where they have epochs.

        Raises:
            UserError: they do not sum to 1.
        """
        weights = {s.name: s.weight for s in self.sources if s.weight is not None}
        return Mixture.of(weights, where="sources") if weights else None
