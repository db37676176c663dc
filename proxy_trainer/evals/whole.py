"""A finished model, of any shape, as what can be measured."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from proxy_trainer.environment import choose_device
from proxy_trainer.models.decoder import Decoder
from proxy_trainer.models.folder import Weights
from proxy_trainer.models.verify import free_memory
from proxy_trainer.sharded.model import without_weights
from regmix.errors import RegmixError

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
        for unit in self._model.units:
            self._model.fill_(unit, None)
        self._model.complete_()
        own = dict(self._model.named_parameters())
        weights.check(weights.shape, {name: tuple(p.shape) for name, p in own.items()})
        with torch.no_grad():
            for name, tensor in weights:
                own[name].copy_(tensor)
        if half_precision:
            for parameter in self._model.parameters():  # as they are gathered, block by block
                parameter.data = parameter.data.bfloat16()
        self._model.half_precision = half_precision
        self.device = choose_device()
        if needed > free_on(self.device):
            self.device = torch.device("cpu")
        self._model.to(self.device)

    @property
    def decoder(self) -> Decoder:
        """Its modules."""
        return self._model

    @torch.no_grad()
    def nats(self, ids_BT: Tensor, keep_BT: Tensor, target_N: Tensor) -> Tensor:
        """Total nats of every window's targets, ``(1, B)``."""
        on = [tensor.to(self.device) for tensor in (ids_BT, keep_BT, target_N)]
        return self._model.nats(*on)[None]


def needed_for(weights: Weights) -> int:
    """Bytes of memory in which a model can be measured: its weights and what it computes."""
    return int(_BYTES * sum(math.prod(size) for size in weights.sizes.values()))


def free_on(device: torch.device) -> int:
    """Bytes that are free on a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
