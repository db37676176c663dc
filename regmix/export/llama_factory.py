"""LLaMA-Factory: ``interleave_probs``, and the ``dataset_info.json`` that names the files.

Source: llamafactory 0.9.5, ``hparams/data_args.py`` (names and probabilities are split at commas),
``data/parser.py`` (``dataset_info.json`` in ``dataset_dir``), ``data/loader.py`` (the last end of
``file_name`` alone says how it is read; it is a file here, and then a pattern for ``datasets``; a
stream of it has as many shards as ``dataloader_num_workers``, by default 0, and then no rows) and
``data/data_utils.py`` (``interleave_datasets`` over rows: shares of documents).
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from regmix.errors import UserError
from regmix.export import base, text_files
from regmix.export.base import Part, Parts, Read, Request, Unit, Written
from regmix.files import to_json

INFO = "dataset_info.json"
_ENDS = (".jsonl", ".json", ".parquet")
"""What its loader reads with a document a row; of packed files it sees the last end alone."""


class LlamaFactory:
    """The data arguments of ``stage: pt``."""

    name: ClassVar[str] = "llama-factory"
    title: ClassVar[str] = "LLaMA-Factory interleave_probs (YAML)"
    unit: ClassVar[Unit] = Unit.DOCUMENTS
    reads: ClassVar[Read] = "text"
    capped: ClassVar[bool] = False
    staged: ClassVar[bool] = False

    def write(self, request: Request) -> Written:
        """Arguments, and beside them the file that they look names up in."""
        weights = base.one_stage(request).weights
        info = {}
        for name in weights:
            if "," in name or name != name.strip():
                raise UserError(
                    f"domain '{name}': LLaMA-Factory splits names at commas; rename the domain"
                )
            place = request.places[name]
            path = text_files.single(request, name, "LLaMA-Factory takes one file")
            text_files.check_ends(name, (path,), _ENDS)
            _check_local(name, path)
            info[name] = {"file_name": path, "columns": {"prompt": place.text_field}}
        value = {
            "stage": "pt",
            "dataset": ",".join(weights),
            "dataset_dir": ".",
            "streaming": False,
            "mix_strategy": "interleave_over",
            "interleave_probs": ",".join(map(repr, weights.values())),
        }
        note = f"dataset_dir: the folder of {INFO}, written beside this file"
        return Written(base.yaml_text(request, value, (note,)), {INFO: to_json(info)}, (note,))

    def read(self, text: str, where: Path) -> Parts:
        """Names and probabilities, in turns by their order."""
        raw = base.parse_yaml(text, where)
        names = _split(base.required(raw, "dataset", str(where)), f"{where}: dataset")
        given = base.required(raw, "interleave_probs", str(where))
        at = f"{where}: interleave_probs"
        weights = [given] if isinstance(given, (int, float)) else _split(given, at)
        if len(weights) != len(names):
            raise UserError(f"{at}: {len(weights)} for {len(names)} datasets")
        return {
            0: tuple(Part(base.number(w, at), name=n) for n, w in zip(names, weights, strict=True))
        }


def _check_local(name: str, path: str) -> None:
    """The trainer looks for a file of that name, then gives the name to ``datasets``.

    Raises:
        UserError: it is a URL, or ``datasets`` would take it for a pattern.
    """
    if "://" in path:
        raise UserError(
            f"domain '{name}': '{path}' is a URL, and LLaMA-Factory reads local files: copy it, "
            "and name the copy in the mapping file (--paths)"
        )
    if text_files.literal(path) != path:
        raise UserError(
            f"domain '{name}': '{path}' has one of * ? [, which LLaMA-Factory takes for a pattern; "
            "rename the file or its folder"
        )


def _split(value: object, at: str) -> list[str]:
    return [part.strip() for part in base.text(value, at).split(",")]
