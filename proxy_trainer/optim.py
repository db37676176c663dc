"""AdamW for arrays, and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from proxy_trainer.models.array import TRUNK_MATRICES, ModelArray
from regmix.sizes import TrainPlan

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class ArrayAdamW:
    """AdamW for every member of an array, with its own learning rate, clipping and skipped steps.

    One fused optimiser a member, on views of the array's parameters: its kernel scales gradients
    and leaves out a step by figures that stay on the device, so that nothing waits for the host.
    Only matrices of the trunk decay; embeddings, head and norms do not.
    """

    def __init__(self, array: ModelArray, plan: TrainPlan) -> None:
        self._parameters = dict(array.named_parameters())
        self._clip = plan.clip
        device = next(array.parameters()).device
        self._rate_K: Tensor | None = None
        if device.type == "cuda":
            self._rate_K = torch.full((array.members,), plan.lr, device=device)
        self.views: list[dict[str, nn.Parameter]] = []
        self._each: list[torch.optim.AdamW] = []
        for member in range(array.members):
            views = {n: nn.Parameter(p.detach()[member]) for n, p in self._parameters.items()}
            groups = [
                {"params": [v for n, v in views.items() if _decays(n)],
                 "weight_decay": plan.weight_decay},
                {"params": [v for n, v in views.items() if not _decays(n)], "weight_decay": 0.0},
            ]  # fmt: skip
            self.views.append(views)
            self._each.append(
                torch.optim.AdamW(
                    groups,
                    lr=plan.lr if self._rate_K is None else self._rate_K[member],
                    betas=(plan.beta1, plan.beta2),
                    fused=True,
                    capturable=self._rate_K is not None,
                )
            )

    def norms(self) -> Tensor:
        """Norm of every member's gradient before clipping, ``(K,)``."""
        # Member by member: a reduction over a table of all of them would add in an order that
        # depends on how many there are.
        grads = [_grad(p) for p in self._parameters.values()]
        each = [nn.utils.get_total_norm([g[k] for g in grads]) for k in range(len(self.views))]
        return torch.stack(each)

    def set_rates(self, lr: Sequence[float]) -> None:
        """The learning rate of each member's next step."""
        if self._rate_K is not None:  # read on the device, so that a recorded step can change it
            self._rate_K.copy_(torch.tensor(lr), non_blocking=True)
            return
        for rate, optimiser in zip(lr, self._each, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate

    def step(self, norm_K: Tensor, skip_K: Tensor) -> None:
        """Clip and step; the gradients are gone afterwards.

        Args:
            norm_K: of :meth:`norms`.
            skip_K: 1 for members that are left as they are, else 0.
        """
        scale_K = (norm_K / self._clip).clamp(min=1.0).float()
        for k, (optimiser, views) in enumerate(zip(self._each, self.views, strict=True)):
            for name, view in views.items():
                view.grad = _grad(self._parameters[name])[k]
            # What torch's own gradient scaler sets for fused optimisers.
            optimiser.grad_scale = scale_K[k]  # type: ignore[attr-defined]
            optimiser.found_inf = skip_K[k]  # type: ignore[attr-defined]
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        for parameter in self._parameters.values():
            parameter.grad = None

    def state(self, member: int) -> dict[str, Tensor]:
        """Moments and step counts of one member, by parameter and name; what they are, not copies.

        Empty before the first step.
        """
        state = self._each[member].state
        return {
            f"{name}.{key}": value
            for name, view in self.views[member].items()
            for key, value in state[view].items()
        }

    def load(self, member: int, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        for name, view in self.views[member].items():
            own = {key: state[f"{name}.{key}"].to(view.device, copy=True) for key in MOMENTS}
            self._each[member].state[view] = own


def _decays(name: str) -> bool:
    return name.rpartition(".")[2] in TRUNK_MATRICES


def _grad(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def learning_rate(plan: TrainPlan, step: int) -> float:
    """Learning rate of step ``step`` (from 0): linear warm-up, then the plan's schedule.

    ``cosine`` falls to ``min_lr_ratio`` at the last step; ``wsd`` stays at the peak and falls
    linearly to ``min_lr_ratio`` over the last ``decay_share`` of the steps (Hu et al. 2024,
    arXiv 2404.06395); ``constant`` stays.
    """
    warmup = round(plan.warmup_share * plan.steps)
    if step < warmup:
        return plan.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, plan.steps - 1 - warmup)
    if plan.schedule == "cosine":
        fraction = 0.5 * (1 + math.cos(math.pi * progress))
    elif plan.schedule == "wsd":
        left = (plan.steps - 1 - step) / max(1, round(plan.decay_share * plan.steps))
        fraction = min(1.0, left)
    else:
        fraction = 1.0
    return plan.lr * (plan.min_lr_ratio + (1 - plan.min_lr_ratio) * fraction)
