"""AdamW for arrays, and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from proxy_trainer.models.array import TRUNK_MATRICES, ModelArray
from proxy_trainer.to_device import pinned
from regmix.sizes import TrainPlan

MOMENTS = ("exp_avg", "exp_avg_sq")
EPS = 1e-8
"""Added to the root of the second moment: torch's default."""


@dataclass
class _Group:
    """Parameters of one member with one weight decay, and their moments; views of the array's."""

    decay: float
    names: list[str] = field(default_factory=list)
    parameters: list[Tensor] = field(default_factory=list)
    exp_avg: list[Tensor] = field(default_factory=list)
    exp_avg_sq: list[Tensor] = field(default_factory=list)


class ArrayAdamW:
    """AdamW for every member of an array, with its own learning rate, clipping and skipped steps.

    torch's fused kernel on views of the array's parameters, a call a member and weight decay: it
    scales gradients and leaves out a step by figures that stay on the device, so that nothing
    waits for the host. Only matrices of the trunk decay; embeddings, head and norms do not.
    """

    def __init__(self, array: ModelArray, plan: TrainPlan) -> None:
        self._parameters = dict(array.named_parameters())
        self._plan = plan
        self._members = array.members
        device = next(array.parameters()).device
        self._rate_K = torch.full((array.members,), plan.lr, device=device)
        # Read on the device, so that a recorded step can change it.
        self._rates_on_device = device.type == "cuda"
        self._rates: Sequence[float | Tensor] = list(self._rate_K)
        self._step_K = torch.zeros(array.members, device=device)
        self._groups = [self._grouped(member) for member in range(array.members)]

    def _grouped(self, member: int) -> tuple[_Group, _Group]:
        found = _Group(self._plan.weight_decay), _Group(0.0)
        for name, parameter in self._parameters.items():
            group = found[0] if _decays(name) else found[1]
            own = parameter.detach()[member]
            group.names.append(name)
            group.parameters.append(own)
            group.exp_avg.append(torch.zeros_like(own))
            group.exp_avg_sq.append(torch.zeros_like(own))
        return found

    def norms(self) -> Tensor:
        """Norm of every member's gradient before clipping, ``(K,)``."""
        # Member by member: a reduction over a table of all of them would add in an order that
        # depends on how many there are.
        grads = [_grad(p) for p in self._parameters.values()]
        each = [nn.utils.get_total_norm([g[k] for g in grads]) for k in range(self._members)]
        return torch.stack(each)

    def set_rates(self, lr: Sequence[float]) -> None:
        """The learning rate of each member's next step."""
        if self._rates_on_device:
            rates_K = pinned(torch.tensor(lr), self._rate_K.device)
            self._rate_K.copy_(rates_K, non_blocking=True)
        else:
            self._rates = list(lr)

    @torch.no_grad()
    def step(self, norm_K: Tensor, skip_K: Tensor) -> None:
        """Clip and step; the gradients are gone afterwards.

        Args:
            norm_K: of :meth:`norms`.
            skip_K: 1 for members that are left as they are, else 0.
        """
        scale_K = (norm_K / self._plan.clip).clamp(min=1.0).float()
        self._step_K += 1  # a step that is left out is taken back below, as torch's optimiser does
        for member, groups in enumerate(self._groups):
            for group in groups:
                grads = [_grad(self._parameters[name])[member] for name in group.names]
                torch._fused_adamw_(
                    group.parameters,
                    grads,
                    group.exp_avg,
                    group.exp_avg_sq,
                    [],
                    [self._step_K[member]] * len(grads),
                    lr=self._rates[member],
                    beta1=self._plan.beta1,
                    beta2=self._plan.beta2,
                    weight_decay=group.decay,
                    eps=EPS,
                    amsgrad=False,
                    maximize=False,
                    grad_scale=scale_K[member],
                    found_inf=skip_K[member],
                )
        self._step_K -= skip_K
        for parameter in self._parameters.values():
            parameter.grad = None

    def state(self, member: int) -> dict[str, Tensor]:
        """Moments by parameter and name, and steps done, of one member; not copies."""
        found = {"step": self._step_K[member]}
        for group in self._groups[member]:
            for moment in MOMENTS:
                found |= {
                    f"{n}.{moment}": m
                    for n, m in zip(group.names, getattr(group, moment), strict=True)
                }
        return found

    def load(self, member: int, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        for name, own in self.state(member).items():
            own.copy_(state[name])


def _decays(name: str) -> bool:
    return name.rpartition(".")[2] in TRUNK_MATRICES


def _grad(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def learning_rate(plan: TrainPlan, step: int) -> float:
    """Learning rate of step ``step`` (from 0): linear warm-up, then the plan's schedule.

    ``cosine`` and ``linear`` fall to ``min_lr_ratio`` at the last step; ``wsd`` stays at the peak
    and falls linearly to ``min_lr_ratio`` over the last ``decay_share`` of the steps (Hu et al.
    2024, arXiv 2404.06395); ``constant`` stays.
    """
    warmup = round(plan.warmup_share * plan.steps)
    if step < warmup:
        return plan.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, plan.steps - 1 - warmup)
    if plan.schedule == "cosine":
        fraction = 0.5 * (1 + math.cos(math.pi * progress))
    elif plan.schedule == "linear":
        fraction = 1 - progress
    elif plan.schedule == "wsd":
        decay = round(plan.decay_share * plan.steps)
        fraction = min(1.0, (plan.steps - 1 - step) / decay) if decay else 1.0
    else:
        fraction = 1.0
    return plan.lr * (plan.min_lr_ratio + (1 - plan.min_lr_ratio) * fraction)
