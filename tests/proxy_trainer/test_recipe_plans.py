"""Recipes are planned as they are written, or refused with the place and the numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from proxy_trainer.data import build
from proxy_trainer.data.chat.template import PLAIN
from proxy_trainer.optim import learning_rate
from proxy_trainer.stages import execute, ledger, tables
from proxy_trainer.stages.execute import Ended, Tried
from proxy_trainer.stages.ledger import Use
from proxy_trainer.stages.resolve import resolve
from regmix.config import LaunchConfig
from regmix.errors import UserError
from regmix.runs import RunSpec, Start
from regmix.study import Study

WEIGHTS = {"prose": 0.5, "sums": 0.3, "code": 0.2}


def test_stages_are_what_they_say(recipe: Callable[..., Path], study: Study) -> None:
    found = resolve(recipe())
    assert found.study.layout == study.layout
    pretrain, midtrain, sft = found.stages
    [first] = pretrain.variants
    assert first.mixture.as_dict() == WEIGHTS
    assert (first.role, first.name, first.keep_model, first.keep_state) == (
        "stage", "tiny-pretrain", True, True,
    )  # fmt: skip
    assert (first.plan.steps, first.plan.batch, first.model.context) == (20, 4, 64)
    assert not pretrain.goes_on
    [second] = midtrain.variants
    assert (midtrain.goes_on, midtrain.optimiser, second.keep_state) == (True, True, False)
    assert second.plan.schedule == "linear"
    assert second.plan.lr == learning_rate(first.plan, first.plan.steps - 1) > 0
    assert learning_rate(second.plan, second.plan.steps - 1) == 0
    assert second.seed != first.seed
    assert [v.plan.lr for v in sft.variants] == [1e-3, 3e-3]
    assert (sft.goes_on, sft.optimiser) == (True, False)
    assert all(v.chat and v.held_out for v in sft.variants)
    assert sft.variants[0].mixture.domains == ("chat",)


def test_runs_go_on_from_what_the_stage_before_came_to(recipe: Callable[..., Path]) -> None:
    stages = resolve(recipe()).stages
    start = Start(run="0123456789ab", optimiser=True)
    assert [s.start for s in stages[0].runs(start)] == [None]
    assert [s.start for s in stages[1].runs(start)] == [start]
    other = Start(run="ba9876543210", optimiser=True)
    assert stages[1].runs(start)[0].run_id != stages[1].runs(other)[0].run_id


def test_a_run_specification_of_a_stage_is_read_as_it_was_written(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    spec = resolve(recipe()).stages[2].runs(Start(run="0123456789ab"))[0]
    path = tmp_path / spec.run_id / "spec.yaml"
    spec.save(path)
    assert RunSpec.load(path) == spec


def test_a_micro_anneal_is_half_of_the_source(recipe: Callable[..., Path]) -> None:
    path = recipe("mixture: mix.yaml}", "mixture: mix.yaml, microanneal: {source: code}}")
    stage = resolve(path).stages[1]
    spec, base = stage.variants
    assert spec.mixture.as_dict() == pytest.approx({"prose": 0.25, "sums": 0.15, "code": 0.6})
    assert base.mixture.as_dict() == WEIGHTS
    assert (base.seed, base.plan) == (spec.seed, spec.plan)

    def tried(spec: RunSpec, code: float) -> Tried:
        return Tried(spec, {"bpb/code": code, "bpb/prose": 2.0})

    ended = Ended(stage, (tried(base, 1.5), tried(spec, 1.25)), "mean bpb", tried(spec, 1.25))
    shown = tables.source(ended).set_index("metric")
    assert list(shown.loc["bpb/code"])[:3] == [1.25, 1.5, -0.25]
    assert list(shown.loc["bpb/prose"])[:3] == [2.0, 2.0, 0.0]


def test_a_decay_of_no_steps_is_none(recipe: Callable[..., Path]) -> None:
    """WSD that stops at its peak: what mid-training then goes on from."""
    path = recipe("lr: 0.005, ", "lr: 0.005, schedule: wsd, decay_share: 0.0, ")
    pretrain, midtrain, _ = resolve(path).stages
    plan = pretrain.variants[0].plan
    assert learning_rate(plan, plan.steps - 1) == 0.005 == midtrain.variants[0].plan.lr


def test_a_stage_is_spread_and_asked_as_it_says(recipe: Callable[..., Path]) -> None:
    path = recipe("seed: 3", "seed: 3\nparallel: {processes: 2}")
    written = path.read_text()
    path.write_text(written.replace("kind: sft,", "kind: sft, parallel: {nodes: 4, rows: 1},"))
    assert [s.world for s in resolve(path).stages] == [2, 2, 4]
    path.write_text(written.replace("kind: sft,", "kind: sft, parallel: {nodes: 3},"))
    with pytest.raises(UserError, match="4 sequences cannot be divided among 3 processes"):
        resolve(path)
    path.write_text(written.replace("kind: sft,", "kind: sft, evaluate: [mmlu],"))
    with pytest.raises(UserError, match=r"stages\.2\.evaluate: unknown task 'mmlu'"):
        resolve(path)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("{run: nobody}", r"stages\.0\.start\.run: unknown run 'nobody'"),
        ("{run: %s}", r"start\.run: run %s has left no model, .*`step` starts from"),
        ("{run: %s, step: 5}", r"start\.step: run %s has no checkpoint of step 5 .*it has none"),
    ],
)
def test_a_run_that_cannot_be_started_from_is_refused(
    recipe: Callable[..., Path], study: Study, start: str, message: str
) -> None:
    spec = study.propose().specs[0]
    study.add_run(spec)
    start, message = (text.replace("%s", spec.run_id) for text in (start, message))
    with pytest.raises(UserError, match=message):
        resolve(recipe("kind: pretrain, ", f"kind: pretrain, start: {start}, "))


def test_words_that_no_token_has_are_kept(recipe: Callable[..., Path], study: Study) -> None:
    """Embeddings of published models have rows beyond the tokenizer's words."""
    assert study.manifest is not None
    rows = study.manifest.vocab_size + 24
    folder = study.layout.root.parent / "padded"
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
            intermediate_size=48, max_position_embeddings=64, vocab_size=rows,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    shutil.copyfile(study.layout.tokenizer, folder / "tokenizer.json")
    path = recipe(
        "model: {size: 50k, d_model: 16, layers: 1, heads: 2, context: 64}", "context: 32"
    )
    path.write_text(path.read_text().replace("kind: pretrain, ", "kind: pretrain, start: padded, "))
    found = resolve(path)
    assert {v.vocab_size for s in found.stages for v in s.variants} == {rows}
    assert (found.shape.d_model, found.shape.context) == (16, 32)
    assert tables.plan(found)["from"].tolist()[:2] == ["padded", "the stage before"]
    path.write_text(path.read_text().replace("context: 32", "model: {size: 1m, context: 32}"))
    with pytest.raises(UserError, match=r"stages\.0\.start: not the recipe's .*hidden_size 16"):
        resolve(path)
    (folder / "model.safetensors").unlink()
    tensors = {n: t for n, t in model.state_dict().items() if "o_proj" not in n}
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"padded: not the tensors .*o_proj.*missing"):
        resolve(path)


