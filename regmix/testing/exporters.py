"""What every exporter must do: one that is not the project's own passes these too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

from regmix.errors import UserError
from regmix.export import Exporter, Parts, Read, Request, Stage, Unit
from regmix.places import Place

Form = type[Exporter]
_WHERE = Path("exported.txt")


def check_exporter(kind: Form) -> None:
    """Every check, one after the other."""
    for check in EXPORTER_CHECKS:
        check(kind)


def _request(kind: Form, weights: Mapping[str, float], folder: str = "/data") -> Request:
    """A request for domains of which each has one file of JSON Lines and held-out data."""
    places = {
        name: Place(
            (f"{folder}/{name}/train.jsonl",), (f"{folder}/{name}/valid.jsonl",), 10**9, 10**6
        )
        for name in weights
    }
    stages = [Stage(0, weights)]
    if kind.staged:
        stages.append(
            Stage(4096, dict(zip(weights, reversed(list(weights.values())), strict=True)))
        )
    return Request("a mixture", tuple(stages), places, ("a note",), tokens=10**8, max_epochs=4.0)


def _shares(request: Request, parts: Parts, start: int) -> dict[str, float]:
    """Weights by domain of a stage that was read, divided by their sum; its paths are theirs."""
    owner = {path.removesuffix(".jsonl"): n for n, p in request.places.items() for path in p.paths}
    found: dict[str, float] = {}
    for part in parts[start]:
        name = part.name or owner[part.paths[0].removesuffix(".jsonl")]
        if part.paths:
            kept = {path.removesuffix(".jsonl") for path in request.places[name].paths}
            read = {path.removesuffix(".jsonl") for path in part.paths}
            assert read == kept, f"'{name}' lies at {kept}, read {read}"
        found[name] = found.get(name, 0.0) + part.weight
    total = sum(found.values())
    return {name: weight / total for name, weight in found.items()}


def _read_back(kind: Form, request: Request) -> None:
    parts = kind().read(kind().write(request).text, _WHERE)
    starts = [stage.start for stage in request.stages]
    assert list(parts) == starts, f"{kind.name}: stages at {list(parts)}, written {starts}"
    for stage in request.stages:
        found = _shares(request, parts, stage.start)
        assert set(found) == set(stage.weights), f"{kind.name}: read {found} of {stage.weights}"
        # A format that holds sizes rounds to whole documents, of which there are many.
        allowed = 1e-3 if kind.capped else 1e-12
        worst = max(abs(found[name] - weight) for name, weight in stage.weights.items())
        assert worst <= allowed, f"{kind.name}: read {found} of {stage.weights}"


def its_description_is_whole(kind: Form) -> None:
    """Name, title, unit, what is read, and the two claims are there."""
    assert kind.name, "no name"
    assert kind.title, f"{kind.name}: no title"
    assert isinstance(kind.unit, Unit), f"{kind.name}: unit is {kind.unit!r}"
    assert kind.reads in get_args(Read), f"{kind.name}: reads is {kind.reads!r}"
    for claim in ("capped", "staged"):
        assert isinstance(getattr(kind, claim), bool), f"{kind.name}: {claim} is not a bool"


def what_is_written_is_read_back(kind: Form) -> None:
    """The same domains and weights, stage by stage."""
    _read_back(kind, _request(kind, {"web": 0.6, "code": 0.3, "math": 0.1}))
    _read_back(kind, _request(kind, {"web/high": 1 / 3, "web/low": 2 / 3}))
    _read_back(kind, _request(kind, {"only": 1.0}))


def small_weights_keep_their_digits(kind: Form) -> None:
    """As much of them as the format can hold at all."""
    _read_back(kind, _request(kind, {"much": 1 - 2e-3, "little": 2e-3}))


def writing_is_deterministic(kind: Form) -> None:
    """The same request gives the same text, from this exporter and from another."""
    request = _request(kind, {"web": 0.75, "code": 0.25})
    first, maker = kind().write(request), kind()
    for again in (maker.write(request), maker.write(request)):
        assert again == first, f"{kind.name}: a second writing differs"


def awkward_paths_are_read_back_or_refused(kind: Form) -> None:
    """Blanks, quotes, signs of other languages: never a file that means something else."""
    for folder in ("my data", "it's", 'a"b', "$(date)", "#no", "{x}: y", "données/数据", "-x", "*"):
        request = _request(kind, {"web": 0.75, "code": 0.25}, f"/{folder}")
        try:
            _read_back(kind, request)
        except UserError:
            continue


def what_is_no_such_file_is_refused(kind: Form) -> None:
    """With the one exception that a person's mistake has, and the file's name in it."""
    for text in (
        "", "[]", "{}", "null", "][", "a: 1", "x = (", "\x00", "- 1", '{"a": [1]}', "a: &a [*a]"
    ):  # fmt: skip
        said = _refusal(kind, text)
        assert said is not None, f"{kind.name}: {text!r} was taken for a file of this format"
        assert str(_WHERE) in said, f"{kind.name}: '{said}' does not name the file"


def _refusal(kind: Form, text: str) -> str | None:
    try:
        kind().read(text, _WHERE)
    except UserError as error:
        return str(error)
    return None


EXPORTER_CHECKS: tuple[Callable[[Form], None], ...] = (
    its_description_is_whole,
    what_is_written_is_read_back,
    small_weights_keep_their_digits,
    writing_is_deterministic,
    awkward_paths_are_read_back_or_refused,
    what_is_no_such_file_is_refused,
)
