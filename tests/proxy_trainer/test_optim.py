"""Schedules have the shape they are named for; AdamW is AdamW, and decays matrices only."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from proxy_trainer.models.gpt import GPT
from proxy_trainer.optim import adamw, learning_rate
from regmix.config import ModelConfig, TrainConfig
from regmix.sizes import TrainPlan, plan, shape

SHAPE = shape(ModelConfig(size="50k", d_model=16, layers=1, heads=2, context=32, qk_norm=True))


def planned(steps: int = 200, **settings: object) -> TrainPlan:
    config = TrainConfig.model_validate(
        {"tokens": steps * 64, "batch_tokens": 64, "lr": 0.01, **settings}
    )
    return plan(config, SHAPE)


def rates(made: TrainPlan) -> list[float]:
    return [learning_rate(made, step) for step in range(made.steps)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_warm_up_is_linear_and_reaches_the_peak(schedule: str) -> None:
    found = rates(planned(schedule=schedule, warmup_share=0.1))
    assert found[:20] == pytest.approx([0.01 * (i + 1) / 20 for i in range(20)])
    assert max(found) == pytest.approx(0.01)
    assert found[20] == pytest.approx(0.01)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 1.0])
def test_cosine_falls_along_a_half_wave_to_its_end_value(ratio: float) -> None:
    found = rates(planned(min_lr_ratio=ratio, warmup_share=0.05))
    assert found[-1] == pytest.approx(0.01 * ratio, abs=1e-12)
    middle = 10 + (199 - 10) / 2
    assert (found[int(middle)] + found[math.ceil(middle)]) / 2 == pytest.approx(
        0.01 * (1 + ratio) / 2, rel=1e-4
    )
    assert all(a >= b for a, b in pairwise(found[10:]))


def test_wsd_stays_and_then_falls_in_a_straight_line() -> None:
    found = rates(planned(schedule="wsd", decay_share=0.25, min_lr_ratio=0.1, warmup_share=0.05))
    assert found[10:150] == pytest.approx([0.01] * 140)
    assert found[-1] == pytest.approx(0.001)
    steps = [a - b for a, b in pairwise(found[149:])]
    assert steps == pytest.approx([0.009 / 50] * 50)


def test_constant_stays() -> None:
    assert rates(planned(schedule="constant", warmup_share=0.0)) == [0.01] * 200


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
def test_the_shortest_runs_have_rates_within_bounds(
    steps: int, schedule: str, warmup: float
) -> None:
    found = rates(planned(steps, schedule=schedule, warmup_share=warmup))
    assert len(found) == steps
    assert all(0 < rate <= 0.01 * (1 + 1e-12) for rate in found)


@pytest.mark.parametrize("tied", [False, True])
def test_only_matrices_of_the_trunk_decay(tied: bool) -> None:
    model = GPT(shape(ModelConfig(size="50k", qk_norm=True, tied_embeddings=tied)), 300)
    optimiser = adamw(model, planned(weight_decay=0.3))
    decaying = {id(p) for p in optimiser.param_groups[0]["params"]}
    assert [g["weight_decay"] for g in optimiser.param_groups] == [0.3, 0.0]
    assert sum(len(g["params"]) for g in optimiser.param_groups) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decaying) == name.endswith("_proj.weight"), name


def test_steps_are_those_of_adamw_as_it_is_written() -> None:
    made = planned(weight_decay=0.1, beta1=0.8, beta2=0.9)
    model = GPT(SHAPE, 300).double()
    model.initialise(0)
    optimiser = adamw(model, made)
    reference = {n: p.detach().clone() for n, p in model.named_parameters()}
    first = {n: torch.zeros_like(p) for n, p in reference.items()}
    second = {n: torch.zeros_like(p) for n, p in reference.items()}
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 6):
        lr = learning_rate(made, step)
        for group in optimiser.param_groups:
            group["lr"] = lr
        for name, parameter in model.named_parameters():
            g = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = g
            decay = 0.1 if name.endswith("_proj.weight") else 0.0
            first[name] = 0.8 * first[name] + 0.2 * g
            second[name] = 0.9 * second[name] + 0.1 * g**2
            update = (first[name] / (1 - 0.8**step)) / (
                (second[name] / (1 - 0.9**step)).sqrt() + 1e-8
            )
            reference[name] = reference[name] * (1 - lr * decay) - lr * update
        optimiser.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), reference[name], rtol=1e-9, atol=1e-12)
