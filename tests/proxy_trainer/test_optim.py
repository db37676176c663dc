"""Schedules have the shape they are named for; AdamW is AdamW, and decays matrices only."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from proxy_trainer.models.array import TRUNK_MATRICES, ModelArray
from proxy_trainer.optim import ArrayAdamW, learning_rate
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
    """With no gradient a step only decays."""
    dims = shape(ModelConfig(size="50k", qk_norm=True, tied_embeddings=tied))
    array = ModelArray.initialised(dims, 300, [0, 1])
    optimiser = ArrayAdamW(array, planned(weight_decay=0.3))
    before = array.member(1)
    for parameter in array.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.set_rates([0.1, 0.5])
    optimiser.step(torch.zeros(2), torch.zeros(2))
    for name, value in array.member(1).items():
        factor = 1 - 0.5 * 0.3 if name.endswith("_proj.weight") else 1.0
        torch.testing.assert_close(value, before[name] * factor, rtol=1e-6, atol=0)


@pytest.mark.parametrize("clip", [1e9, 0.5])
def test_steps_are_those_of_adamw_as_it_is_written(clip: float) -> None:
    """Every member by itself: its learning rate, its clipping, the steps that it leaves out."""
    made = planned(weight_decay=0.1, beta1=0.8, beta2=0.9, clip=clip)
    array = ModelArray.initialised(SHAPE, 300, [0, 1]).double()
    optimiser = ArrayAdamW(array, made)
    reference = {n: p.detach().clone() for n, p in array.named_parameters()}
    first = {n: torch.zeros_like(p) for n, p in reference.items()}
    second = {n: torch.zeros_like(p) for n, p in reference.items()}
    generator = torch.Generator().manual_seed(0)
    taken = [0, 0]
    for step in range(1, 7):
        rates, skip = [0.01 / step, 0.002 * step], [0.0, float(step == 3)]
        for parameter in array.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        gradients = {n: p.grad.clone() for n, p in array.named_parameters() if p.grad is not None}
        norms = optimiser.norms()
        for k in range(2):
            norm = math.sqrt(sum(float(g[k].square().sum()) for g in gradients.values()))
            assert norms[k].item() == pytest.approx(norm)
            if skip[k]:
                continue
            taken[k] += 1
            for name, g in gradients.items():
                own = g[k] * min(1.0, clip / norm)
                decay = 0.1 if name.rpartition(".")[2] in TRUNK_MATRICES else 0.0
                first[name][k] = 0.8 * first[name][k] + 0.2 * own
                second[name][k] = 0.9 * second[name][k] + 0.1 * own**2
                update = (first[name][k] / (1 - 0.8 ** taken[k])) / (
                    (second[name][k] / (1 - 0.9 ** taken[k])).sqrt() + 1e-8
                )
                reference[name][k] *= 1 - rates[k] * decay
                reference[name][k] -= rates[k] * update
        optimiser.set_rates(rates)
        optimiser.step(norms, torch.tensor(skip, dtype=torch.float32))
    for name, parameter in array.named_parameters():
        torch.testing.assert_close(parameter.detach(), reference[name], rtol=1e-6, atol=1e-9)
