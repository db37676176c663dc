"""Mixtures in the formats of other trainers, and back: one file each, one list of names."""

from regmix.export.base import Exporter, Part, Parts, Read, Request, Stage, Unit, Written
from regmix.export.command import Asked, Exported, export, import_mixture, needs_paths
from regmix.export.locate import Located, locate, settled, stages, study_of
from regmix.export.registry import exporter, names

__all__ = [
    "Asked",
    "Exported",
    "Exporter",
    "Located",
    "Part",
    "Parts",
    "Read",
    "Request",
    "Stage",
    "Unit",
    "Written",
    "export",
    "exporter",
    "import_mixture",
    "locate",
    "names",
    "needs_paths",
    "settled",
    "stages",
    "study_of",
]
