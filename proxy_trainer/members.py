"""An array in training: K models, their optimisers, and one step of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from proxy_trainer.checkpoint import Checkpoint, Progress
from proxy_trainer.data.batch import Batch
from proxy_trainer.execution import (
    Execution,
    RecordedStep,
    Stepped,
    default_execution,
    rows_at_once,
)
from proxy_trainer.kept import Part
from proxy_trainer.loss import cross_entropy
from proxy_trainer.models.array import ModelArray
from proxy_trainer.models.kernels import document_mask, documents
from proxy_trainer.moments import Moments
from proxy_trainer.optim import MOMENTS, ArrayAdamW
from proxy_trainer.spikes import SpikeGuard
from regmix.sizes import ModelShape, TrainPlan


class Members:
    """Models of one shape and one plan (learning rates and seeds apart) that train together.

    A member whose loss or gradient is not a number is frozen where it was; the others do not
    notice. What a step finds stays on the device: nothing here waits for it.
    """

    def __init__(
        self,
        shape: ModelShape,
        vocab_size: int,
        plan: TrainPlan,
        seeds: Sequence[int],
        *,
        device: torch.device,
        separator: int,
        execution: Execution | None = None,
        rows: int | None = None,
        masked: bool = False,
    ) -> None:
        """Models as their seeds initialise them.

        Args:
            separator: the token that ends documents; for masks between them.
            execution: the device's own if not given.
            rows: sequences a member that are computed at once at most, the gradients of the
                others added; as many as the device's memory holds if that is fewer.
            masked: batches say which document a token belongs to.
        """
        self.array = ModelArray.initialised(shape, vocab_size, seeds).to(device)
        self._plan = plan
        self._separator = separator
        self._optimiser = ArrayAdamW(self.array, plan)
        self._guard = SpikeGuard(len(seeds), plan.skip_sigma, device)
        self._device = device
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self.broken_K = torch.zeros(len(seeds), dtype=torch.int64, device=device)
        """Step (from 1) at which a member's loss or gradient was no number; 0 if never."""
        fit = rows_at_once(
            shape, plan.batch, len(seeds), device,
            owed=sum(4 * p.numel() for p in self.array.parameters()),  # their gradients
            masked=masked or plan.document_mask,
        )  # fmt: skip
        self.rows = min(rows or fit, fit)
        """Sequences a member that are computed at once."""
        execution = execution or default_execution(device)
        self._hidden = self.array.hidden
        if execution != "eager":
            # Isolated, as arrays of other sizes would else count as one function's many shapes,
            # of which only the first eight are compiled.
            self._hidden = torch.compile(  # type: ignore[call-overload]
                self.array.hidden, dynamic=False, isolate_recompiles=True
            )
        self._recorded = RecordedStep() if execution == "graph" else None

    def step(self, step: int, batch: Batch, lr: Sequence[float]) -> Stepped:
        """One optimiser step.

        Args:
            step: steps done before.
            batch: every member's blocks, ``(K, B, context + 1)``.
            lr: one learning rate a member.
        """
        self._step.fill_(step)
        self._optimiser.set_rates(lr)
        return self._body(batch) if self._recorded is None else self._recorded(self._body, batch)

    def _body(self, batch: Batch) -> Stepped:
        K, B, _ = batch.tokens.shape
        loss_K = torch.zeros(K, device=self._device)
        total_K11 = None if batch.counts is None else batch.counts.sum((1, 2), keepdim=True)
        nats = []
        for first in range(0, B, self.rows):
            part = batch.part(slice(first, first + self.rows))
            part_K, nats_KN = self._loss(part, total_K11)
            if total_K11 is None:
                part_K = part_K * (part.tokens.shape[1] / B)
            part_K.sum().backward()
            loss_K = loss_K + part_K.detach()
            nats.append(_by_block(nats_KN, part))
        norm_K = self._optimiser.norms()
        finite_K = loss_K.isfinite() & norm_K.isfinite()
        self.broken_K += (self._step + 1) * (~finite_K & (self.broken_K == 0))
        spike_K = self._guard.spikes(self._step, loss_K, norm_K)
        self._optimiser.step(norm_K, (spike_K | (self.broken_K > 0)).float())
        return Stepped(loss_K, norm_K, torch.cat(nats, 1))

    def _loss(self, batch: Batch, total_K11: Tensor | None) -> tuple[Tensor, Tensor]:
        inputs_KBT, target_KN = batch.tokens[..., :-1], batch.tokens[..., 1:].flatten(1)
        share_KN = None
        if batch.counts is not None:
            assert total_K11 is not None
            share_KN = (batch.counts / total_K11).flatten(1)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            hidden_KND = self._hidden(inputs_KBT, self._mask(batch))
            return cross_entropy(
                hidden_KND, self.array.unembed_KDV, target_KN, self._plan.z_loss, share_KN
            )

    @property
    def skipped_K(self) -> Tensor:  # noqa: N802
        """Steps that were left out as spikes."""
        return self._guard.skipped_K

    def _mask(self, batch: Batch) -> Tensor | None:
        """Which positions may attend to which, ``(K·B, 1, T, T)``, where documents are apart."""
        if batch.documents is not None:
            return document_mask(batch.documents.flatten(0, 1))
        if not self._plan.document_mask:
            return None
        return document_mask(documents(batch.tokens[..., :-1].flatten(0, 1), self._separator))

    def checkpoint(self, member: int, step: int, seconds: float) -> Checkpoint:
        """One member as it stands, under the names that all checkpoints have."""
        weights = self._untied(self.array.member(member))
        tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
        tensors |= self.moments(member).tensors()
        guard = {f"guard.{name}": x for name, x in self._guard.state(member).items()}
        return Checkpoint(Progress(step, seconds), tensors | guard)

    def begin(self, member: int, weights: Mapping[str, Tensor], moments: Moments | None) -> None:
        """Start from another model's weights and, if given, its optimiser's moments."""
        self.array.load_member(member, weights)
        if moments is not None:
            self._take_over(member, moments)

    def _take_over(self, member: int, moments: Moments) -> None:
        state = {"step": torch.tensor(moments.step)}
        for kind in MOMENTS:
            arranged = self.array.arranged(getattr(moments, kind))
            state |= {f"{name}.{kind}": value for name, value in arranged.items()}
        self._optimiser.load(member, state)

    def moments(self, member: int) -> Moments:
        """The optimiser's of one member, in transformers' names; copies."""
        state = self._optimiser.state(member)
        named = {
            kind: self._untied(
                self.array.named(
                    {n: state[f"{n}.{kind}"] for n, _ in self.array.named_parameters()}
                )
            )
            for kind in MOMENTS
        }
        return Moments(float(state["step"]), **named)

    def load(self, member: int, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, of whichever kind.

        Raises:
            KeyError: it lacks tensors of this model.
        """
        self.array.load_member(member, Part(checkpoint.tensors, "model."))
        self._take_over(member, Moments.of(checkpoint.tensors))
        self._guard.load(member, Part(checkpoint.tensors, "guard."))

    def _untied(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        """A table without a head that is the embedding."""
        if self.array.shape.tied_embeddings:
            del named["lm_head.weight"]
        return named


def _by_block(nats_KN: Tensor, batch: Batch) -> Tensor:
    """Nats of each block's tokens that count, ``(K, B)``."""
    nats_KBT = nats_KN.view(len(nats_KN), batch.tokens.shape[1], -1)
    return (nats_KBT if batch.counts is None else nats_KBT * batch.counts).sum(2)
