"""Where a study's training text lies, for trainers that read text themselves."""

from __future__ import annotations

from proxy_trainer.data.sources import expand
from regmix.config import Domain, StudyConfig
from regmix.errors import UserError
from regmix.layout import StudyLayout
from regmix.places import Place


def text_places(layout: StudyLayout, config: StudyConfig) -> dict[str, Place]:
    """The files that every domain's text is read from.

    Raises:
        UserError: a source is missing, on the hub, or the files of a domain name their text by
            different fields.
    """
    return {domain.name: _place(domain, layout) for domain in config.domains}


def _place(domain: Domain, layout: StudyLayout) -> Place:
    files = {}
    for split, sources in (("train", domain.train), ("valid", domain.valid)):
        where = f"{layout.config}: domains.{domain.name}.{split}"
        found = [item for source in sources for item in expand(source, layout.root, where)]
        for item in found:
            if item.path is None:
                raise UserError(
                    f"{where}: {item.label} is a dataset on the hub; say where its files are in a "
                    "mapping file (--paths)"
                )
        files[split] = tuple(str(item.path) for item in found)
    if not files["train"]:
        raise UserError(
            f"{layout.config}: domains.{domain.name}.train: no source; say where its text is in a "
            "mapping file (--paths)"
        )
    fields = {source.text_field for source in domain.train}
    if len(fields) > 1:
        raise UserError(
            f"{layout.config}: domains.{domain.name}.train: text_field is "
            f"{' and '.join(map(repr, sorted(fields)))}, and an export names one; say where text "
            "with one field is in a mapping file (--paths)"
        )
    return Place(files["train"], files["valid"], text_field=fields.pop())
