"""A model to start from: a Hugging Face folder with ``config.json`` and safetensors. No pickle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.models import hf
from regmix.errors import UserError
from regmix.families import Shape, TransformersShape
from regmix.files import read_json

WEIGHTS, INDEX = hf.WEIGHTS, hf.INDEX
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_FLOATS = {"F32", "F16", "BF16"}
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_GIVEN = ("initializer_range",)
"""Keys of a config that say nothing about weights that are there."""
_TOLD = 10
"""Tensors or keys that a message names."""

Sizes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Weights:
    """A folder's tensors, read one by one; iterating gives names and single-precision tensors."""

    folder: Path
    shape: Shape
    vocab_size: int
    """Rows of the embedding."""
    files: Mapping[str, Path]
    """Where each tensor is."""
    sizes: Sizes

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """File by file, so that each is opened once; a head that is tied is left out."""
        by_file: dict[Path, list[str]] = {}
        for name, path in self.files.items():
            by_file.setdefault(path, []).append(name)
        for path, names in by_file.items():
            with safe_open(path, framework="pt") as file:
                for name in names:
                    yield name, file.get_tensor(name).to(torch.float32)

    def tensor(self, name: str) -> Tensor:
        """One tensor, in single precision."""
        with safe_open(self.files[name], framework="pt") as file:
            found: Tensor = file.get_tensor(name).to(torch.float32)
        return found

    def check(self, wanted: Shape, sizes: Sizes) -> None:
        """Refuse a folder that is not of the model that a run wants.

        Args:
            sizes: of the model's parameters, by name.

        Raises:
            UserError: what differs: keys of the config, or tensors.
        """
        found, asked = (_comparable(shape) for shape in (self.shape, wanted))
        # A shorter context than the folder's is the run's to choose; a longer one is not.
        if wanted.context <= asked["max_position_embeddings"] <= found["max_position_embeddings"]:
            found["max_position_embeddings"] = asked["max_position_embeddings"]
        differing = [
            f"{key} {found.get(key)!r}, the run wants {asked.get(key)!r}"
            for key in found | asked
            if found.get(key) != asked.get(key)
        ]
        if differing:
            raise UserError(f"{self.folder / 'config.json'}: has {_some(differing)}")
        rows = sizes[_EMBEDDING][0]
        if rows != self.vocab_size:
            raise UserError(
                f"{self.folder / 'config.json'}: has vocab_size {self.vocab_size:,}, the run "
                f"wants {rows:,}"
            )
        self._check_tensors(sizes)

    def check_tokenizer(self, ours: Path) -> None:
        """Refuse a folder whose tokenizer is not the study's: its tokens mean something else.

        Raises:
            UserError: the first difference, or that the folder has none.
        """
        theirs = self.folder / "tokenizer.json"
        if not theirs.is_file():
            raise UserError(
                f"{theirs}: no such file, so that nobody can tell whether tokens mean the same; "
                "transformers' AutoTokenizer writes it, with save_pretrained"
            )
        tokenizers.check_same(theirs, ours)

    def _check_tensors(self, sizes: Sizes) -> None:
        wrong = [f"{name} missing" for name in sizes if name not in self.sizes]
        wrong += [f"{name} not known" for name in self.sizes if name not in sizes]
        wrong += [
            f"{name} is {_size(self.sizes[name])}, expected {_size(sizes[name])}"
            for name in sizes
            if name in self.sizes and self.sizes[name] != sizes[name]
        ]
        if wrong:
            raise UserError(f"{self.folder}: not the tensors of its config: {_some(wrong)}")


