"""TRL: ``datasets`` with fractions.

Source: trl 1.16.0, ``trl/scripts/utils.py``: ``DatasetConfig`` goes to ``load_dataset``;
``get_dataset`` keeps the first ``round(fraction · N)`` rows of each, N the largest total for which
no dataset is repeated. Rows are documents: shares of documents. ``trl/trainer/sft_config.py``:
``dataset_text_field``, by default ``text``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from regmix.errors import UserError
from regmix.export import base, text_files
from regmix.export.base import Part, Parts, Read, Request, Unit, Written


class Trl:
    """``DatasetMixtureConfig`` of a script's YAML."""

    name: ClassVar[str] = "trl"
    title: ClassVar[str] = "TRL datasets with fraction (YAML)"
    unit: ClassVar[Unit] = Unit.DOCUMENTS
    reads: ClassVar[Read] = "text"
    capped: ClassVar[bool] = False
    staged: ClassVar[bool] = False

    def write(self, request: Request) -> Written:
        """One dataset a domain."""
        fields = sorted({place.text_field for place in request.places.values()})
        if len(fields) > 1:
            raise UserError(
                f"text_field is {' and '.join(map(repr, fields))}, and TRL concatenates columns of "
                "one name; give files with one field in the mapping file (--paths)"
            )
        datasets = [
            {
                "path": text_files.builder(request, name),
                "data_files": [text_files.literal(p) for p in request.places[name].paths],
                "split": "train",
                "columns": [request.places[name].text_field],
                "fraction": weight,
            }
            for name, weight in base.one_stage(request).weights.items()
        ]
        note = "TRL takes the first rows of each dataset and repeats none: shuffle the files"
        value: dict[str, Any] = {"datasets": datasets, "streaming": False}
        if fields != ["text"]:
            value["dataset_text_field"] = fields[0]
        return Written(base.yaml_text(request, value, (note,)), notes=(note,))

    def read(self, text: str, where: Path) -> Parts:
        """Fractions by their files, or by the dataset's path where no files are named."""
        raw = base.required(base.parse_yaml(text, where), "datasets", str(where))
        found = []
        for i, entry in enumerate(base.entries(raw, f"{where}: datasets")):
            at = f"{where}: datasets[{i}]"
            key = "data_files" if "data_files" in entry else "path"
            paths = base.texts(base.required(entry, key, at), f"{at}.{key}")
            if key == "data_files":
                paths = tuple(map(text_files.meant, paths))
            weight = base.number(base.required(entry, "fraction", at), f"{at}.fraction")
            found.append(Part(weight, paths=paths))
        return {0: tuple(found)}
