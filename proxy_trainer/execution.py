"""How a step is carried out on a device: as it is written, compiled, or as one recorded graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from proxy_trainer.data.batch import Batch
from proxy_trainer.device_memory import free_on
from regmix.families import Shape

Execution = Literal["eager", "compiled", "graph"]


class Stepped(NamedTuple):
    """What a step found, on the device."""

    loss_K: Tensor
    """Mean nats a token that counts, z-loss included."""
    norm_K: Tensor
    """Norm of the gradient before clipping."""
    nats_KB: Tensor
    """Nats of each block's tokens that count."""


Body = Callable[[Batch], Stepped]
BYTES_A_CHANNEL = 60
"""Of activations that a layer keeps for its gradients: about 24 values in half precision (a gated
MLP of 8/3 the width, attention without its weights), the residual stream in single precision."""
BYTES_A_BLOCK_INPUT = 4
"""Of a channel that a layer keeps where its activations are computed again."""
WARM_UP = 3
"""Steps before recording: libraries choose their kernels and allocate in them."""


def default_execution(device: torch.device) -> Execution:
    """A recorded graph of compiled kernels on a GPU; as it is written on a CPU.

    On a CPU a compiler would take longer than a proxy's training, and its figures would depend
    on which one is installed.
    """
    return "graph" if device.type == "cuda" else "eager"


def first_steps(execution: Execution) -> int:
    """Steps until one is like those after it: a graph is recorded once libraries are warm."""
    return WARM_UP + 1 if execution == "graph" else 2


def rows_can_be_fewer(device: torch.device) -> bool:
    """Whether a step may be computed in more parts than one; not on a CPU.

    There figures are kept to the bit, and the parts' gradients add up to the same but for rounding.
    """
    return device.type != "cpu"


def rows_at_once(
    shape: Shape,
    batch: int,
    members: int,
    device: torch.device,
    *,
    owed: int = 0,
    masked: bool = False,
    recompute: bool = False,
) -> int:
    """Sequences a member whose activations fit into half of a GPU's free memory; all on a CPU.

    Args:
        owed: bytes that will be taken besides: what is not allocated yet of gradients and moments.
        masked: attention is kept inside documents.
        recompute: blocks' activations are computed again for the gradients.
    """
    if not rows_can_be_fewer(device):
        return batch
    whole = 1 if recompute else shape.layers
    kept = BYTES_A_BLOCK_INPUT * shape.layers if recompute else 0
    a_row = shape.context * shape.d_model * (BYTES_A_CHANNEL * (whole + 1) + kept)
    if masked:  # a byte each for the mask and for what it is made of; attention's own in halves
        a_row += shape.context**2 * (2 + 2 * whole)
    free = free_on(device) - owed
    return max(1, min(batch, int(0.5 * free / (a_row * members))))


class RecordedStep:
    """A step recorded as one CUDA graph and replayed: the host starts one thing a step, not 500.

    All that changes between steps is in tensors that stay where they are; the batch is copied
    into one of them.
    """

    def __init__(self) -> None:
        self._done = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: Batch | None = None
        self._found: Stepped | None = None

    def __call__(self, body: Body, batch: Batch) -> Stepped:
        """One step; what it returns is overwritten by the next.

        Args:
            body: the same each time. It is not kept: it is a method of who keeps this, and weights
                would outlive their last use until the cycle was found.
        """
        if self._done < WARM_UP:
            self._done += 1
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                found = body(batch)
            torch.cuda.current_stream().wait_stream(side)
            return found
        if self._graph is None:
            self._batch = batch.clone()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._found = body(self._batch)
        assert self._batch is not None
        assert self._found is not None
        self._batch.copy_(batch)
        self._graph.replay()
        return self._found
