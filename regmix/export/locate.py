"""Where an export finds the data of a mixture's domains: a mapping file, or the study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from regmix.config import StudyConfig, find_study, load_study
from regmix.errors import UserError
from regmix.export.base import Exporter
from regmix.export.command import Asked
from regmix.layout import StudyLayout
from regmix.manifest import DataManifest
from regmix.places import Place, Places, load_places

FindText = Callable[[StudyLayout, StudyConfig], dict[str, Place]]
"""The files that a study's training text is read from; the trainer knows how to find them."""


@dataclass(frozen=True)
class Located:
    """What is known of the data, and of the study that they belong to."""

    places: Places
    config: StudyConfig | None = None
    tokenizer: str | None = None
    """Fingerprint of the study's tokenizer, where its data are built."""
    inputs: tuple[Path, ...] = ()
    """The files that say so."""


def study_of(mixture: Path, study: Path | None) -> Path | None:
    """The study that is named, or in whose ``mixes/`` the mixture lies, if it lies in any."""
    if study is not None:
        return study
    above = mixture.resolve().parent.parent
    return above if StudyLayout(above).config.is_file() else None


def stages(given: Sequence[str]) -> dict[int, Path]:
    """``STEP=MIX.yaml`` by step.

    Raises:
        UserError: one is not of that form, or a step is given twice.
    """
    found: dict[int, Path] = {}
    for text in given:
        step, equals, path = text.partition("=")
        if not equals or not step.isascii() or not step.isdigit() or not path:
            raise UserError(f"--then {text}: expected STEP=MIX.yaml, as 1000=mixes/late.yaml")
        if int(step) in found:
            raise UserError(f"--then {text}: step {int(step)} is given twice")
        found[int(step)] = Path(path)
    return found


def settled(asked: Asked, form: Exporter, found: Located) -> Asked:
    """What is asked, completed by what the study says of tokens, repetition and tokenizer.

    A format without a cap is checked against one where tokens or a cap are asked.
    """
    asked = replace(asked, inputs=(*asked.inputs, *found.inputs))
    if found.config is None:
        return asked
    asked = replace(asked, tokenizer=asked.tokenizer or found.tokenizer)
    given = asked.tokens is not None or asked.max_epochs is not None
    if asked.stages or not (form.capped or given):
        return asked
    space = found.config.space
    return replace(
        asked,
        tokens=space.budget_tokens if asked.tokens is None else asked.tokens,
        max_epochs=space.max_epochs if asked.max_epochs is None else asked.max_epochs,
    )


def locate(
    form: Exporter,
    study: Path | None,
    paths: Path | None,
    find_text: FindText,
    *,
    names_only: bool = False,
) -> Located:
    """Find the data for a format.

    Args:
        study: folder of the study, if there is one.
        paths: mapping file; goes before what the study has. Counts of tokens and documents that it
            lacks come from the study.
        find_text: finds text files of a study.
        names_only: no paths are needed: a study's domains and their counts are enough, and its
            data may lie elsewhere.

    Raises:
        UserError: nothing says where the data are, or they are copies of other data than the
            study's.
    """
    if study is None:
        if paths is None:
            raise UserError("no data: give --study, or --paths with a mapping file")
        return Located(load_places(paths), inputs=(paths,))
    layout = find_study(study)
    config = load_study(layout.config)
    manifest = DataManifest.load(layout.manifest) if layout.manifest.exists() else None
    if manifest is not None:
        manifest.check_settings(config, layout)
    if paths is not None:
        places = load_places(paths)
    elif names_only:
        places = Places({d.name: Place(()) for d in config.domains}, str(layout.config))
    elif form.reads == "text":
        places = _text(layout, config, find_text)
    else:
        places = _shards(form, layout)
    inputs = (layout.config, layout.manifest, Path(places.where))
    if manifest is None:
        return Located(places, config, inputs=inputs)
    if places.data is not None and places.data != manifest.fingerprint:
        raise UserError(
            f"{places.where}: shards of data {places.data}, but {layout.manifest} has "
            f"{manifest.fingerprint}; run `regmix data export {layout.root} --to {places.layout}` "
            "again"
        )
    return Located(_counted(places, manifest), config, manifest.tokenizer, inputs)


def _text(layout: StudyLayout, config: StudyConfig, find_text: FindText) -> Places:
    notes = []
    shared = [d.name for d in config.domains if not d.valid]
    if shared:
        notes.append(
            f"the files of {', '.join(shared)} hold held-out documents too (valid_share): what is "
            "trained on them has seen its validation text"
        )
    return Places(find_text(layout, config), str(layout.config), notes=tuple(notes))


def _shards(form: Exporter, layout: StudyLayout) -> Places:
    if form.reads == "own":
        raise UserError(
            f"the format '{form.name}' is of data that the trainer's own tools prepare: say where "
            "each domain's lie in a mapping file (--paths)"
        )
    path = layout.exported(form.reads)
    if not path.is_file():
        raise UserError(
            f"{path}: no shards in this layout; run `regmix data export {layout.root} --to "
            f"{form.reads}`, or say where they are in a mapping file (--paths)"
        )
    return load_places(path)


def _counted(places: Places, manifest: DataManifest) -> Places:
    """Counts that the places do not have, as the study's own data have them."""
    domains = dict(places.domains)
    for name, place in places.domains.items():
        if name not in manifest.names or place.tokens is not None or place.documents is not None:
            continue
        train = manifest.domain(name).train
        domains[name] = replace(place, tokens=train.tokens, documents=train.documents)
    return replace(places, domains=domains, tokenizer=places.tokenizer or manifest.tokenizer)