def test_data_orders_differ_in_their_seed_alone(recipe: Callable[..., Path]) -> None:
    stage = resolve(recipe("mixture: mix.yaml}", "mixture: mix.yaml, orders: 3}")).stages[1]
    assert len({v.seed for v in stage.variants}) == 3
    assert len({(v.plan, v.mixture) for v in stage.variants}) == 1


def test_epochs_add_up_over_stages_and_a_cap_has_its_numbers(
    recipe: Callable[..., Path], study: Study
) -> None:
    assert study.manifest is not None
    available = study.manifest.domain("code").train.tokens
    found = resolve(recipe())
    each = [0.2 * s.variants[0].tokens / available for s in found.stages[:2]]
    assert ledger.totals(found.uses())["code"] == pytest.approx(sum(each))
    assert ledger.totals(found.uses())["chat/chat"] == 2
    shown = tables.epochs(found).set_index("epochs of")
    assert shown.loc["code", "all stages"] == pytest.approx(sum(each), abs=1e-3)
    with pytest.raises(UserError) as caught:
        resolve(recipe("seed: 3", "seed: 3\nmax_epochs: 1.5"))
    assert "'chat/chat' would be read 2.00 times (2.00 in 'sft')" in str(caught.value)
    assert "max_epochs is 1.5, short by" in str(caught.value)


