"""A decoder with its parameters spread over processes (FSDP2).

One unit a block, so that a process holds one block's parameters at a time; embedding, head and
final norm are the root's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from proxy_trainer.models.folder import Weights
from proxy_trainer.models.losses import Losses, without_weights
from proxy_trainer.models.reading import tokens_at_once
from proxy_trainer.sharded.ranks import Ranks
from regmix.families import Shape


class ShardedModel:
    """One model (K = 1) over all processes; every method is called in all of them."""

    members = 1

    def __init__(
        self,
        shape: Shape,
        vocab_size: int,
        seed: int | None,
        ranks: Ranks,
        *,
        recompute: bool,
        half_precision: bool,
        compiled: bool = False,
    ) -> None:
        """The weights that the seed gives a single model, of which a process keeps its shards.

        No process ever holds more than one block and the embeddings whole.

        Args:
            seed: None leaves open what the weights are, for a checkpoint or a folder to fill.
            recompute: compute blocks' activations again for the gradients instead of keeping them.
            half_precision: compute and gather in bfloat16; shards, their gradients and all sums
                over processes stay in single precision.
            compiled: compute blocks as torch.compile has them, gathering left outside.
        """
        self.ranks, self.shape = ranks, shape
        self._policy = MixedPrecisionPolicy()
        if half_precision:
            self._policy = MixedPrecisionPolicy(
                torch.bfloat16, torch.float32, cast_forward_inputs=False
            )
        model = without_weights(shape, vocab_size)
        model.half_precision = half_precision
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        blocks = set(model.blocks)
        for unit in model.units:
            model.fill_(unit, generator)
            if unit in blocks:
                _carry_out(unit, recompute=recompute, compiled=compiled)
                self._shard(unit)
        model.complete_()
        self._shard(model)
        for name in ("loss", "nats", "scored"):
            register_fsdp_forward_method(model, name)
        self.model: Losses = model

    def _shard(self, module: nn.Module) -> None:
        fully_shard(module, mesh=self.ranks.mesh, mp_policy=self._policy)

    def parameters(self) -> dict[str, DTensor]:
        """This process's shards, by name."""
        found: dict[str, DTensor] = {}
        for name, parameter in self.model.named_parameters():
            assert isinstance(parameter, DTensor)
            found[name] = parameter
        return found

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        """Take over a folder's weights, tensor by tensor: no process holds more than one whole.

        Raises:
            UserError: another architecture or vocabulary than this model's, or tensors that are
                missing, not known or of another size.
        """
        own = self.parameters()
        weights.check(self.shape, {name: tuple(p.shape) for name, p in own.items()})
        for name, whole in weights:
            fill(own[name], whole)

    @property
    def tokens_at_once(self) -> int:
        """A share for every process."""
        return self.ranks.world * tokens_at_once(self.ranks.device)

    @torch.no_grad()
    def nats(self, ids_BT: Tensor, keep_BT: Tensor, target_N: Tensor) -> Tensor:
        """What :class:`proxy_trainer.evals.bpb.Measured` asks for; windows are divided."""
        target_BT = torch.zeros_like(ids_BT)
        target_BT[keep_BT] = target_N
        own = slice(self.ranks.rank, None, self.ranks.world)
        ids, keep, target = ids_BT[own], keep_BT[own], target_BT[own]
        if not len(ids):  # the others need this process's shards
            ids, keep, target = ids_BT[:1], torch.zeros_like(keep_BT[:1]), target_BT[:1]
        device = self.ranks.device
        found = self.model.nats(ids.to(device), keep.to(device), target[keep].to(device))
        self.free()
        total_B = torch.zeros(len(ids_BT), dtype=torch.float64, device=device)
        total_B[own] = found[: len(total_B[own])]
        return values_of_all(total_B, self.ranks).sum(0)[None]

    @torch.no_grad()
    def scored(
        self, ids_BT: Tensor, seen_BTT: Tensor, place_BT: Tensor, at_N: Tensor, target_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`Losses.scored`, in double precision, ``(1, N)``; rows are divided."""
        rank, world, T = self.ranks.rank, self.ranks.world, ids_BT.shape[1]
        own = slice(rank, None, world) if rank < len(ids_BT) else slice(1)  # others need its shards
        mine_N = (at_N // T) % world == rank
        at = (at_N // T // world * T + at_N % T)[mine_N]
        found = self.model.scored(ids_BT[own], seen_BTT[own], place_BT[own], at, target_N[mine_N])
        self.free()
        both_2N = torch.zeros(2, len(at_N), dtype=torch.float64, device=self.ranks.device)
        both_2N[:, mine_N] = torch.stack([part.double() for part in found])
        nats_N, best_N = values_of_all(both_2N, self.ranks).sum(0)
        return nats_N[None], best_N[None] > 0

    def free(self) -> None:
        """Let go of whole parameters that a forward pass without gradients left behind."""
        assert isinstance(self.model, FSDPModule)
        self.model.reshard()

    def member(self, member: int) -> dict[str, Tensor]:
        """The weights in transformers' names, gathered one by one; whole in the first process.

        Elsewhere the table is empty.
        """
        assert member == 0
        found = {}
        for name, parameter in self.parameters().items():
            whole = parameter.full_tensor().detach()
            if self.ranks.first:
                found[name] = whole.cpu()
        if found and self.shape.tied_embeddings:
            found["lm_head.weight"] = found["model.embed_tokens.weight"]
        return found


def fill(into: DTensor, whole: Tensor) -> None:
    """Set this process's shard from the whole tensor, which every process has read."""
    own = distribute_tensor(
        whole.to(into.device, into.dtype), into.device_mesh, into.placements, src_data_rank=None
    )
    into.to_local().copy_(own.to_local())


def values_of_all(value_X: Tensor, ranks: Ranks) -> Tensor:
    """Every process's values, ``(ranks, X)``.

    Each process adds them up itself, in the same order: what is decided by them is then decided in
    all processes alike, to the bit.
    """
    found = [torch.empty_like(value_X) for _ in range(ranks.world)]
    dist.all_gather(found, value_X.contiguous())
    return torch.stack(found)


def _carry_out(block: nn.Module, *, recompute: bool, compiled: bool) -> None:
    """Change how a block is computed, not what; its parameters' names stay.

    Only its forward pass is wrapped, so that the hooks by which it is gathered and let go run
    outside of compiled code, and once where activations are computed again.
    """
    forward = block.forward
    if compiled:
        forward = torch.compile(forward)
    if recompute:
        forward = partial(_recomputed, forward)
    block.forward = forward


def _recomputed(forward: Any, *inputs: Any, **named: Any) -> Any:
    """Activations are not kept for the gradients but computed again: more work, less memory."""
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **named)
