"""Models of one shape that are asked together, in whichever way a task needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.environment import choose_device
from proxy_trainer.evals import vllm_writer
from proxy_trainer.evals.bpb import Measured
from proxy_trainer.evals.chat_prompt import ChatPrompt, of_conversations, turn_ends
from proxy_trainer.evals.choice import ArrayReader, DecoderReader, Reader
from proxy_trainer.evals.generate import TransformersWriter, Writer
from proxy_trainer.evals.whole import WholeModel
from proxy_trainer.models import hf
from proxy_trainer.models.array import ModelArray
from proxy_trainer.models.folder import Weights
from proxy_trainer.models.losses import without_weights
from proxy_trainer.starts import whole
from regmix.errors import UserError
from regmix.families import Shape
from regmix.files import read_json
from regmix.sizes import ModelShape


class WriteNothingError(UserError):
    """A task asks for text, and the models as they are here cannot write any."""


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
    chat: ChatPrompt | None = None
    """How conversations are written, where the models know them."""
    ends: frozenset[int] = frozenset()
    """Tokens that end what models write; the opening one if there are none."""
    folders: tuple[Path, ...] = ()
    """Where each model lies, if they are files."""

    @property
    def members(self) -> int:
        """Models."""
        return self.measured.members

    @classmethod
    def of_array(cls, array: ModelArray, tokenizer: Tokenizer, opening: int) -> Models:
        """The members of an array."""
        return cls(array, ArrayReader(array), tokenizer, array.shape.context, opening)

    def of_conversations(self, folder: Path) -> Models:
        """The same, as what is trained on some conversations.

        Args:
            folder: of these, as they were tokenised.
        """
        chat, ends = of_conversations(folder)
        return replace(self, chat=chat, ends=ends)

    def writer(self, member: int) -> Writer:
        """One of them as what writes text: with vLLM where it is installed and the model a file.

        Raises:
            WriteNothingError: several processes hold the models together.
        """
        ends = self.ends or frozenset([self.opening])
        if self.folders and vllm_writer.available():
            return vllm_writer.VllmWriter(self.folders[member], self.context, ends)
        shape: Shape
        if isinstance(self.measured, ModelArray):
            shape, device = self.measured.shape, self.measured.embed.device
        elif isinstance(self.measured, WholeModel):
            shape, device = self.measured.decoder.shape, self.measured.decoder.head_VD.device
        else:
            raise WriteNothingError(
                "models that several processes hold together write no text: they are asked "
                "afterwards, with `regmix eval`"
            )
        made = hf.model(self.measured.member(member), shape).to(device)
        return TransformersWriter(made, self.tokenizer, self.context, ends)


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
        made = Models.of_array(_array(found), tokenizer, opening)
    else:
        one = WholeModel(first)
        reader = DecoderReader(one.decoder)
        made = Models(one, reader, tokenizer, first.shape.context, opening)
    return replace(
        made,
        chat=ChatPrompt.beside(first.folder),
        ends=turn_ends(first.folder),
        folders=tuple(weights.folder for weights in found),
    )


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
