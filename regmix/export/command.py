"""From a mixture file to a trainer's file and back: what is checked, and what is said about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from regmix import __version__
from regmix.errors import UserError, unknown_name
from regmix.export.base import Exporter, Part, Parts, Read, Request, Stage, Unit, Written
from regmix.export.inputs import check_outputs
from regmix.export.registry import exporter
from regmix.export.shares import in_tokens, in_unit
from regmix.files import TEXT_SUFFIXES, expanded, write_text
from regmix.floats import exact_sum
from regmix.mixture import TOLERANCE, Mixture, MixtureFile, check_names
from regmix.places import Place, Places

_INDEXED = (".bin", ".idx")
_TOKENS = (".json", ".npy", ".ds", *_INDEXED)


@dataclass(frozen=True)
class Asked:
    """What a person asks of an export beside mixture and format."""

    stages: Mapping[int, Path] = field(default_factory=dict)
    """Further mixtures by the number of steps after which they begin."""
    tokens: int | None = None
    """Training tokens of the run; None: not known."""
    max_epochs: float | None = None
    """How often a domain may be gone over; None: once, where a format needs a cap."""
    tokenizer: str | None = None
    """Fingerprint of the tokenizer that the trainer will use; None: that of the data."""
    seed: int | None = None
    """Of the trainer's own sampling; None: 0."""
    inputs: tuple[Path, ...] = ()
    """Files that the answer comes from beside the mixtures: none of them is written over."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    files: tuple[Path, ...]
    unit: Unit
    asked: Mapping[str, float]
    """Shares of tokens, first stage."""
    written: Mapping[str, float]
    """The same in the format's unit."""
    notes: tuple[str, ...]


def export(path: Path, to: str, output: Path, places: Places, asked: Asked) -> Exported:
    """Write a mixture file in a trainer's format.

    Raises:
        UserError: mixture and data are not of the same domains, the data are laid out for another
            trainer, the tokenizer is another, a domain would be repeated too often, the format
            cannot say what is asked, or it would be written over what it is made from.
    """
    form = exporter(to)
    _check_layout(form, places)
    files = {0: MixtureFile.load(path)}
    for start, later in sorted(asked.stages.items()):
        files[start] = MixtureFile.load(later)
    _check_stages(form, asked)
    sources = {0: path, **asked.stages}
    mixtures = {start: file.mixture for start, file in files.items()}
    for start, mixture in mixtures.items():
        _check_domains(mixture, places, str(sources[start]))
    unchecked = _check_tokenizer(places, asked)
    repeated = _check_epochs(form, mixtures, places, asked)
    stages = tuple(_stage(form, start, mixture, places) for start, mixture in mixtures.items())
    named = {n for stage in stages for n in stage.weights}
    notes = _notes(form, files[0], mixtures, places)
    request = Request(
        name=files[0].name,
        stages=stages,
        places={n: places.domains[n] for n in mixtures[0].domains if n in named},
        notes=(*notes, *unchecked, *repeated),
        tokens=asked.tokens,
        max_epochs=1.0 if asked.max_epochs is None else asked.max_epochs,
        seed=asked.seed or 0,
        dtype=places.dtype,
    )
    written = form.write(request)
    beside = {output.parent / name: text for name, text in written.beside.items()}
    _check_beside(beside, output)
    check_outputs((output, *beside), (*sources.values(), *asked.inputs), places)
    for other, text in beside.items():
        write_text(other, text)
    write_text(output, written.text)
    return Exported(
        files=(output, *beside),
        unit=form.unit,
        asked={n: mixtures[0][n] for n in stages[0].weights},
        written=stages[0].weights,
        notes=(
            *notes[1:],
            *unchecked,
            *repeated,
            *written.notes,
            *_unused_seed(form, request, written, asked),
        ),
    )


def needs_paths(path: Path, source: str, at: int | None = None) -> bool:
    """Whether domains are known by their data alone in a trainer's file: an entry has no name.

    Raises:
        UserError: it is not such a file.
    """
    form = exporter(source, "--from")
    _, parts = _one_stage(form.read(_content(path), path), path, at)
    return any(part.name is None for part in parts)


