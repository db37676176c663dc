"""torchtitan: the released interleaver, and the composable mix that is to follow it.

Sources: torchtitan 0.3.0, ``torchtitan/hf_datasets/text_datasets.py`` and ``interleaved.py``: every
source is packed to rows of one length before ``InterleavedDataset`` draws among them, so weights
are shares of tokens; names are looked up in ``DATASETS``, in lower case. The development version
(commit 5b1a6e40), ``torchtitan/components/data/dataset.py``: ``DatasetMixConfig`` over datasets
that are packed after it draws documents: shares of documents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from regmix.errors import UserError
from regmix.export import base, text_files
from regmix.export.base import Parts, Read, Request, Unit, Written
from regmix.export.python_file import python_text, read_python

_INTERLEAVED = """\
import glob
from functools import partial

from datasets import load_dataset
from torchtitan.hf_datasets import DatasetConfig
from torchtitan.hf_datasets.text_datasets import (
    DATASETS,
    HFDataSource,
    InterleavedHuggingFaceTextDataLoader,
)
# ---


def _load(path, builder, paths, options):
    # datasets takes every name for a pattern; URLs may be some.
    files = [name if "://" in name else glob.escape(name) for name in paths]
    return load_dataset(builder, data_files=files, split="train", **options)


def _text(sample, field):
    return sample[field]


for entry in MIXTURE:
    DATASETS[entry["name"].lower()] = DatasetConfig(
        path=entry["name"],
        loader=partial(
            _load, builder=entry["builder"], paths=entry["paths"], options=entry["options"]
        ),
        sample_processor=partial(_text, field=entry["text_field"]),
    )

dataloader = InterleavedHuggingFaceTextDataLoader.Config(
    sources=[
        HFDataSource(dataset=entry["name"], weight=entry["weight"], infinite=True)
        for entry in MIXTURE
    ],
    seed={seed},
)
"""

_MIX = """\
import glob
from functools import partial

from torchtitan.components.data import (
    ConcatThenSplitPackingConfig,
    DatasetMixConfig,
    IndexedJsonlSource,
    SingleDatasetConfig,
    WeightedDataset,
)
from torchtitan.hf_datasets.text_datasets import TextProcessor
# ---


def _text(sample, field):
    return sample[field]


def _is_sample(sample):
    return sample is not None


def _documents(entry):
    return SingleDatasetConfig(
        source=IndexedJsonlSource.Config(patterns=tuple(map(glob.escape, entry["paths"]))),
        processor=TextProcessor.Config(text_fn=partial(_text, field=entry["text_field"])),
        post_filters=(_is_sample,),
    )


dataset = ConcatThenSplitPackingConfig(
    dataset=DatasetMixConfig(
        datasets=tuple(
            WeightedDataset(dataset=_documents(entry), weight=entry["weight"])
            for entry in MIXTURE
        ),
    ),
)
"""


class _Torchtitan:
    """What both have in common."""

    reads: ClassVar[Read] = "text"
    capped: ClassVar[bool] = False
    staged: ClassVar[bool] = False

    def read(self, text: str, where: Path) -> Parts:
        """Weights by name."""
        return read_python(text, where)


class Interleaved(_Torchtitan):
    """A ``dataloader`` for a configuration of torchtitan 0.3."""

    name: ClassVar[str] = "torchtitan"
    title: ClassVar[str] = "torchtitan 0.3 interleaved sources (Python)"
    unit: ClassVar[Unit] = Unit.TOKENS

    def write(self, request: Request) -> Written:
        """Datasets under the domains' names, and the sources with their weights."""
        domains = _domains(request)
        seen: dict[str, str] = {}
        for entry in domains:
            other = seen.setdefault(entry["name"].lower(), entry["name"])
            if other != entry["name"]:
                raise UserError(
                    f"domains '{other}' and '{entry['name']}' are one name to torchtitan, which "
                    "looks datasets up in lower case; rename one"
                )
        for entry in domains:
            entry.update(text_files.loading(request, entry["name"]))
        code = _INTERLEAVED.replace("{seed}", str(request.seed))
        return Written(python_text(request, domains, code))


class DocumentMix(_Torchtitan):
    """A ``dataset`` for the development version's loader: documents are mixed, then packed."""

    name: ClassVar[str] = "torchtitan-mix"
    title: ClassVar[str] = "torchtitan DatasetMixConfig before packing (Python)"
    unit: ClassVar[Unit] = Unit.DOCUMENTS

    def write(self, request: Request) -> Written:
        """Datasets of JSON Lines and their weights."""
        domains = _domains(request)
        for entry in domains:
            for path in entry["paths"]:
                if "://" in path or not path.endswith(".jsonl"):
                    raise UserError(
                        f"domain '{entry['name']}': '{path}' is not a .jsonl file, which is what "
                        "IndexedJsonlSource reads; give such files in the mapping file (--paths)"
                    )
        return Written(python_text(request, domains, _MIX))


def _domains(request: Request) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "weight": weight,
            "paths": list(request.places[name].paths),
            "text_field": request.places[name].text_field,
        }
        for name, weight in base.one_stage(request).weights.items()
    ]
