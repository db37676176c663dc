"""Domains, where their text comes from, and how it becomes token shards."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from regmix.config.base import AsTuple, Name, Positive, Share, Strict


class Source(Strict):
    """Where documents come from: files on this machine, or a dataset on the hub."""

    path: str | None = None
    """File, folder or glob; relative paths start at the study folder."""
    hub: str | None = None
    """Anything `datasets.load_dataset` takes as its first argument."""
    hub_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments to `load_dataset`: name, data_dir, data_files, revision. A dataset that
    changes under the same arguments is noticed by its local files alone; pin others by revision."""
    split: str = "train"
    """Split of the hub dataset."""
    text_field: str = "text"

    @model_validator(mode="after")
    def _oneplace(self) -> Source:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either 'path' or 'hub'")
        return self


class Domain(Strict):
    """A named set of documents that is weighted as one."""

    name: Name
    train: tuple[Source, ...] = ()
    valid: tuple[Source, ...] = ()
    """Empty: ``valid_share`` of the training documents are set apart by content hash."""
    valid_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    tags: Annotated[tuple[str, ...], AsTuple] = ()
    group: str | None = None
    """What it belongs to: groups can be bounded as one."""
    tokens: Positive | None = None
    """Training tokens there are of it; only where the data is not built here."""

    @field_validator("train", "valid", mode="before")
    @classmethod
    def _sources(cls, value: object) -> object:
        """A path, a source, or a list of either."""
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple({"path": item} if isinstance(item, str) else item for item in items)


class TokenizerConfig(Strict):
    """Train a tokenizer on the study's text, or use one."""

    path: str | None = None
    """A `tokenizer.json`; empty: a byte-level BPE is trained."""
    vocab_size: Annotated[int, Field(ge=257)] = 4096
    train_bytes: Positive = 2_000_000
    """Training text taken from each domain to train it, whole documents. Despite its name it is
    counted in characters: counting bytes would change the tokenizers of existing corpora."""


class Benchmark(Strict):
    """Evaluation items: a row of a JSON Lines or parquet file each."""

    name: Name
    files: Annotated[tuple[str, ...], AsTuple, Field(min_length=1)]
    """Files or globs; relative ones start at the study folder."""
    fields: Annotated[tuple[str, ...], AsTuple, Field(min_length=1)]
    """Fields that make up an item's text, in order; a list's values one after the other."""


class DecontaminateConfig(Strict):
    """Training documents that hold evaluation items are left out, and counted."""

    benchmarks: Annotated[tuple[Benchmark, ...], AsTuple, Field(min_length=1)]
    ngram: Annotated[int, Field(ge=5, le=50)] = 13
    """Consecutive words that a document and an item must share (GPT-3's 13, arXiv 2005.14165)."""

    @model_validator(mode="after")
    def _distinct(self) -> DecontaminateConfig:
        names = [b.name for b in self.benchmarks]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(f"benchmark '{name}' is named twice")
        return self


class DataConfig(Strict):
    """How text becomes token shards."""

    tokenizer: TokenizerConfig = TokenizerConfig()
    max_missing_text: Share = 0.01
    """Largest share of documents without a text that is only counted; above it, an error."""
    decontaminate: DecontaminateConfig | None = None
