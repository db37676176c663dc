"""A finished model, of any shape, as what can be measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Self

import torch
from torch import Tensor

from proxy_trainer import device_memory
from proxy_trainer.environment import choose_device
from proxy_trainer.models.decoder import Decoder
from proxy_trainer.models.folder import Weights
from proxy_trainer.models.losses import without_weights
from proxy_trainer.models.reading import tokens_at_once
from proxy_trainer.models.verify import free_memory
from regmix.errors import RegmixError
from regmix.families import Shape

_BYTES = 5
"""A parameter: in single precision, and a quarter of that for what is computed beside them."""


class WholeModel:
    """One model in the memory of one device; :class:`proxy_trainer.evals.bpb.Measured`."""

    members = 1

    def __init__(self, weights: Weights, *, half_precision: bool = False) -> None:
        """Read a folder's weights; to the accelerator where they fit there, else the CPU.

        Args:
            half_precision: compute in bfloat16, as the processes of a gang do on GPUs.

        Raises:
            UserError: the tensors are not those of its config.
            RegmixError: they do not fit into this machine's memory.
        """
        needed = needed_for(weights)
        if needed > free_memory():
            raise RegmixError(
                f"{weights.folder}: {needed / 1e9:,.1f} GB of memory are needed to measure it, "
                f"{free_memory() / 1e9:,.1f} GB are free; the same command goes on elsewhere"
            )
        self._model = without_weights(weights.shape, weights.vocab_size)
        own = self._model.named_parameters()
        weights.check(weights.shape, {name: tuple(p.shape) for name, p in own})
        self._fill(weights)
        if half_precision:
            for parameter in self._model.parameters():  # as they are gathered, block by block
                parameter.data = parameter.data.bfloat16()
        self._model.half_precision = half_precision
        self._place(needed)

    @classmethod
    def of(cls, shape: Shape, vocab_size: int, table: Mapping[str, Tensor]) -> Self:
        """A model of tensors that are there, by the names of its parameters."""
        found = cls.__new__(cls)
        found._model = without_weights(shape, vocab_size)
        found._fill(table.items())
        found._place(_BYTES * sum(p.numel() for p in found._model.parameters()))
        return found

    def _place(self, needed: int) -> None:
        """Move it to the accelerator, if that has so many bytes to spare."""
        self.device = choose_device()
        if needed > free_on(self.device):
            self.device = torch.device("cpu")
        self._model.to(self.device)

    @torch.no_grad()
    def _fill(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        for unit in self._model.units:
            self._model.fill_(unit, None)
        self._model.complete_()
        own = dict(self._model.named_parameters())
        for name, tensor in tensors:
            own[name].copy_(tensor)

    @property
    def decoder(self) -> Decoder:
        """Its modules."""
        return self._model

    def member(self, member: int) -> dict[str, Tensor]:
        """Its weights as a state dict in transformers' names."""
        return self._model.state_dict()

    @property
    def tokens_at_once(self) -> int:
        """Of its device."""
        return tokens_at_once(self.device)

    @torch.no_grad()
    def nats(self, ids_BT: Tensor, keep_BT: Tensor, target_N: Tensor) -> Tensor:
        """Total nats of every window's targets, ``(1, B)``."""
        on = [tensor.to(self.device) for tensor in (ids_BT, keep_BT, target_N)]
        return self._model.nats(*on)[None]


def needed_for(weights: Weights) -> int:
    """Bytes of memory in which a model can be measured: its weights and what it computes."""
    return int(_BYTES * sum(math.prod(size) for size in weights.sizes.values()))


def needed_by(shape: Shape, vocab_size: int) -> int:
    """The same of a model that is not read yet."""
    embeddings = vocab_size * shape.d_model * (1 if shape.tied_embeddings else 2)
    return int(_BYTES * (shape.parameters + embeddings))


def free_on(device: torch.device) -> int:
    """Bytes that are free on a device."""
    return device_memory.free_on(device) if device.type == "cuda" else free_memory()