def import_mixture(
    path: Path,
    source: str,
    output: Path,
    places: Places | None,
    at: int | None = None,
    inputs: Sequence[Path] = (),
) -> tuple[MixtureFile, tuple[str, ...]]:
    """Take a mixture from a trainer's file; also what was done to it.

    Args:
        places: of the study's domains; without, domains are named as the file names them, or after
            their files. Their paths matter where an entry of the file has no name.
        at: the step at which the stage begins that is meant; needed where there are several.
        inputs: files that were read beside ``path``.

    Raises:
        UserError: it is not such a file, names data that no domain has, needs the tokens of
            documents that are not known, or would be written over what it is made from.
    """
    check_outputs((output,), (path, *inputs), places)
    form = exporter(source, "--from")
    start, parts = _one_stage(form.read(_content(path), path), path, at)
    weights = _by_domain(parts, places, path)
    notes = []
    total = exact_sum(weights.values())
    if abs(total - 1) > 1e-9 and total > 0:
        notes.append(f"its weights sum to {total:.6g}; each was divided by that")
    try:
        shares = in_tokens(weights, form.unit, places)
    except UserError as exc:
        raise UserError(f"{path}: {exc}") from exc
    if form.unit is Unit.DOCUMENTS:
        notes.append("shares of documents were turned into shares of tokens")
    if places is not None:
        missing = [n for n in places.domains if n not in shares]
        if missing:
            notes.append(f"not in the file, so 0: {', '.join(missing)}")
        shares = {n: shares.get(n, 0.0) for n in places.domains}
    provenance = {"imported": path.name, "format": form.name, "regmix": __version__}
    if start:
        provenance["from_step"] = str(start)
    found = MixtureFile(output.stem, Mixture.of(shares, where=str(path)), provenance)
    found.save(output)
    return found, tuple(notes)


def _check_stages(form: Exporter, asked: Asked) -> None:
    if not asked.stages:
        return
    if not form.staged:
        raise UserError(f"--then: the format '{form.name}' holds one mixture, not stages")
    if asked.tokens is not None or asked.max_epochs is not None:
        raise UserError(
            "--tokens, --max-epochs: not with --then, as nothing says how many tokens a stage has"
        )
    for start in asked.stages:
        if start < 1:
            raise UserError(f"--then {start}: a later stage begins after one step or more")


def _check_domains(mixture: Mixture, places: Places, where: str) -> None:
    """A domain with weight needs data, and data need a weight."""
    known = places.domains
    for name, weight in mixture.as_dict().items():
        if weight > 0 and name not in known:
            raise unknown_name("domain", name, known, f"{where}: weights (data: {places.where})")
    used = {n: w for n, w in mixture.as_dict().items() if w > 0 or n in known}
    check_names(used, tuple(known), f"{where}: weights (data: {places.where})")


def _check_layout(form: Exporter, places: Places) -> None:
    """Data that were laid out for one trainer are noise to another.

    Raises:
        UserError: the mapping file says that they are in another layout.
    """
    layout = places.layout
    if layout is None or layout == form.reads:
        return
    if form.reads == "own" and layout not in get_args(Read):
        return  # a name that a person gave what the trainer's tools wrote
    needed = {
        "text": "text files; name those of each domain in a mapping file (--paths) without a "
        "layout, or export with --study alone",
        "own": "data that the trainer's own tools prepared; name those in the mapping file",
    }.get(form.reads, f"'{form.reads}'; run `regmix data export STUDY --to {form.reads}`")
    raise UserError(
        f"{places.where}: layout: its files are in the layout '{layout}', and the format "
        f"'{form.name}' reads {needed}"
    )


def _check_tokenizer(places: Places, asked: Asked) -> tuple[str, ...]:
    """Refuse another tokenizer than the data's; what could not be checked."""
    if asked.tokenizer is None:
        return ()
    if places.tokenizer is None:
        return (f"tokenizer not checked: {places.where} does not say whose tokens it counts",)
    if asked.tokenizer != places.tokenizer:
        raise UserError(
            f"{places.where}: its tokens are those of tokenizer {places.tokenizer}, not of "
            f"{asked.tokenizer}; shares of tokens and token shards are of one tokenizer alone: "
            "lay the data out with that one"
        )
    return ()


def _check_epochs(
    form: Exporter, mixtures: Mapping[int, Mixture], places: Places, asked: Asked
) -> tuple[str, ...]:
    """Refuse a run that goes over a domain more often than it may; what could not be checked."""
    limit = _limit(asked)
    if len(mixtures) > 1 or not (form.capped or limit or asked.tokens):
        return ()
    if limit is None and not form.capped:
        return ("repetition not checked: --max-epochs not given",)
    limit = 1.0 if limit is None else limit
    if asked.tokens is None:
        return (f"repetition not checked (at most {limit:g} epochs): tokens of the run not given",)
    unknown = []
    for name, weight in mixtures[0].as_dict().items():
        if weight == 0:
            continue
        available = places.domains[name].tokens
        if available is None:
            unknown.append(name)
        elif weight > limit * available / asked.tokens + TOLERANCE:  # as the space takes its caps
            wanted = weight * asked.tokens
            raise UserError(
                f"domain '{name}': {weight:.4g} of {asked.tokens:,} tokens are {wanted:,.0f}, and "
                f"{available:,} are there: {wanted / available:.3g} epochs, where at most "
                f"{limit:g} may be (short by {wanted - limit * available:,.0f} tokens); lower its "
                "weight or --tokens, or raise --max-epochs"
            )
    if unknown:
        return (f"repetition not checked, tokens not known: {', '.join(unknown)}",)
    return (f"at most {limit:g} epochs of any domain in {asked.tokens:,} tokens",)


