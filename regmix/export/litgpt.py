"""litgpt: a data module over ``CombinedStreamingDataset``.

Source: litgpt 0.5.13, ``litgpt/data/tinyllama.py`` (how a data module mixes two sources), and
litdata 0.2.76, ``litdata/streaming/combined.py``: the next item comes from dataset i with
``weights[i]``, and items are blocks of one length: shares of tokens. There is no key for it in
litgpt's YAML; ``--data`` takes the class by its import path. ``litgpt/pretrain.py`` sets up both
dataloaders and averages the losses of the second one's batches, so there must be some.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from regmix.export import base, text_files
from regmix.export.base import Parts, Read, Request, Unit, Written
from regmix.export.python_file import python_text, read_python

_CODE = '''\
from dataclasses import dataclass, field

from litdata.streaming import (
    CombinedStreamingDataset,
    StreamingDataLoader,
    StreamingDataset,
    TokensLoader,
)
from litgpt.data import DataModule
# ---


@dataclass
class Mixture(DataModule):
    """Blocks of the folders that litdata's `optimize` wrote, in the shares above."""

    seed: int = {seed}
    num_workers: int = 8
    batch_size: int = field(init=False, repr=False, default=1)
    seq_length: int = field(init=False, repr=False, default=2048)

    def __post_init__(self):
        super().__init__()

    def connect(self, tokenizer=None, batch_size=1, max_seq_length=2048, **kwargs):
        self.batch_size = batch_size
        self.seq_length = max_seq_length + 1  # the next token of the last position too

    def dataset(self, key, **options):
        entries = [entry for entry in MIXTURE if entry[key] is not None]
        parts = [
            StreamingDataset(
                input_dir=entry[key],
                item_loader=TokensLoader(block_size=self.seq_length),
                shuffle=True,
                **options,
            )
            for entry in entries
        ]
        return CombinedStreamingDataset(
            datasets=parts,
            seed=self.seed,
            weights=[entry["weight"] for entry in entries],
            iterate_over_all=False,
        )

    def loader(self, dataset, drop_last):
        return StreamingDataLoader(
            dataset,
            batch_size=self.batch_size,
            pin_memory=True,
            num_workers=self.num_workers,
            drop_last=drop_last,
        )

    def train_dataloader(self):
        return self.loader(self.dataset("path", drop_last=True), drop_last=True)

    def val_dataloader(self):
        return self.loader({held_out}, drop_last=False)
'''

_FOLDER = "a StreamingDataset is one folder"


class LitGPT:
    """A module with the class ``Mixture``."""

    name: ClassVar[str] = "litgpt"
    title: ClassVar[str] = "litgpt data module (Python)"
    unit: ClassVar[Unit] = Unit.TOKENS
    reads: ClassVar[Read] = "own"
    capped: ClassVar[bool] = False
    staged: ClassVar[bool] = False

    def write(self, request: Request) -> Written:
        """Folders and weights, and the class that mixes them."""
        domains = [
            {
                "name": name,
                "weight": weight,
                "path": text_files.single(request, name, _FOLDER),
                "valid": _held_out(request, name),
            }
            for name, weight in base.one_stage(request).weights.items()
        ]
        without = [str(entry["name"]) for entry in domains if entry["valid"] is None]
        held_out = 'self.dataset("valid")'
        notes: tuple[str, ...] = ()
        if len(without) == len(domains):
            held_out = 'self.dataset("path")'
            notes = (
                "no held-out folders, so validation is on eval.max_iters batches of the training "
                "data: give 'valid' in the mapping file (--paths) for a loss on unseen text",
            )
        elif without:
            notes = (f"not validated on, as they have no held-out folder: {', '.join(without)}",)
        code = _CODE.replace("{seed}", str(request.seed)).replace("{held_out}", held_out)
        return Written(python_text(request, domains, code, notes), notes=notes)

    def read(self, text: str, where: Path) -> Parts:
        """Weights by name."""
        return read_python(text, where)


def _held_out(request: Request, name: str) -> str | None:
    if not request.places[name].valid:
        return None
    return text_files.single(request, name, _FOLDER, valid=True)
