"""The domains of the demo's corpus, in the order in which they keep a shared text."""

from __future__ import annotations

from proxy_trainer.corpus import code, docs, exercises, facts, mathematics
from proxy_trainer.corpus.base import DomainRecipe

RECIPES: tuple[DomainRecipe, ...] = (
    code.RECIPE,
    docs.RECIPE,
    mathematics.RECIPE,
    facts.RECIPE,
    exercises.RECIPE,
)