def _limit(asked: Asked) -> float | None:
    """The cap that is asked.

    Raises:
        UserError: it is none.
    """
    limit = asked.max_epochs
    if limit is not None and not (math.isfinite(limit) and limit > 0):
        raise UserError(f"--max-epochs {limit:g}: must be a number above 0")
    return limit


def _unused_seed(
    form: Exporter, request: Request, written: Written, asked: Asked
) -> tuple[str, ...]:
    """Said where a seed was asked for and the file is the same with another."""
    if asked.seed is None or form.write(replace(request, seed=request.seed + 1)) != written:
        return ()
    return (f"--seed {asked.seed}: the format '{form.name}' holds no seed; give it to the trainer",)


def _stage(form: Exporter, start: int, mixture: Mixture, places: Places) -> Stage:
    weights = {n: w for n, w in mixture.as_dict().items() if w > 0}
    return Stage(start, in_unit(weights, form.unit, places))


def _notes(
    form: Exporter, file: MixtureFile, mixtures: Mapping[int, Mixture], places: Places
) -> tuple[str, ...]:
    """The first says what the file is; the others a person should know."""
    notes = [f"mixture '{file.name}' ({file.mixture.id}), {form.title}, by regmix {__version__}"]
    if form.unit is Unit.DOCUMENTS:
        notes.append(
            "weights are shares of documents: shares of tokens divided by the domain's mean tokens "
            "a document, then by their sum"
        )
    else:
        notes.append("weights are shares of tokens")
    for start, mixture in mixtures.items():
        out = [n for n, w in mixture.as_dict().items() if w == 0]
        if out:
            stage = f" from step {start} on" if start else ""
            notes.append(f"weight 0, left out{stage}: {', '.join(out)}")
    return (*notes, *places.notes)


def _check_beside(beside: Mapping[Path, str], output: Path) -> None:
    """Files beside the export have fixed names: another export's must not be overwritten."""
    for path, text in beside.items():
        if path == output:
            raise UserError(f"{output}: is the name of a file that is written beside it")
        if path.exists() and _content(path) != text:
            raise UserError(
                f"{path}: is there already and says something else; export into a folder of its "
                "own, or delete it"
            )


def _content(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as exc:
        raise UserError(f"{path}: no such file") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise UserError(f"{path}: cannot be read ({exc})") from exc


def _one_stage(stages: Parts, path: Path, at: int | None) -> tuple[int, Sequence[Part]]:
    if at is None and len(stages) > 1:
        starts = ", ".join(map(str, stages))
        raise UserError(f"{path}: has stages that begin at steps {starts}; choose one with --at")
    start = next(iter(stages)) if at is None else at
    if start not in stages:
        raise unknown_name("stage", start, map(str, stages), f"{path}: --at")
    return start, stages[start]


def _by_domain(parts: Sequence[Part], places: Places | None, path: Path) -> dict[str, float]:
    """Weights by domain; one that stands in several entries gets their sum.

    Raises:
        UserError: an entry is of no domain, or two that are not of the same data have one name.
    """
    weights: dict[str, float] = {}
    source: dict[str, tuple[str, ...]] = {}
    for part in parts:
        name = _name(part, places, path)
        first = source.setdefault(name, part.paths)
        if name in weights and (part.name is not None or (places is None and first != part.paths)):
            raise UserError(
                f"{path}: '{name}' stands in two entries"
                + ("" if part.name else f" ({first[0]}, {part.paths[0]}); name them with --paths")
            )
        weights[name] = weights.get(name, 0.0) + part.weight
    return weights


def _name(part: Part, places: Places | None, path: Path) -> str:
    """The domain that an entry is of: by its name, else by its data."""
    if part.name is not None:
        if places is not None and part.name not in places.domains:
            raise unknown_name(
                "domain", part.name, places.domains, f"{path} (data: {places.where})"
            )
        return part.name
    if places is None:
        return _stem(part.paths[0])
    wanted = {_without(_comparable(p, path), _INDEXED) for p in part.paths}
    for name, place in places.domains.items():
        if wanted <= _spellings(place):
            return name
    raise UserError(
        f"{path}: '{part.paths[0]}' is no domain's data in {places.where}; add it to a mapping "
        "file (--paths)"
    )


def _stem(path: str) -> str:
    """A file's name without the ends that say what it is; other dots belong to the name."""
    return _without(Path(path).name, (*sorted(TEXT_SUFFIXES, key=len, reverse=True), *_TOKENS))


def _without(path: str, ends: Sequence[str]) -> str:
    found = next((end for end in ends if path.endswith(end) and path != end), "")
    return path.removesuffix(found)


def _spellings(place: Place) -> set[str]:
    """A domain's data as files may name them: whole, and as prefixes of ``.bin`` and ``.idx``."""
    whole = {_comparable(p, None) for p in place.paths}
    return whole | {_without(p, _INDEXED) for p in whole}


def _comparable(path: str, file: Path | None) -> str:
    if "://" in path:
        return path
    full = expanded(path)
    if file is not None and not full.is_absolute():
        full = file.parent / full
    return str(full.resolve())
