"""What a run starts from, other than its seed: another run's model, or one from elsewhere."""

from __future__ import annotations

import errno
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from proxy_trainer import checkpoint
from proxy_trainer.checkpoint import Checkpoint
from proxy_trainer.data.chat import template
from proxy_trainer.kept import Part
from proxy_trainer.models.folder import Weights, load_folder
from proxy_trainer.models.losses import without_weights
from proxy_trainer.moments import Moments
from regmix.errors import UserError
from regmix.families import Shape
from regmix.files import disk_errors
from regmix.hashing import fingerprint
from regmix.layout import StudyLayout
from regmix.runs import RunSpec, Start

_TAKEN = (
    "config.json", "generation_config.json", "tokenizer.json", *template.FILES, "*.safetensors",
    "*.safetensors.index.json",
)  # fmt: skip
"""Files of a model that are taken into a study."""
_CHUNK = 2**24


def model_folder(study: StudyLayout, start: Start) -> Path:
    """The Hugging Face folder of the model."""
    return study.run(start.run).model if start.run else study.starts / start.folder


def weights(study: StudyLayout, start: Start, context: int) -> Weights:
    """The model's tensors, to be read one by one.

    Raises:
        UserError: they are not there, or cannot be read.
    """
    if start.step:
        return _of_checkpoint(study, start)
    return load_folder(model_folder(study, start), context)[1]


def moments(study: StudyLayout, start: Start) -> Moments | None:
    """The optimiser's moments, if they are to go on.

    Raises:
        UserError: they are not there, or cannot be read.
    """
    if not start.optimiser:
        return None
    if start.step:
        return Moments.of(_checkpoint(study, start).tensors)
    return Moments.load(study.run(start.run).state)


def _checkpoint(study: StudyLayout, start: Start) -> Checkpoint:
    folder = study.run(start.run).checkpoints
    path = checkpoint.at(folder, start.step)
    if path is None:
        raise UserError(f"{folder}: the checkpoint of step {start.step} is not there any more")
    return checkpoint.read(path)


def _of_checkpoint(study: StudyLayout, start: Start) -> Weights:
    spec, found = RunSpec.load(study.run(start.run).spec), _checkpoint(study, start)
    assert found.path is not None
    table = Part(found.tensors, "model.")
    sizes = {name: tuple(tensor.shape) for name, tensor in table.items()}
    return _Checkpointed(found.path, spec.model, spec.vocab_size, {}, sizes, table)


@dataclass(frozen=True)
class _Checkpointed(Weights):
    """The weights in a checkpoint."""

    tensors: Mapping[str, Tensor]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.tensors.items())

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name]


def whole(found: Weights) -> dict[str, Tensor]:
    """All tensors of a model at once; a tied head is that of the embeddings."""
    table = dict(found)
    table.setdefault("lm_head.weight", table["model.embed_tokens.weight"])
    return table


def take_in(study: StudyLayout, folder: Path, context: int | None) -> tuple[str, Weights]:
    """Copy a model from elsewhere into the study, once; its fingerprint, and its tensors.

    Args:
        context: tokens a training sequence; as many as its config has positions if not given.

    Raises:
        UserError: not a model folder that can be started from, not the tensors of its own config,
            or another tokenizer than the study's.
    """
    found = load_folder(folder, context)[1]
    found.check_tokenizer(study.tokenizer)
    check(found, found.shape, found.vocab_size)
    files = sorted({path for pattern in _TAKEN for path in folder.glob(pattern)})
    identity = fingerprint([[path.name, _digest(path)] for path in files])
    if not (study.starts / identity).exists():
        _copy(files, study.starts / identity)
    return identity, found


def _copy(files: list[Path], target: Path) -> None:
    """Put files into a folder that is there whole, or not at all; whoever is first makes it."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.tmp-"))
        try:
            for path in files:
                shutil.copyfile(path, made / path.name)
            made.chmod(0o755)
            try:
                made.rename(target)
            except OSError as exc:
                if exc.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise  # otherwise another command took the same model in
        finally:
            shutil.rmtree(made, ignore_errors=True)


def check(found: Weights, shape: Shape, vocab_size: int) -> None:
    """Refuse weights that are not those of a model.

    Raises:
        UserError: what differs: keys of the config, the vocabulary, or tensors.
    """
    model = without_weights(shape, vocab_size)
    found.check(shape, {name: tuple(p.shape) for name, p in model.named_parameters()})


def _digest(path: Path) -> str:
    content = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            content.update(chunk)
    return content.hexdigest()
