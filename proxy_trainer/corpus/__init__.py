"""The demo's default corpus: five domains of text from an installed Python distribution.

Nothing is downloaded. `code` is the standard library's source, `docs` the documentation of
installed packages, `math` worked examples and problems, `facts` data tables told in sentences, and
`exercises` word problems with their reasoning. Each domain is a `DomainRecipe` in a file or folder
of its own, and `build_corpus` turns them into compressed JSON lines, split into train and valid by
the hash of each document.
"""

from proxy_trainer.corpus.base import DomainRecipe, Shard, Source, Work
from proxy_trainer.corpus.build import build_corpus
from proxy_trainer.corpus.recipes import RECIPES
from proxy_trainer.corpus.summary import CorpusSummary, DomainSummary, SourceSummary, SplitSummary

__all__ = [
    "RECIPES",
    "CorpusSummary",
    "DomainRecipe",
    "DomainSummary",
    "Shard",
    "Source",
    "SourceSummary",
    "SplitSummary",
    "Work",
    "build_corpus",
]
