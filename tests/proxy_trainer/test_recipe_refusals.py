"""`regmix run --check`: what is wrong with a recipe is said before any device is used."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from proxy_trainer.data import tokenizer as tokenizers
from regmix.cli import main
from regmix.study import Study

Recipe = Callable[..., Path]
Case = Callable[[Recipe, Study], Path]
START = ("kind: pretrain, ", "kind: pretrain, start: theirs, ")


def unknown_domain(recipe: Recipe, _: Study) -> Path:
    return recipe(weights={"prose": 0.5, "sums": 0.3, "programs": 0.2})


def missing_domain(recipe: Recipe, _: Study) -> Path:
    return recipe(weights={"prose": 0.5, "sums": 0.5})


def too_often(recipe: Recipe, _: Study) -> Path:
    return recipe("seed: 3", "seed: 3\nmax_epochs: 0.5")


def other_tokenizer(recipe: Recipe, study: Study) -> Path:
    words = tokenizers.train_bpe((f"say word{i}" for i in range(99)), 300)
    tokenizers.save(words, theirs(study, 16) / "tokenizer.json")
    return recipe(*START)


def other_architecture(recipe: Recipe, study: Study) -> Path:
    theirs(study, 32)
    return recipe(*START)


def no_assistant(recipe: Recipe, study: Study) -> Path:
    row = {"messages": [{"role": "user", "content": "3 + 4?"}]}
    path = recipe()
    (study.layout.root.parent / "chat.jsonl").write_text(json.dumps(row) + "\n")
    return path


def no_generation_marks(recipe: Recipe, study: Study) -> Path:
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
    (study.layout.root.parent / "bare.jinja").write_text(template)
    return recipe("epochs: 2}]}", "epochs: 2}], template: bare.jinja}")


def uneven_world(recipe: Recipe, _: Study) -> Path:
    return recipe("seed: 3", "seed: 3\nparallel: {processes: 3}")


def theirs(study: Study, width: int) -> Path:
    """A model's folder beside the recipe, with the study's tokenizer."""
    assert study.manifest is not None
    folder = study.layout.root.parent / "theirs"
    LlamaForCausalLM(
        LlamaConfig(
            hidden_size=width, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
            intermediate_size=48, max_position_embeddings=64,
            vocab_size=study.manifest.vocab_size,
        )
    ).save_pretrained(folder)  # fmt: skip
    shutil.copyfile(study.layout.tokenizer, folder / "tokenizer.json")
    return folder


@pytest.mark.parametrize(
    ("make", "where", "what"),
    [
        (unknown_domain, "mix.yaml", "unknown domain 'programs'"),
        (missing_domain, "mix.yaml", "no weight for 'code'"),
        (too_often, "recipe.yaml", "max_epochs is 0.5, short by"),
        (other_tokenizer, "theirs", "tokenizer"),
        (other_architecture, "stages.0.start", "hidden_size 32"),
        (no_assistant, "chat.jsonl", "assistant"),
        (no_generation_marks, "bare.jinja", "{% generation %}"),
        (uneven_world, "stages.0.train.batch_tokens", "cannot be divided among 3 processes"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_check_says_where_and_what(
    make: Case, where: str, what: str, recipe: Recipe, study: Study,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = make(recipe, study)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["regmix", "run", str(path), "--check"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert where in said
    assert what in said
    assert "Traceback" not in said
    assert study.runs() == []
