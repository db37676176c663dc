"""A sharded model in training: its optimiser and one step of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from proxy_trainer.execution import rows_at_once
from proxy_trainer.models.kernels import document_mask
from proxy_trainer.sharded.model import ShardedModel, values_of_all
from proxy_trainer.sharded.ranks import Ranks
from proxy_trainer.spikes import SpikeGuard
from regmix.families import Shape
from regmix.sizes import TrainPlan

_TRUNK = "_proj.weight"
"""How the names of parameters end that weight decay is for."""
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Sharded:
    """One model over all processes: the trainee of :mod:`proxy_trainer.train` for large models.

    A step comes to what :class:`proxy_trainer.members.Members` comes to with one member and the
    whole batch, to float tolerance, however many processes there are.
    """

    def __init__(
        self,
        shape: Shape,
        vocab_size: int,
        plan: TrainPlan,
        seed: int | None,
        ranks: Ranks,
        *,
        separator: int,
        recompute: bool = False,
        compiled: bool = False,
        rows: int | None = None,
        half_precision: bool | None = None,
    ) -> None:
        """A model as its seed initialises it.

        Args:
            seed: None where a checkpoint or a folder will fill the model.
            separator: the token that ends documents; for masks between them.
            recompute, compiled: of :class:`ShardedModel`.
            rows: sequences that a process computes at once, the gradients of the others added; as
                many as every process's memory holds if not given.
            half_precision: of :class:`ShardedModel`; on GPUs if not given.
        """
        if half_precision is None:
            half_precision = ranks.device.type == "cuda"
        self.array = ShardedModel(
            shape,
            vocab_size,
            seed,
            ranks,
            recompute=recompute,
            compiled=compiled,
            half_precision=half_precision,
        )
        self._plan, self._ranks, self._separator = plan, ranks, separator
        own = plan.batch // ranks.world
        self._rows = rows or ranks.least(rows_at_once(shape, own, 1, ranks.device))
        self._guard = SpikeGuard(1, plan.skip_sigma, ranks.device)
        self._step = torch.zeros((), dtype=torch.int64, device=ranks.device)
        self.broken_K = torch.zeros(1, dtype=torch.int64, device=ranks.device)
        self._parameters = self.array.parameters()
        groups = [
            {"params": [p for n, p in self._parameters.items() if n.endswith(_TRUNK)],
             "weight_decay": plan.weight_decay},
            {"params": [p for n, p in self._parameters.items() if not n.endswith(_TRUNK)],
             "weight_decay": 0.0},
        ]  # fmt: skip
        self._optimiser = torch.optim.AdamW(
            groups, lr=plan.lr, betas=(plan.beta1, plan.beta2), fused=True
        )

    def step(self, step: int, batch_KBT: Tensor, lr: Sequence[float]) -> tuple[Tensor, Tensor]:
        """One optimiser step; the whole batch's loss in nats a token and gradient norm, ``(1,)``.

        Args:
            step: steps done before.
            batch_KBT: this process's blocks with the token after each, ``(1, B, context + 1)``.
            lr: one learning rate.
        """
        self._step.fill_(step)
        loss_K, norm_K = self._gradients(batch_KBT[0])
        finite_K = loss_K.isfinite() & norm_K.isfinite()
        self.broken_K += (self._step + 1) * (~finite_K & (self.broken_K == 0))
        spike_K = self._guard.spikes(self._step, loss_K, norm_K)
        for group in self._optimiser.param_groups:
            group["lr"] = lr[0]
        # What torch's own gradient scaler sets for fused optimisers: nothing waits for the host.
        self._optimiser.grad_scale = (norm_K / self._plan.clip).clamp(min=1.0)[0]  # type: ignore[attr-defined]
        self._optimiser.found_inf = (spike_K | (self.broken_K > 0)).float()[0]  # type: ignore[attr-defined]
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        return loss_K, norm_K

    def _gradients(self, batch_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and gradient norm over all processes, ``(1,)`` each; gradients are left in place."""
        own = torch.zeros((), device=self._ranks.device)
        for part_BT in batch_BT.split(self._rows):
            ids_BT, target_BT = part_BT[:, :-1], part_BT[:, 1:]
            mask = document_mask(ids_BT, self._separator) if self._plan.document_mask else None
            loss = self.array.model.loss(ids_BT, target_BT, self._plan.z_loss, mask)
            loss = loss * (len(part_BT) / len(batch_BT))
            loss.backward()  # the mean over processes is taken as gradients are scattered
            own = own + loss.detach()
        squares = torch.zeros_like(own)
        for parameter in self._parameters.values():
            grad = parameter.grad
            assert isinstance(grad, DTensor)
            squares = squares + torch.linalg.vector_norm(grad.to_local()).square()
        total_RX = values_of_all(torch.stack([own, squares]), self._ranks)
        norm_K = (total_RX[:, 1:].sum(0) / self._ranks.replicas).sqrt()
        return total_RX[:, :1].mean(0), norm_K

    def tensors(self) -> dict[str, Tensor]:
        """All that goes on from one step to the next, as it is now; filled in place to go on."""
        found: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            found[f"model.{name}"] = parameter.detach()
            state = self._optimiser.state[parameter]
            if not state:
                state |= {key: torch.zeros_like(parameter.detach()) for key in _MOMENTS}
                state["step"] = torch.zeros((), device=self._ranks.device)
            found |= {f"optimiser.{name}.{key}": state[key] for key in _MOMENTS}
        # Steps are left out for all parameters or none, so that one count stands for all.
        found["optimiser.step"] = state["step"]
        return found | {f"guard.{key}": x for key, x in self._guard.state(0).items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what :meth:`tensors` gave and a checkpoint has filled."""
        for parameter in self._parameters.values():
            self._optimiser.state[parameter]["step"] = tensors["optimiser.step"].clone()
        guard = {n.removeprefix("guard."): x for n, x in tensors.items() if n.startswith("guard.")}
        self._guard.load(0, guard)

    @property
    def skipped_K(self) -> Tensor:  # noqa: N802
        """Steps that were left out as spikes, ``(1,)``."""
        return self._guard.skipped_K
