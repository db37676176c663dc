"""A recipe as it is written, and the study that it is about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from regmix import strict
from regmix.errors import UserError
from regmix.files import expanded
from regmix.manifest import DataManifest
from regmix.recipe import RecipeConfig
from regmix.study import Study


@dataclass(frozen=True)
class Written:
    """What is known before anything that the stages name is looked at."""

    path: Path
    config: RecipeConfig
    folder: Path
    """Of the recipe: the paths that it names are seen from here."""
    study: Study
    manifest: DataManifest
    """Of the study's data."""

    @classmethod
    def load(cls, path: Path) -> Written:
        """Read a recipe and the study that it names.

        Raises:
            UserError: the recipe is malformed, or the study is not there or its data not built.
        """
        config = strict.load(path, RecipeConfig)
        folder = expanded(path).resolve().parent
        study = Study.open(folder / expanded(config.study))
        return cls(path, config, folder, study, study.as_configured())

    def place(self, index: int, key: str) -> str:
        """File, line and key of a stage's setting, for messages."""
        return strict.place(self.path, ("stages", index, *key.split(".")))

    def wrong(self, index: int, key: str, what: str) -> UserError:
        """An error about a stage's setting."""
        return UserError(f"{self.place(index, key)}: {what}")
