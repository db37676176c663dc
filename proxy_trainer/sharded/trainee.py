"""A sharded model in training: its optimiser and one step of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from proxy_trainer.data.batch import Batch
from proxy_trainer.execution import Stepped, rows_at_once
from proxy_trainer.models.folder import Weights
from proxy_trainer.models.kernels import document_mask, documents
from proxy_trainer.moments import KINDS, Moments
from proxy_trainer.sharded.model import ShardedModel, fill, values_of_all
from proxy_trainer.sharded.ranks import Ranks
from proxy_trainer.spikes import SpikeGuard
from regmix.families import Shape
from regmix.sizes import TrainPlan

_TRUNK = "_proj.weight"
"""How the names of parameters end that weight decay is for."""


class Sharded:
    """One model over all processes: the trainee of :mod:`proxy_trainer.loop` for large models.

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
        masked: bool = False,
    ) -> None:
        """A model as its seed initialises it.

        Args:
            seed: None where a checkpoint or a folder will fill the model.
            separator: the token that ends documents; for masks between them.
            recompute, compiled: of :class:`ShardedModel`.
            rows: sequences that a process computes at once, the gradients of the others added; as
                many as every process's memory holds if not given.
            half_precision: of :class:`ShardedModel`; on GPUs if not given.
            masked: batches say which document a token belongs to.
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
        self._guard = SpikeGuard(1, plan.skip_sigma, ranks.device)
        self._step = torch.zeros((), dtype=torch.int64, device=ranks.device)
        self.broken_K = torch.zeros(1, dtype=torch.int64, device=ranks.device)
        self._parameters = self.array.parameters()
        own = sum(p.to_local().numel() for p in self._parameters.values())
        fit = rows_at_once(
            shape, plan.batch // ranks.world, 1, ranks.device,
            owed=12 * own,  # of its shards' gradients and two moments
            masked=masked or plan.document_mask,
            recompute=recompute,
        )  # fmt: skip
        self._rows = rows or ranks.least(fit)
        groups = [
            {"params": [p for n, p in self._parameters.items() if n.endswith(_TRUNK)],
             "weight_decay": plan.weight_decay},
            {"params": [p for n, p in self._parameters.items() if not n.endswith(_TRUNK)],
             "weight_decay": 0.0},
        ]  # fmt: skip
        self._optimiser = torch.optim.AdamW(
            groups, lr=plan.lr, betas=(plan.beta1, plan.beta2), fused=True
        )

    def step(self, step: int, batch: Batch, lr: Sequence[float]) -> Stepped:
        """One optimiser step.

        Args:
            step: steps done before.
            batch: this process's blocks, ``(1, B, context + 1)``.
            lr: one learning rate.
        """
        self._step.fill_(step)
        loss_K, norm_K, nats_KB = self._gradients(batch)
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
        return Stepped(loss_K, norm_K, nats_KB)

    def _gradients(self, batch: Batch) -> Stepped:
        """Loss and gradient norm over all processes; gradients are left in place."""
        own = torch.zeros((), device=self._ranks.device)
        counts_BT = None if batch.counts is None else batch.counts[0]
        # Divided by what counts in a process's part on average, since means over processes follow.
        share_BT = None if counts_BT is None else counts_BT / self._mean_of_all(counts_BT.sum())
        nats = []
        for first in range(0, batch.tokens.shape[1], self._rows):
            part = batch.part(slice(first, first + self._rows))
            ids_BT, target_BT = part.tokens[0, :, :-1], part.tokens[0, :, 1:]
            own_BT = None if share_BT is None else share_BT[first : first + self._rows]
            loss, nats_BT = self.array.model.loss(
                ids_BT, target_BT, own_BT, self._plan.z_loss, self._mask(part)
            )
            if part.counts is None:
                loss = loss * (part.tokens.shape[1] / batch.tokens.shape[1])
            else:
                nats_BT = nats_BT * part.counts[0]
            loss.backward()  # the mean over processes is taken as gradients are scattered
            own = own + loss.detach()
            nats.append(nats_BT.sum(1))
        squares = torch.zeros_like(own)
        for parameter in self._parameters.values():
            grad = parameter.grad
            assert isinstance(grad, DTensor)
            squares = squares + torch.linalg.vector_norm(grad.to_local()).square()
        total_RX = values_of_all(torch.stack([own, squares]), self._ranks)
        norm_K = (total_RX[:, 1:].sum(0) / self._ranks.replicas).sqrt()
        return Stepped(total_RX[:, :1].mean(0), norm_K, torch.cat(nats)[None])

    def _mean_of_all(self, value: Tensor) -> Tensor:
        """The mean of a scalar over all processes."""
        return values_of_all(value[None], self._ranks).mean(0)

    def _mask(self, batch: Batch) -> Tensor | None:
        """Which positions may attend to which, where documents are apart."""
        if batch.documents is not None:
            return document_mask(batch.documents[0])
        if not self._plan.document_mask:
            return None
        return document_mask(documents(batch.tokens[0, :, :-1], self._separator))

    def tensors(self) -> dict[str, Tensor]:
        """All that goes on from one step to the next, as it is now; filled in place to go on."""
        found: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            found[f"model.{name}"] = parameter.detach()
            state = self._optimiser.state[parameter]
            if not state:
                state |= {key: torch.zeros_like(parameter.detach()) for key in KINDS}
                state["step"] = torch.zeros((), device=self._ranks.device)
            found |= {f"optimiser.{name}.{key}": state[key] for key in KINDS}
        # Steps are left out for all parameters or none, so that one count stands for all.
        found["optimiser.step"] = state["step"]
        return found | {f"guard.{key}": x for key, x in self._guard.state(0).items()}

    def moments(self) -> dict[str, Tensor]:
        """The optimiser's part of :meth:`tensors`."""
        return {n: tensor for n, tensor in self.tensors().items() if n.startswith("optimiser.")}

    @torch.no_grad()
    def begin(self, weights: Weights, moments: Moments | None) -> None:
        """Start from another model's weights and, if given, its optimiser's moments.

        Raises:
            UserError: the weights are another architecture's.
        """
        self.array.load(weights)
        if moments is None:
            return
        tensors = self.tensors()
        for name in self._parameters:
            for kind in KINDS:
                into = tensors[f"optimiser.{name}.{kind}"]
                assert isinstance(into, DTensor)
                fill(into, getattr(moments, kind)[name])
        tensors["optimiser.step"].fill_(moments.step)
        self.restore(tensors)

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