def test_a_stage_from_scratch_begins_the_count_anew() -> None:
    uses = [Use("a", "code", 30, 10), Use("b", "code", 5, 10)]
    ledger.check(uses, 3.5, "recipe")
    with pytest.raises(
        UserError, match=r"3\.50 times \(3\.00 in 'a' \+ 0\.50 in 'b'\).*short by 5 "
    ):
        ledger.check(uses, 3.0, "recipe")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: midtrain", "kind: midtrian", r"kind: unknown value 'midtrian'.*midtrain"),
        ("seed: 3", "sed: 3", r"recipe\.yaml:4: sed: unknown key 'sed'; did you mean 'seed'"),
        ("name: midtrain,", "name: pretrain,", "stage 'pretrain' is named twice"),
        ("kind: midtrain, ", "kind: midtrain, start: scratch, ", "midtrain goes on from a model"),
        ("kind: pretrain, ", "kind: pretrain, start: previous, ", "no stage is before the first"),
        ("kind: pretrain, ", "kind: pretrain, orders: 2, ", "what starts from scratch cannot be"),
        ("kind: pretrain, ", "kind: pretrain, optimiser: keep, ", "there is none to keep"),
        ("kind: pretrain, ", "kind: pretrain, start: nowhere, ", "'nowhere' is neither"),
        ("mixture: mix.yaml}", "microanneal: {source: code}}", "midtrain needs mixture"),
        (
            "mixture: mix.yaml}", "mixture: mix.yaml, microanneal: {source: cod}}",
            r"stages\.1\.microanneal\.source: unknown domain 'cod'; did you mean 'code'",
        ),
        ("lr: [0.001, 0.003]", "lr: [0.001, 0.001]", "names a value twice"),
        ("model: {", "transformers: config.json\nmodel: {", "give 'model' or 'transformers'"),
        ("{name: chat,", "{name: chat, weight: 1.0,", "give every source a 'weight', or every"),
        ("seed: 3", "seed: 3\nparallel: {processes: 3}", "cannot be divided among 3 processes"),
        ("lr: 0.005, ", "lr: 0.005, min_lr_ratio: 0.0, ", "ends at a learning rate of 0"),
        (
            "batch_tokens: 256, lr: 0.005, eval_bytes: 1000}}",
            "batch_tokens: 256, eval_bytes: 1000}, sweep: {lr: [0.01, 0.02]}}",
            r"stages\.1\.train\.lr: the runs of stage 'pretrain' end at .*\(0\.001, 0\.002\)",
        ),
        (
            "mixture: mix.yaml}", "mixture: mix.yaml, orders: 2, sweep: {lr: [0.1, 0.2]}}",
            "orders averages all runs of the stage, and sweep.lr makes others",
        ),
        (
            "mixture: mix.yaml}", "mixture: mix.yaml, keep: merge, microanneal: {source: code}}",
            "keep: merge averages all runs of the stage, and microanneal makes others",
        ),
        (
            "mixture: mix.yaml}", "mixture: mix.yaml, metric: bpb/cod}",
            r"stages\.1\.metric: unknown metric 'bpb/cod'; did you mean 'bpb/code'",
        ),
        ("seed: 3", "seed: 3\nparallel: {hybrid: true}", "replicates over nodes, and there is 1"),
        ("seed: 3", "seed: 3\ncontext: 32", "here it is `model.context`"),
        ("lr: 0.005, ", "lr: 0.005, repetition: match, ", "train.repetition is for proxies"),
        ("sft, train: {", "sft, train: {lr: 0.1, ", "stage 'sft': sweep.lr and train.lr: give one"),
        (
            "mixture: mix.yaml}", "mixture: mix.yaml, seed: 1, sweep: {seed: [1, 2]}}",
            "stage 'midtrain': sweep.seed and seed: give one of them",
        ),
        ("sft, train: {", "sft, train: {lr_mode: tiny, ", "train.lr_mode is for models from scr"),
        ("[answers.jsonl]}", "[answers.jsonl], epochs: 1}", "epochs: unknown key 'epochs'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_trained(
    recipe: Callable[..., Path], study: Study, old: str, new: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        resolve(recipe(old, new))
    assert study.runs() == []


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"prose": 0.5, "sums": 0.3, "programs": 0.2}, "unknown domain 'programs'"),
        ({"prose": 0.5, "sums": 0.5}, "no weight for 'code'"),
        ({"prose": 0.5, "sums": 0.5, "code": 0.2}, "weights sum to 1.2, not 1"),
        ({"prose": 1.5, "sums": -0.5, "code": 0.0}, "weight of 'sums' is -0.5"),
    ],
)
def test_a_mixture_that_does_not_fit_is_refused(
    recipe: Callable[..., Path], weights: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=rf"mix\.yaml: .*{message}"):
        resolve(recipe(weights=weights))


