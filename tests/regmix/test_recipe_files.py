"""The recipes that ship: read as they are, and their arithmetic is what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from regmix import sizes, strict
from regmix.errors import UserError
from regmix.recipe import RecipeConfig, StageConfig

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "mixes" / "recipes").glob("*.yaml"))
VOCABULARY = 100_000
UTILISATION, PEAK = 0.40, 989e12
ROW = re.compile(
    r"^\| (\w+) (\w+)(?:, each order)? \| ([\d.e]+) \| ([\d.e]+) \| ([\d.e]+) "
    r"\| ([\d.]+) h \| ([\d.]+) h \|$",
    re.MULTILINE,
)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_is_one(path: Path) -> None:
    found = strict.load(path, RecipeConfig)
    assert [s.kind for s in found.stages] == ["pretrain", "midtrain", "sft"]


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("{step: 3}", r"stages\.0\.start\.run: Field required"),
        ("{run: a, step: x}", r"stages\.0\.start\.step: .*valid integer \(found 'x'\)"),
        ("{run: a, stp: 3}", r"stages\.0\.start\.stp: unknown key 'stp'; did you mean 'step'\?"),
        ("3", r"stages\.0\.start: Input should be a valid string or a mapping \(found 3\)"),
    ],
)
def test_a_faulty_start_is_named_by_its_key(tmp_path: Path, start: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    stages = f"stages:\n  - {{name: a, kind: pretrain, start: {start}}}\n"
    path.write_text(f"name: r\nstudy: .\n{stages}", encoding="utf-8")
    with pytest.raises(UserError, match=rf"r\.yaml:4: {message}"):
        strict.load(path, RecipeConfig)


def test_hours_are_tokens_times_flops_over_what_devices_do() -> None:
    rows = ROW.findall((ROOT / "docs" / "RECIPES.md").read_text("utf-8"))
    told = [(size, kind) for size, kind, *_ in rows]
    assert told == [(size, kind) for size in ("1B", "7B") for kind in ("pretrain", "midtrain")]
    for size, kind, *figures in rows:
        each, tokens, flops, small, large = map(float, figures)
        path = ROOT / "mixes" / "recipes" / f"{size.lower()}.yaml"
        recipe = strict.load(path, RecipeConfig)
        assert recipe.model is not None
        true = sizes.shape(recipe.model).flops_per_token(VOCABULARY)
        assert each == pytest.approx(true, rel=0.01)
        assert stage(recipe, kind).train.tokens == tokens
        assert flops == pytest.approx(true * tokens, rel=0.03)
        for devices, hours in ((8, small), (64, large)):
            seconds = true * tokens / (UTILISATION * PEAK * devices)
            assert hours == pytest.approx(seconds / 3600, rel=0.05)


def stage(recipe: RecipeConfig, kind: str) -> StageConfig:
    [found] = [s for s in recipe.stages if s.kind == kind]
    return found
