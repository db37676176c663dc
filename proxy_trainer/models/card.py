"""The model card that goes with a saved model: what it was trained on, and what it came to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from proxy_trainer.data.chat.shards import ChatManifest
from proxy_trainer.data.sampler import Realised
from proxy_trainer.models.verify import Verification
from regmix import yaml_io
from regmix.families import Shape
from regmix.manifest import DataManifest
from regmix.runs import RunSpec
from regmix.sizes import ModelShape

_PRIVATE = ("host", "worker")
"""What of the environment is nobody else's business: cards are published."""


@dataclass(frozen=True)
class Origin:
    """How a model came about."""

    spec: RunSpec
    data: DataManifest
    metrics: Mapping[str, float]
    """At the end of the run, by name."""
    domains: Sequence[Realised]
    """What the run saw of each domain."""
    environment: Mapping[str, str | int]
    """What it was computed with, versions among it."""
    chat: ChatManifest | None = None
    """The conversations, where those were what it was trained on."""


@dataclass(frozen=True)
class Average:
    """How an average of models came about."""

    name: str
    parts: Sequence[tuple[str, float]]
    """What each model is called, and its share."""
    metrics: Mapping[str, float] | None
    """Of the average; None if nobody has measured it."""


def average_text(shape: Shape, vocab_size: int, checked: Verification, average: Average) -> str:
    """The card of an average, as :func:`text`."""
    rows = [(name, f"{share:.6g}") for name, share in average.parts]
    told = "The weighted mean of these models, tensor by tensor.\n\n"
    parts = [
        *_head(average.name, shape, vocab_size),
        _section("Average", told + _table(("model", "weight"), rows)),
    ]
    if average.metrics is not None:
        parts.append(_metrics(average.metrics))
    return "\n".join([*parts, _loading(checked, "the average")])


def text(shape: Shape, vocab_size: int, checked: Verification, origin: Origin | None) -> str:
    """The card as Markdown with YAML front matter; names from elsewhere are escaped.

    Args:
        origin: left out of the card if not known.
    """
    parts = _head("Model" if origin is None else origin.spec.name, shape, vocab_size)
    if origin is not None:
        parts += [_training(origin), _mixture(origin), _data(origin), _metrics(origin.metrics)]
    parts += [_loading(checked)]
    if origin is not None:
        parts.append(_versions(origin))
    return "\n".join(parts)


def _head(name: str, shape: Shape, vocab_size: int) -> list[str]:
    front: dict[str, object] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["regmix"],
    }
    return [f"---\n{yaml_io.dump(front)}---\n", f"# {escaped(name)}\n", _model(shape, vocab_size)]


def with_stages(
    card: str, stages: Iterable[Sequence[object]], sources: Iterable[Sequence[object]]
) -> str:
    """A card with what the model went through before its last run, as the section after the model.

    Args:
        stages: a row each: name, kind, data, tokens, learning rate, run, metric.
        sources: a row each: name, tokens read and epochs over all stages.
    """
    first, model, rest = card.split("\n## ", 2)
    header = ("stage", "kind", "data", "tokens", "peak learning rate", "run", "metric")
    read = _table(("source", "tokens read", "epochs"), sources)
    made = _section("Stages", f"{_table(header, stages)}\nOver all stages:\n\n{read}")
    return f"{first}\n## {model}\n{made}\n## {rest}"


def escaped(words: object) -> str:
    """Text that Markdown shows as it is, on one line: no markup, no cell's end, no HTML."""
    line = " ".join(str(words).split())
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|<>&~$:@=\"'/])", r"\\\1", line)


def _model(shape: Shape, vocab_size: int) -> str:
    embeddings = vocab_size * shape.d_model * (1 if shape.tied_embeddings else 2)
    family = "native" if isinstance(shape, ModelShape) else shape.family
    rows = [
        ("kind", f"decoder, {family}" + (", QK-norm" if shape.qk_norm else "")),
        ("parameters", f"{shape.parameters:,} and {embeddings:,} of embeddings"),
        ("width, layers", f"{shape.d_model:,}, {shape.layers:,}"),
        ("heads", f"{shape.heads:,}, with {shape.kv_heads:,} for keys and values"),
        ("context", f"{shape.context:,} tokens"),
        ("vocabulary", f"{vocab_size:,}"),
    ]
    return _section("Model", _table(("", ""), rows))