def test_an_average_has_no_optimiser_to_go_on(recipe: Callable[..., Path]) -> None:
    again = "\n  - {name: again, kind: midtrain, mixture: mix.yaml}\n  - {name: sft,"
    path = recipe("mixture: mix.yaml}\n  - {name: sft,", f"mixture: mix.yaml, orders: 2}}{again}")
    with pytest.raises(UserError, match=r"'midtrain' ends in an average of runs.*optimiser: fresh"):
        resolve(path)


def test_one_text_under_two_names_is_counted_once_and_two_under_one_apart() -> None:
    uses = [
        Use("a", "chat/talk", 20, 10, parts=("x",)),
        Use("b", "chat/more", 15, 10, parts=("x",)),
        Use("b", "chat/talk", 5, 10, parts=("y",)),
    ]
    assert ledger.totals(uses) == {"chat/talk = chat/more": 3.5, "chat/talk": 0.5}
    again = [uses[0], Use("b", "chat/talk", 5, 10, parts=("y",))]
    assert ledger.totals(again) == {"chat/talk": 2.0, "chat/talk of 'b'": 0.5}
    with pytest.raises(UserError, match=r"'chat/talk = chat/more' would be read 3\.50 times"):
        ledger.check(uses, 3.0, "recipe")


def test_a_file_that_is_a_part_of_two_sources_is_counted_in_both() -> None:
    uses = [
        Use("a", "chat/talk", 30, 10, parts=("x",)),
        Use("b", "chat/all", 60, 20, parts=("x", "y")),
    ]
    ledger.check(uses, 6.0, "recipe")
    with pytest.raises(
        UserError, match=r"'chat/talk = chat/all' would be read 6\.00 times \(3\.00"
    ):
        ledger.check(uses, 4.0, "recipe")


@given(st.integers(1, 10**6), st.floats(0.1, 16), st.integers(1, 10**9))
def test_a_mixture_on_its_cap_is_within_it(available: int, cap: float, budget: int) -> None:
    weight = cap * available / budget  # as the space puts it
    ledger.check([Use("a", "code", weight * budget, available)], cap, "recipe")


def test_a_micro_anneals_base_is_within_the_cap_too_and_counted_where_it_is_chosen(
    recipe: Callable[..., Path], study: Study
) -> None:
    assert study.manifest is not None
    anneal = ("mixture: mix.yaml}", "mixture: mix.yaml, microanneal: {source: code}}")
    found = resolve(recipe(*anneal))
    spec, base = found.stages[1].variants
    prose = study.manifest.domain("prose").train.tokens
    first = 0.5 * found.stages[0].variants[0].tokens / prose
    for chosen, share in ((spec, 0.25), (base, 0.5)):
        uses = found.uses([found.stages[0].variants[0], chosen])
        assert ledger.totals(uses)["prose"] == pytest.approx(first + share * spec.tokens / prose)
    path = recipe(*anneal)
    between = first + 0.4 * spec.tokens / prose
    path.write_text(path.read_text().replace("seed: 3", f"seed: 3\nmax_epochs: {between}"))
    with pytest.raises(UserError, match=r"'(prose|chat/chat)' would be read"):
        resolve(path)


