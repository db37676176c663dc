"""A finished model, of any shape, as what can be measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

import torch
from torch import Tensor

from proxy_trainer.models.decoder import Decoder
from proxy_trainer.models.folder import Weights
from proxy_trainer.sharded.model import without_weights
from regmix.families import Shape


class WholeModel:
    """One model in this process's memory; :class:`proxy_trainer.evals.bpb.Measured`."""

    members = 1

    def __init__(self, weights: Weights) -> None:
        """Read a folder's weights.

        Raises:
            UserError: the tensors are not those of its config.
        """
        self._model = without_weights(weights.shape, weights.vocab_size)
        own = self._model.named_parameters()
        weights.check(weights.shape, {name: tuple(p.shape) for name, p in own})
        self._fill(weights)

    @classmethod
    def of(cls, shape: Shape, vocab_size: int, table: Mapping[str, Tensor]) -> Self:
        """A model of tensors that are there, by the names of its parameters."""
        found = cls.__new__(cls)
        found._model = without_weights(shape, vocab_size)
        found._fill(table.items())
        return found

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

    @torch.no_grad()
    def nats(self, ids_BT: Tensor, keep_BT: Tensor, target_N: Tensor) -> Tensor:
        """Total nats of every window's targets, ``(1, B)``."""
        return self._model.nats(ids_BT, keep_BT, target_N)[None]
