"""A study's folder as it stands: its settings, its data, the mixtures that it allows and names."""

from __future__ import annotations

from functools import cached_property

from regmix.config import StudyConfig
from regmix.errors import UserError, unknown_name
from regmix.layout import StudyLayout
from regmix.manifest import DataManifest
from regmix.mixture import Mixture, MixtureFile
from regmix.objective import Objective
from regmix.space import Space


class StudyFolder:
    """What planning and choosing start from; nothing here writes."""

    def __init__(self, layout: StudyLayout, settings: StudyConfig) -> None:
        self.layout = layout
        self.config = settings

    @property
    def domains(self) -> tuple[str, ...]:
        """Domain names in study order."""
        return self.config.domain_names

    @cached_property
    def manifest(self) -> DataManifest | None:
        """What the token shards hold; None if the data is not built (or was measured elsewhere)."""
        return DataManifest.load(self.layout.manifest) if self.layout.manifest.exists() else None

    @cached_property
    def space(self) -> Space:
        """The allowed mixtures."""
        return Space.from_config(self.config.space, self.config.domains, self.available_tokens())

    def available_tokens(self) -> dict[str, int]:
        """Training tokens by domain: counted where the data is built, else as ``study.yaml`` says.

        Domains of which neither is known are left out.
        """
        if self.manifest:
            return self.manifest.available_tokens()
        return {d.name: d.tokens for d in self.config.domains if d.tokens is not None}

    def references(self) -> dict[str, Mixture]:
        """The obvious alternatives: natural (where tokens are known) and uniform."""
        found = {}
        tokens = self.available_tokens()
        if self.manifest:
            found["natural"] = self.manifest.natural()
        elif len(tokens) == len(self.domains):
            total = sum(tokens.values())
            found["natural"] = Mixture.of({d: tokens[d] / total for d in self.domains})
        return {**found, "uniform": Mixture.uniform(self.domains)}

    def reference(self, objective: Objective) -> str:
        """Hash of the mixture that an objective's terms are relative to; empty: there is none."""
        try:
            return self.mixture(objective.reference).id if objective.reference else ""
        except UserError:  # its file is gone, and with it all that could be measured of it
            return ""

    def mixture(self, name: str) -> Mixture:
        """A mixture by name: natural, uniform, or a file's in ``mixes/``.

        Raises:
            UserError: there is none of that name; with those that there are.
        """
        references = self.references()
        if name in references:
            return references[name]
        files = sorted(p.stem for p in self.layout.mixes.glob("*.yaml"))
        if name not in files:
            missing = "" if "natural" in references else (
                " ('natural' is known once the data is built, or with domains[].tokens)"
            )  # fmt: skip
            raise UserError(f"{unknown_name('mixture', name, (*references, *files))}{missing}")
        return MixtureFile.load(self.layout.mixture(name), self.domains).mixture

    def built(self) -> DataManifest:
        """The data, of the domains that the study names; for what is measured already.

        Raises:
            UserError: the data is not built, or of other domains.
        """
        if self.manifest is None:
            raise UserError(
                f"{self.layout.root}: the data is not built; run "
                f"`regmix data build {self.layout.root}` first"
            )
        self.manifest.check_domains(self.config, self.layout)
        return self.manifest

    def as_configured(self) -> DataManifest:
        """The data, built with the settings that the study has now; for what is to be trained.

        Raises:
            UserError: the data is not built, or not with the present settings.
        """
        manifest = self.built()
        manifest.check_settings(self.config, self.layout)
        return manifest