def test_what_is_read_of_conversations_and_lost_is_shown(recipe: Callable[..., Path]) -> None:
    shown = tables.conversations(resolve(recipe())).set_index("conversations")
    assert list(shown["for"]) == ["sft", "held out"]
    assert list(shown["kept"]) == [40, 10]
    assert (shown["too long, dropped"] == 0).all()
    assert set(shown["template"]) == {"plain.jinja"}
    path = recipe("context: 64", "context: 28")
    path.write_text(path.read_text().replace("files: [answers", "files: [one"))
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "1"}]
    (path.parent / "one.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    short = resolve(path)
    lost = tables.conversations(short).set_index("conversations").loc["chat"]
    assert lost["kept"] + lost["too long, dropped"] == 40
    assert lost["too long, dropped"] > 0


def test_a_template_whose_turns_end_in_words_is_told(
    recipe: Callable[..., Path], study: Study
) -> None:
    assert tables.notes(resolve(recipe())) == []
    template = PLAIN.read_text("utf-8").replace("eos_token", "' (end)'")
    (study.layout.root.parent / "words.jinja").write_text(template)
    [note] = tables.notes(resolve(recipe("epochs: 2}]}", "epochs: 2}], template: words.jinja}")))
    assert "stage 'sft': words.jinja ends the assistant's turns with no token of its own" in note


def test_what_is_measured_on_is_not_trained_on(recipe: Callable[..., Path], study: Study) -> None:
    path = recipe("files: [answers.jsonl]", "files: [chat.jsonl]")
    with pytest.raises(UserError, match=r"data\.sources: 'chat' holds 40 of the 40 conversations"):
        resolve(path)
    answers = study.layout.root.parent / "answers.jsonl"
    with (answers.parent / "chat.jsonl").open("a") as stream:
        stream.write(answers.read_text().splitlines()[3] + "\n")
    with pytest.raises(
        UserError, match=r"'chat' holds \d of the 10 conversations of held_out 'answers'"
    ):
        resolve(recipe())


def test_the_tokenizers_own_template_is_used(recipe: Callable[..., Path], study: Study) -> None:
    """It lies beside the study's tokenizer, where the data build puts it."""
    own = study.layout.root.parent / "own"
    own.mkdir()
    shutil.copyfile(study.layout.tokenizer, own / "tokenizer.json")
    shutil.copyfile(PLAIN, own / "chat_template.jinja")
    config = study.layout.config
    config.write_text(
        config.read_text().replace("{vocab_size: 512}", "{path: ../own/tokenizer.json}")
    )
    changed = Study.open(study.layout.root)
    build.build(changed.layout, changed.config)
    found = resolve(recipe())
    assert found.held_out is not None
    assert found.held_out.template == str(study.layout.tokens / "chat_template.jinja")
    (own / "chat_template.jinja").unlink()
    build.build(changed.layout, changed.config)
    assert set(tables.conversations(resolve(recipe()))["template"]) == {"plain.jinja"}


def test_what_the_launcher_cannot_start_is_said_by_a_check(
    recipe: Callable[..., Path], study: Study
) -> None:
    path = recipe("seed: 3", "seed: 3\nparallel: {processes: 2, nodes: 2}")
    with pytest.raises(UserError, match="node"):
        execute.check(resolve(path))
    execute.check(resolve(recipe("seed: 3", "seed: 3\nparallel: {processes: 2}")))
    execute.check(resolve(recipe()))
    with pytest.raises(UserError, match=r"launch\.launcher: unknown launcher 'slrum'"):
        execute.check(resolve(recipe()), LaunchConfig().model_copy(update={"launcher": "slrum"}))
    assert study.runs() == []
