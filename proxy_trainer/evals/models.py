"""Models of one shape that are asked together, in whichever way a task needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.environment import choose_device
from proxy_trainer.evals.bpb import Measured
from proxy_trainer.evals.choice import ArrayReader, DecoderReader, Reader
from proxy_trainer.evals.whole import WholeModel
from proxy_trainer.models.array import ModelArray
from proxy_trainer.models.folder import Weights
from proxy_trainer.sharded.model import without_weights
from proxy_trainer.starts import whole
from regmix.errors import UserError
from regmix.files import read_json
from regmix.sizes import ModelShape


@dataclass(frozen=True)
class Models:
    """One model, or the members of an array."""

    measured: Measured
    """Finds the nats of whole windows."""
    reader: Reader
    """Finds those of what may follow a prompt."""
    tokenizer: Tokenizer
    context: int
    """Positions."""
    opening: int
    """The token that opens a document: it is given, and never scored."""

    @property
    def members(self) -> int:
        """Models."""
        return self.measured.members

    @classmethod
    def of_array(cls, array: ModelArray, tokenizer: Tokenizer, opening: int) -> Models:
        """The members of an array."""
        return cls(array, ArrayReader(array), tokenizer, array.shape.context, opening)


def load(found: Sequence[Weights], tokenizer: Tokenizer) -> Models:
    """Models from their folders, on this process's device: several native ones, or one of any kind.

    Raises:
        UserError: tensors are not those of a config, or the tokenizer has more words than the
            embedding rows.
    """
    first = found[0]
    words = tokenizers.vocab_size(tokenizer)
    if words > first.vocab_size:
        raise UserError(
            f"{first.folder}: its embedding has {first.vocab_size:,} rows, its tokenizer "
            f"{words:,} tokens"
        )
    opening = _opening(first.folder, tokenizer)
    if isinstance(first.shape, ModelShape):
        return Models.of_array(_array(found), tokenizer, opening)
    one = WholeModel(first)
    reader = DecoderReader(one.decoder)
    return Models(one, reader, tokenizer, first.shape.context, opening)


def _array(found: Sequence[Weights]) -> ModelArray:
    shape, vocab_size = found[0].shape, found[0].vocab_size
    assert isinstance(shape, ModelShape)
    array = ModelArray(shape, vocab_size, len(found))
    own = without_weights(shape, vocab_size).named_parameters()
    sizes = {name: tuple(p.shape) for name, p in own}
    for member, weights in enumerate(found):
        weights.check(shape, sizes)
        array.load_member(member, whole(weights))
    return array.to(choose_device())


def _opening(folder: Path, tokenizer: Tokenizer) -> int:
    """The token that its config says texts begin with; else the one that ends documents."""
    config = read_json(folder / "config.json")
    for key in ("bos_token_id", "eos_token_id"):
        token = config.get(key)
        if isinstance(token, int) and not isinstance(token, bool):
            return token
    return tokenizers.end_of_document(tokenizer, folder / "tokenizer.json")