def _training(origin: Origin) -> str:
    spec = origin.spec
    rows = [
        ("run", spec.run_id),
        ("tokens", f"{spec.tokens:,}"),
        ("steps", f"{spec.plan.steps:,} of {spec.tokens_per_step:,} tokens"),
        ("training FLOPs", f"{spec.flops:.4g}"),
        ("peak learning rate", f"{spec.plan.lr:g}, {spec.plan.schedule}"),
        ("seed", spec.seed),
    ]
    if spec.start is not None:
        how = ", optimiser included" if spec.start.optimiser else ""
        rows.append(("goes on from", f"{spec.start.run or spec.start.folder}{how}"))
    return _section("Training", _table(("", ""), rows))


def _mixture(origin: Origin) -> str:
    rows = [
        (d.domain, f"{d.requested:.4%}", f"{d.realised:.4%}", f"{d.tokens:,}", f"{d.epochs:.3g}")
        for d in origin.domains
    ]
    kind = "conversations" if origin.spec.chat else "domain"
    header = (kind, "share asked", "share seen", "tokens seen", "epochs")
    return _section(f"Mixture `{origin.spec.mixture.id}`", _table(header, rows))


def _data(origin: Origin) -> str:
    if origin.chat is not None:
        return _conversations(origin.chat)
    data = origin.data
    rows = [
        (d.name, f"{d.train.tokens:,}", f"{d.train.documents:,}", f"{d.train.text_bytes:,}",
         f"{d.valid.tokens:,}")
        for d in data.domains
    ]  # fmt: skip
    header = ("domain", "training tokens", "documents", "bytes of text", "held-out tokens")
    told = f"Fingerprint `{data.fingerprint}`, tokenizer `{data.tokenizer}`.\n\n"
    return _section("Data", told + _table(header, rows))


def _conversations(data: ChatManifest) -> str:
    rows = [
        (s.name, f"{s.conversations:,}", f"{s.tokens:,}", f"{s.trained_tokens:,}",
         f"{s.dropped:,}", f"{s.truncated:,}")
        for s in data.sources
    ]  # fmt: skip
    header = ("source", "conversations", "tokens", "carry loss", "left out", "cut")
    told = f"Fingerprint `{data.fingerprint}`, tokenizer `{data.tokenizer}`.\n\n"
    return _section("Data", told + _table(header, rows))


def _metrics(metrics: Mapping[str, float]) -> str:
    if not metrics:
        return _section("Metrics", "None were measured.\n")
    rows = [(name, f"{value:.6g}") for name, value in metrics.items()]
    return _section("Metrics", _table(("metric", "on held-out text"), rows))


def _loading(checked: Verification, model: str = "the trained model") -> str:
    code = (
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'folder = "."  # this folder\n'
        "model = AutoModelForCausalLM.from_pretrained(folder)\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        "```\n\n"
    )
    if checked.difference is None:
        told = f"Not checked when it was saved: {escaped(checked.reason)}.\n"
    else:
        told = (
            "Checked when it was saved: logits that transformers computes from this folder differ "
            f"from those of {model} by at most {checked.difference:.2g}, at "
            f"{checked.positions} positions in single precision; the largest is "
            f"{checked.largest:.3g}.\n"
        )
    return _section("Loading", code + told)


def _versions(origin: Origin) -> str:
    found = [(key, x) for key, x in origin.environment.items() if key not in _PRIVATE]
    told = [("numerics", origin.spec.numerics), *found]
    return _section("Made with", _table(("", ""), told))


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}"


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header)]
    written = [f"| {' | '.join(line)} |" for line in lines]
    written += [f"| {' | '.join(escaped(cell) for cell in row)} |" for row in rows]
    return "\n".join(written) + "\n"
