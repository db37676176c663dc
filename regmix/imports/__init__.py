"""Runs measured elsewhere: read from the formats they come in, joined by run id, kept in the study.

One module a format (`tables`: CSV and parquet, wide and long; `wandb`; `lm_eval`); `base` has what
they come to, `read` puts the sides together, `kept` is what a study holds. What is read, and how,
is in docs/IMPORTS.md.
"""

from regmix.imports.base import ImportedRuns
from regmix.imports.kept import check_new, read_imports, save
from regmix.imports.read import Choice, read, read_csvs, read_lm_eval, read_runs
from regmix.imports.tables import MixtureTable, read_mixtures

__all__ = [
    "Choice", "ImportedRuns", "MixtureTable", "check_new", "read", "read_csvs", "read_imports",
    "read_lm_eval", "read_mixtures", "read_runs", "save",
]  # fmt: skip
