"""AdamW groups and learning-rate schedules."""

from __future__ import annotations

import math

import torch
from torch import nn

from regmix.sizes import TrainPlan


def adamw(model: nn.Module, plan: TrainPlan) -> torch.optim.AdamW:
    """AdamW in which only matrices of the trunk decay; embeddings, head and norms do not."""
    decay: list[nn.Parameter] = []
    keep: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.dim() >= 2 and "embed_tokens" not in name and "lm_head" not in name
        (decay if matrix else keep).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": decay, "weight_decay": plan.weight_decay},
            {"params": keep, "weight_decay": 0.0},
        ],
        lr=plan.lr,
        betas=(plan.beta1, plan.beta2),
        fused=True,
    )


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