def load_folder(folder: Path, context: int | None = None) -> tuple[Shape, Weights]:
    """What a Hugging Face folder holds: its shape, and its weights to be read tensor by tensor.

    The shape is a native one where the native decoder computes the same.

    Args:
        context: tokens a training sequence; as many as the config has positions if not given.

    Raises:
        UserError: no folder, a config that is not supported, weights that are pickled, missing,
            cut short or not floating point.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    config = folder / "config.json"
    described = TransformersShape.load(config, context)
    vocab_size = read_json(config).get("vocab_size")
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size < 1:
        raise UserError(
            f"{config}: vocab_size: expected a whole number above 0 (found {vocab_size!r})"
        )
    shape = hf.native(described) or described
    files = _files(folder)
    sizes = {n: s for path in dict.fromkeys(files.values()) for n, s in _sizes(path).items()}
    lost = [name for name in files if name not in sizes]
    if lost:
        raise UserError(f"{folder / INDEX}: names tensors that their files lack: {_some(lost)}")
    beside = [name for name in sizes if name not in files]
    if beside:
        raise UserError(f"{folder / INDEX}: leaves out tensors of its files: {_some(beside)}")
    if shape.tied_embeddings and _HEAD in files:
        _check_tied(folder, files)
        del files[_HEAD], sizes[_HEAD]
    return shape, Weights(folder, shape, vocab_size, files, sizes)


def _files(folder: Path) -> dict[str, Path]:
    """The file of every tensor."""
    whole, index = folder / WEIGHTS, folder / INDEX
    if whole.exists() and index.exists():
        raise UserError(f"{folder}: has both {WEIGHTS} and {INDEX}; remove what is not the model")
    if whole.exists():
        return dict.fromkeys(_sizes(whole), whole)
    if not index.exists():
        raise _nothing(folder)
    placed = read_json(index)
    mapping = placed.get("weight_map") if isinstance(placed, dict) else None
    if not isinstance(mapping, dict):
        raise UserError(f"{index}: weight_map: expected a mapping of tensors to files")
    for name, file in mapping.items():
        # A path could lead anywhere: only files of this folder are read.
        if not isinstance(file, str) or Path(file).name != file:
            raise UserError(f"{index}: weight_map: {name}: expected a file's name (found {file!r})")
        if not (folder / file).is_file():
            raise UserError(f"{index}: weight_map: {name}: no such file {file}")
    return {name: folder / file for name, file in mapping.items()}


def _nothing(folder: Path) -> UserError:
    pickled = sorted(p.name for pattern in _PICKLED for p in folder.glob(pattern))
    if not pickled:
        return UserError(f"{folder}: has neither {WEIGHTS} nor {INDEX}")
    return UserError(
        f"{folder}: {', '.join(pickled[:_TOLD])}: pickled weights are not read, since they can run "
        "code; save them as safetensors, with transformers' save_pretrained, where you trust them"
    )


def _sizes(path: Path) -> dict[str, tuple[int, ...]]:
    """Sizes of a file's tensors; only its header is read.

    Raises:
        UserError: not a safetensors file, or tensors that are not floating point.
    """
    found = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                if part.get_dtype() not in _FLOATS:
                    raise UserError(
                        f"{path}: {name}: values of kind {part.get_dtype()}; expected one of "
                        f"{', '.join(sorted(_FLOATS))}"
                    )
                found[name] = tuple(part.get_shape())
    except (SafetensorError, OSError) as exc:
        raise UserError(f"{path}: not a whole safetensors file ({exc})") from exc
    return found


def _check_tied(folder: Path, files: Mapping[str, Path]) -> None:
    """Refuse a head that is said to be the embedding and is not."""
    pair = []
    for name in (_HEAD, _EMBEDDING):
        if name not in files:
            return  # its absence is told with that of others
        with safe_open(files[name], framework="pt") as file:
            pair.append(file.get_tensor(name))
    if not torch.equal(*pair):
        raise UserError(
            f"{folder}: {_HEAD} differs from {_EMBEDDING}, but config.json has tie_word_embeddings"
        )


def _comparable(shape: Shape) -> dict[str, Any]:
    """A shape's config, with ours and the families' written alike."""
    found = hf.described(shape).to_config()
    return {key: value for key, value in found.items() if key not in _GIVEN}


def _size(size: tuple[int, ...]) -> str:
    return " × ".join(map(str, size)) or "a single value"


def _some(items: list[str]) -> str:
    more = f"; and {len(items) - _TOLD} more" if len(items) > _TOLD else ""
    return "; ".join(items[:_TOLD]) + more
