"""One dial: shapes, tokens, learning rates and their arithmetic."""

from __future__ import annotations

import re

import pytest

from regmix.config import ModelConfig, TrainConfig
from regmix.errors import UserError
from regmix.sizes import SIZES, TOKENS_PER_PARAMETER, default_lr, plan, shape

UNITS = {"k": 1e3, "m": 1e6, "b": 1e9}


@pytest.mark.parametrize("size", SIZES)
def test_a_size_is_what_its_name_says(size: str) -> None:
    found = re.fullmatch(r"(\d+)([kmb])", size)
    assert found is not None
    promised = int(found[1]) * UNITS[found[2]]
    model = shape(ModelConfig(size=size))
    assert 0.7 * promised < model.parameters < 1.45 * promised
    assert model.head_dim % 2 == 0
    assert model.heads * model.head_dim == model.d_model


def test_sizes_grow() -> None:
    parameters = [shape(ModelConfig(size=s)).parameters for s in SIZES]
    assert parameters == sorted(parameters)
    rates = [default_lr(shape(ModelConfig(size=s))) for s in SIZES]
    assert rates == sorted(rates, reverse=True)
    assert max(rates) <= 4e-3


def test_parameters_by_hand() -> None:
    model = shape(ModelConfig(size="1m", d_model=8, layers=2, heads=2, kv_heads=1, d_ff=16))
    attention = 8 * 8 + 2 * 8 * 4 + 8 * 8  # query, key and value of one head, output
    assert model.parameters == 2 * (attention + 3 * 8 * 16 + 2 * 8) + 8
    weights = model.parameters + 100 * 8
    attended = 6 * 2 * model.context * 8
    assert model.flops_per_token(100) == 6 * weights + attended


def test_plan_is_whole_batches() -> None:
    model = shape(ModelConfig(size="100k"))
    found = plan(TrainConfig(tokens=10_000, batch_tokens=1024), model)
    assert (found.batch, found.steps) == (1024 // model.context, 9)
    default = plan(TrainConfig(), model)
    tokens = default.steps * default.batch * model.context
    assert 0.98 * TOKENS_PER_PARAMETER * model.parameters < tokens
    assert tokens <= TOKENS_PER_PARAMETER * model.parameters
    assert default.lr == default_lr(model)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size": "1mm"}, r"model\.size: unknown size '1mm'; did you mean '1m'\? Valid: .*800k"),
        ({"d_model": 30, "heads": 4}, r"d_model 30 must be an even multiple of heads 4"),
        ({"d_model": 12, "heads": 4}, r"d_model 12 must be an even multiple of heads 4"),
        ({"heads": 4, "kv_heads": 3}, r"heads 4 must be a multiple of kv_heads 3"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        shape(ModelConfig(**config))  # type: ignore[arg-type]


def test_plans_that_do_not_fit_are_refused() -> None:
    model = shape(ModelConfig(size="50k"))
    with pytest.raises(
        UserError, match=r"train\.tokens: 100 is less than one batch of 1,024 tokens"
    ):
        plan(TrainConfig(tokens=100, batch_tokens=1024), model)
    with pytest.raises(UserError, match=r"train\.eval_points: 20 for a run of 10 steps"):
        plan(TrainConfig(tokens=10_240, batch_tokens=1024, eval_points=20), model)
    with pytest.raises(UserError, match=r"train\.eval_tokens: 20,000 for a run of 10,240 tokens"):
        plan(TrainConfig(tokens=10_240, batch_tokens=1024, eval_tokens=(1, 20_000)), model)


def test_tiny_rates_are_far_below_the_rule_and_a_given_one_is_kept() -> None:
    model = shape(ModelConfig(size="1m"))
    assert plan(TrainConfig(lr_mode="tiny"), model).lr == pytest.approx(default_lr(model) / 30)
    assert plan(TrainConfig(lr_mode="tiny", lr=0.001), model).lr == 0.001


def test_evaluations_are_even_or_where_they_are_asked_for() -> None:
    model = shape(ModelConfig(size="50k"))
    even = plan(TrainConfig(tokens=10_240, batch_tokens=1024, eval_points=3), model)
    assert even.eval_steps == (3, 7, 10)
    asked = TrainConfig(tokens=10_240, batch_tokens=1024, eval_tokens=(5_000, 1_024, 1_025))
    assert plan(asked, model).eval_steps == (1, 2, 5, 10)
