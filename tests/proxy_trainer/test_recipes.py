"""Recipes from their file to a model, through real runs."""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from proxy_trainer import checkpoint, moments, retention, starts, steps
from proxy_trainer.data.batch import Batch
from proxy_trainer.members import Members
from proxy_trainer.optim import learning_rate
from proxy_trainer.stages import execute, ledger, tables
from proxy_trainer.stages.execute import Ended
from proxy_trainer.stages.resolve import resolve
from regmix.config import ModelConfig, TrainConfig
from regmix.errors import UserError
from regmix.layout import RunLayout
from regmix.records import read_events
from regmix.runs import Start
from regmix.sizes import plan, shape
from regmix.study import Study
from regmix.testing.launchers import until


@contextmanager
def unseen(*_: object) -> Iterator[Callable[[], None]]:
    yield lambda: None


def carried_out(path: Path) -> tuple[Path, list[Ended]]:
    ended: list[Ended] = []
    model = execute.execute(resolve(path), display=unseen, on_stage=ended.append)
    return model, ended


def losses(study: Study, run_id: str) -> list[float]:
    events = read_events(study.layout.run(run_id).events)
    return [e["loss"] for e in events if e["type"] == "step"]


@pytest.mark.slow
def test_from_the_recipe_to_a_model_that_answers(
    recipe: Callable[..., Path], study: Study, regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    path = recipe()
    command = regmix("run", path)
    output, errors = command.communicate(timeout=240)
    assert command.returncode == 0, errors
    result = json.loads((study.layout.recipes / "tiny" / "recipe.json").read_text())
    assert result["done"]
    assert [s["stage"] for s in result["stages"]] == ["pretrain", "midtrain", "sft"]
    pretrain, midtrain, sft = result["stages"]
    assert sft["metric"] == "mean chat"
    best = min(sft["runs"], key=lambda r: r["metrics"]["chat/answers"])
    assert sft["chosen"] == best["run_id"]
    assert sft["metrics"]["chat/answers"] < midtrain["metrics"]["chat/answers"]
    first, second = (losses(study, s["chosen"]) for s in (pretrain, midtrain))
    assert abs(second[0] - first[-1]) < 0.3 < first[0] - second[0], "midtrain began anew"

    folder = study.layout.recipes / "tiny" / "model"
    assert str(folder) in output
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = [{"role": "user", "content": "3 + 4?"}]
    ids = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        answer = model.generate(**ids, max_new_tokens=4, do_sample=False)
    assert answer.shape[1] > ids["input_ids"].shape[1]
    card = (folder / "README.md").read_text().replace("\\", "")
    for own in (pretrain, midtrain, sft):
        assert f"| {own['stage']} | {own['stage']} |" in card
        assert own["chosen"] in card
    read = [
        json.loads((study.layout.run(s["chosen"]).done).read_text())["domains"]
        for s in (pretrain, midtrain, sft)
    ]
    prose = [d for domains in read[:2] for d in domains if d["domain"] == "prose"]
    tokens, epochs = (sum(d[key] for d in prose) for key in ("tokens", "epochs"))
    assert f"| prose | {tokens:,} | {epochs:.3g} |" in card, "figures are not what was read"
    assert f"| chat/chat | {read[2][0]['tokens']:,} | {read[2][0]['epochs']:.3g} |" in card
    assert "| chat | 40 |" in card, "conversations are not told"
    assert "held-out tokens" not in card, "the pretraining shards are told for conversations"
    assert not list(folder.parent.glob(".model.tmp*"))

    stamps = {r.spec.run_id: r.stamp for r in study.runs()}
    again = regmix("run", path)
    assert again.wait(timeout=360) == 0
    assert {r.spec.run_id: r.stamp for r in study.runs()} == stamps, "trained again"
    assert re.search(r"chat/answers +\d", output)


@pytest.mark.slow
def test_data_orders_are_averaged_and_the_average_is_measured(
    recipe: Callable[..., Path], study: Study
) -> None:
    path = recipe(
        "mixture: mix.yaml}\n  - {name: sft", "mixture: mix.yaml, orders: 2}\n  - {name: sft"
    )
    _, (_, midtrain, sft) = carried_out(path)
    assert midtrain.chosen.spec.merge == tuple(t.spec.run_id for t in midtrain.tried)
    assert midtrain.chosen.metrics.keys() == midtrain.tried[0].metrics.keys()
    assert sft.tried[0].spec.start is not None
    assert sft.tried[0].spec.start.run == midtrain.chosen.spec.run_id
    parts = [
        AutoModelForCausalLM.from_pretrained(study.layout.run(t.spec.run_id).model).state_dict()
        for t in midtrain.tried
    ]
    merged = AutoModelForCausalLM.from_pretrained(
        study.layout.run(midtrain.chosen.spec.run_id).model
    ).state_dict()
    for name, tensor in merged.items():
        mean = torch.stack([p[name].double() for p in parts]).mean(0)
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_a_run_of_a_sweep_that_could_not_go_on_is_left_out_and_says_why(
    recipe: Callable[..., Path], study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gang failed; the others of the sweep have ended, and the best of them is chosen."""
    failed: list[str] = []

    def train(study: Study, ids: Sequence[str], *_: object, **__: object) -> dict[str, str]:
        lost, rest = (ids[:1], ids[1:]) if len(ids) > 1 else ([], ids)
        steps.train(study, rest)
        failed.extend(lost)
        return dict.fromkeys(lost, "node 1 was lost (4 attempts)")

    monkeypatch.setattr(steps, "train_sharded", train)
    path = recipe("seed: 3", "seed: 3\nparallel: {processes: 2}")
    _, (*_, sft) = carried_out(path)
    assert [t.spec.run_id for t in sft.tried if t.failure] == failed
    assert sft.tried[0].failure == "node 1 was lost (4 attempts)"
    assert sft.tried[0].metrics == {}
    assert sft.chosen == sft.tried[1]
    kept = json.loads((study.layout.recipes / "tiny" / "recipe.json").read_text())
    assert kept["done"]
    assert [r["failure"] for r in kept["stages"][-1]["runs"]] == [
        "node 1 was lost (4 attempts)",
        "",
    ]


def one_stage(recipe: Callable[..., Path], kind: str = "pretrain", **stage: Any) -> Path:
    """The recipe with its first stage alone, changed."""
    path = recipe()
    found = yaml.safe_load(path.read_text())
    train = {**found["stages"][0]["train"], "lr": 0.008}
    found["stages"] = [{**found["stages"][0], "name": kind, "kind": kind, "train": train, **stage}]
    path.write_text(yaml.safe_dump(found))
    return path


@pytest.mark.slow
def test_a_folder_a_run_and_a_checkpoint_can_be_started_from(
    recipe: Callable[..., Path], study: Study
) -> None:
    """The first loss is that of the model as it was then, wherever it was trained."""
    settings = study.config.launch.model_copy(update={"keep_every": 8, "keep_last": 1})
    path = one_stage(recipe)
    first: list[Ended] = []
    execute.execute(resolve(path), settings=settings, display=unseen, on_stage=first.append)
    own = first[0].chosen.spec
    run = study.layout.run(own.run_id)
    assert [step for step, _ in retention.found(run.checkpoints)] == [16, 8]
    begun = losses(study, own.run_id)

    _, again = carried_out(one_stage(recipe, start=str(run.model), seed=4))
    spec = again[0].chosen.spec
    assert spec.start is not None
    assert (study.layout.starts / spec.start.folder / "config.json").exists()
    from_folder = losses(study, spec.run_id)[0]
    assert from_folder < begun[0] - 0.4

    path = one_stage(recipe, "midtrain", start={"run": own.run_id})
    with pytest.raises(UserError, match=r"stages\.0\.start\.run: .*not there.*optimiser: fresh"):
        resolve(path)
    path = one_stage(recipe, start={"run": own.run_id})
    found = resolve(path)
    assert found.stages[0].variants[0].start == Start(run=own.run_id)
    assert (own.seed, found.stages[0].variants[0].seed) == (3, 4), "reads the same text again"
    again_by = one_stage(recipe, start={"run": own.run_id}, seed=3)
    with pytest.raises(
        UserError, match=rf"stages\.0\.seed: run {own.run_id}, .*by seed 3: the same"
    ):
        resolve(again_by)
    one_stage(recipe, start={"run": own.run_id})
    totals = ledger.totals(found.uses())
    assert totals == pytest.approx(
        {k: 2 * v for k, v in ledger.totals(first[0].stage.uses).items()}
    )
    _, fresh = carried_out(path)
    assert losses(study, fresh[0].chosen.spec.run_id)[0] == from_folder

    start = {"run": own.run_id, "step": 8}
    path = one_stage(recipe, "midtrain", start=start, parallel={"processes": 2}, evaluate=[])
    found = resolve(path)
    spec = found.stages[0].variants[0]
    assert spec.start == Start(run=own.run_id, step=8, optimiser=True)
    assert tables.plan(found)["from"].tolist() == [f"run {own.run_id}, step 8"]
    assert ledger.totals(found.uses()) == pytest.approx({k: 0.7 * v for k, v in totals.items()})
    text = path.read_text()
    path.write_text(text.replace("lr: 0.008", "eval_points: 1"))
    rate = resolve(path).stages[0].variants[0].plan.lr
    assert rate == learning_rate(own.plan, 7), "not the rate that the run stood at"
    path.write_text(text)
    weights = dict(starts.weights(study.layout, spec.start, spec.model.context))
    moments = starts.moments(study.layout, spec.start)
    assert moments is not None
    assert moments.step == 8
    kept = checkpoint.load(run.checkpoints)
    assert kept is not None
    assert not torch.equal(weights["lm_head.weight"], kept.tensors["model.lm_head.weight"])
    _, midtrain = carried_out(path)
    went_on = losses(study, midtrain[0].chosen.spec.run_id)
    assert from_folder < went_on[0] < begun[0] - 0.1, "not from the middle"
    kept = checkpoint.load(study.layout.run(midtrain[0].chosen.spec.run_id).checkpoints)
    assert kept is None, "kept without being asked to"


def test_a_model_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    """Weights and moments by way of files, in transformers' names: the same losses."""
    config = ModelConfig(
        size="50k", d_model=32, layers=2, heads=4, kv_heads=2, context=16, qk_norm=True
    )
    settings = TrainConfig(tokens=16 * 16 * 4, batch_tokens=64, schedule="constant")
    size = shape(config)
    settled = plan(settings, size)
    data = torch.randint(64, (16, 1, 4, 17), generator=torch.Generator().manual_seed(0))

    def begun() -> Members:
        return Members(size, 64, settled, [0], device=torch.device("cpu"), separator=0)

    def train(members: Members, steps: range) -> list[float]:
        return [float(members.step(t, Batch(data[t]), [1e-3]).loss_K) for t in steps]

    whole = begun()
    train(whole, range(8))
    whole.moments(0).save(tmp_path)
    weights = whole.array.member(0)
    rest = train(whole, range(8, 16))
    other = begun()
    other.begin(0, weights, moments.Moments.load(tmp_path))
    assert train(other, range(8, 16)) == rest
    fresh = begun()
    fresh.begin(0, weights, None)
    assert train(fresh, range(8, 16)) != rest


def stepped(run: RunLayout) -> dict[int, float]:
    """The loss of every step, later attempts replacing earlier ones."""
    events = read_events(run.events) if run.events.exists() else []
    return {e["step"]: e["loss"] for e in events if e["type"] == "step"}


def killed(command: subprocess.Popen[str], run: RunLayout) -> None:
    """Kill a command and what trains the run for it, in the midst of the run."""

    def underway() -> bool:
        assert command.poll() is None, command.communicate()
        return len(stepped(run)) > 10 and checkpoint.saved_step(run.checkpoints) > 5

    until(underway)
    own = [pid for pid in children(command.pid) if pid != command.pid]
    for pid in (command.pid, *own):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    command.wait()
    assert not run.done.exists(), "was too quick to be killed"


def children(pid: int) -> list[int]:
    """A process and all below it."""
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(own for child in below for own in children(int(child)))]


@pytest.mark.slow
def test_killed_and_gone_on_with_by_another_number_of_processes(
    recipe: Callable[..., Path], study: Study, regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    """Two processes in mid-training, then one; one in SFT, then two: what one comes to.

    Pretraining is sharded too: moments and weights go from stage to stage through files.
    """
    path = recipe()
    alone = path.read_text().replace("sweep: {lr: [0.001, 0.003]},", "")
    alone = alone.replace("tokens: 2560", "tokens: 30720").replace("epochs: 2", "epochs: 50")
    path.write_text(alone)
    _, expected = carried_out(path)
    for own in study.runs():
        own.layout.root.rename(study.layout.root / f"expected-{own.spec.run_id}")
    pretrain, midtrain, sft = (e.chosen.spec for e in expected)
    two = alone.replace("seed: 3", "seed: 3\nparallel: {processes: 2}")

    path.write_text(two)
    killed(regmix("run", path), study.layout.run(midtrain.run_id))
    path.write_text(alone)
    killed(regmix("run", path), study.layout.run(sft.run_id))
    path.write_text(two)
    last = regmix("run", path)
    _, errors = last.communicate(timeout=240)
    assert last.returncode == 0, errors

    for spec, begins, by in ((pretrain, 1, 2), (midtrain, 2, 1), (sft, 2, 2)):
        run = study.layout.run(spec.run_id)
        before = RunLayout(study.layout.root / f"expected-{spec.run_id}")
        started = [e for e in read_events(run.events) if e["type"] == "start"]
        assert len(started) == begins
        assert started[0]["step"] == 0
        assert all(e["step"] > 0 for e in started[1:]), "began anew"
        assert started[-1]["environment"].get("processes", 1) == by
        assert stepped(run) == pytest.approx(stepped(before), abs=1e-5, rel=0)
        ours, theirs = (json.loads(r.done.read_text())["metrics"] for r in (run, before))
        assert ours == pytest.approx(theirs, rel=1e-5)


ANNEAL_AND_MERGE = """\
  - {name: midtrain, kind: midtrain, train: {tokens: 2560, batch_tokens: 256, eval_bytes: 1000},
     mixture: mix.yaml, microanneal: {source: code}}
  - {name: sft, kind: sft, train: {batch_tokens: 256, eval_bytes: 1000, lr: 0.003},
     sweep: {seed: [1, 2]}, keep: merge,
     data: {sources: [{name: chat, files: [chat.jsonl], epochs: 2}]}}
  - {name: again, kind: midtrain, optimiser: fresh, mixture: mix.yaml,
     train: {tokens: 512, batch_tokens: 256, eval_bytes: 1000, lr: 0.001}}
"""


@pytest.mark.slow
def test_a_source_is_judged_seeds_are_merged_and_a_chat_model_stays_one(
    recipe: Callable[..., Path], study: Study, regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    path = recipe()
    head, _ = path.read_text().split("  - {name: midtrain")
    path.write_text(head + ANNEAL_AND_MERGE)
    folder, (_, midtrain, sft, again) = carried_out(path)
    spec, base = midtrain.tried
    assert spec.spec.mixture.as_dict()["code"] == pytest.approx(0.6)
    assert base.spec.mixture.as_dict()["code"] == 0.2
    judged = tables.source(midtrain).set_index("metric")["difference"]
    for name in ("bpb/code", "bpb/prose", "chat/answers"):
        assert judged[name] == pytest.approx(spec.metrics[name] - base.metrics[name], abs=1e-4)
    assert judged["bpb/code"] < 0 < judged["bpb/prose"]
    assert midtrain.value(midtrain.chosen) == min(midtrain.value(t) for t in midtrain.tried)
    kept = json.loads((study.layout.recipes / "tiny" / "recipe.json").read_text())
    read = {u["source"]: u["tokens"] for u in kept["uses"] if u["stage"] == "midtrain"}
    weights = midtrain.chosen.spec.mixture.as_dict()
    assert read == pytest.approx({d: w * spec.spec.tokens for d, w in weights.items()})

    values = [sft.value(t) for t in sft.tried]
    assert sft.spread == pytest.approx(statistics.stdev(values))
    assert len(set(values)) == 2
    parts = [study.layout.run(t.spec.run_id).model for t in sft.tried]
    assert sft.chosen.spec.merge == tuple(t.spec.run_id for t in sft.tried)
    out = study.layout.root.parent / "merged"
    merge = regmix("merge", *parts, "-o", out)
    _, errors = merge.communicate(timeout=120)
    assert merge.returncode == 0, errors
    merged = study.layout.run(sft.chosen.spec.run_id).model
    one, two = (load_file(f / "model.safetensors") for f in (merged, out))
    assert all(torch.equal(one[name], two[name]) for name in one)
    card = (merged / "README.md").read_text().replace("\\", "")
    assert "| chat | 40 |" in card
    assert "| transformers |" in card

    assert again.tried[0].spec.start is not None
    assert again.tried[0].spec.start.run == sft.chosen.spec.run_id
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = [{"role": "user", "content": "3 + 4?"}]
    text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    assert text.endswith("<|assistant|>\n")
    told = (folder / "README.md").read_text().replace("\\", "")
    assert "| domain | pretrain | midtrain | again |" in told
    assert "| prose | 50.0000% |" in told


FAMILY = {
    "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "hidden_act": "silu",
    "initializer_range": 0.02, "vocab_size": 512, "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "attention_bias": False,
}  # fmt: skip
OLMO2 = {**FAMILY, "model_type": "olmo2", "num_hidden_layers": 1}
QWEN3 = {**FAMILY, "model_type": "qwen3", "num_hidden_layers": 1, "head_dim": 8}
OLMO3 = {
    **FAMILY, "model_type": "olmo3", "num_hidden_layers": 2, "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": dict.fromkeys(
        ("sliding_attention", "full_attention"), FAMILY["rope_parameters"]
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "name"),
    [(QWEN3, "Qwen3ForCausalLM"), (OLMO3, "Olmo3ForCausalLM")],
    ids=["qwen3", "olmo3"],
)
def test_a_family_of_transformers_goes_through_all_stages(
    config: dict[str, Any], name: str, recipe: Callable[..., Path], study: Study
) -> None:
    (study.layout.root.parent / "config.json").write_text(json.dumps(config))
    path = recipe(
        "model: {size: 50k, d_model: 16, layers: 1, heads: 2, context: 64}",
        "transformers: config.json",
    )
    path.write_text(path.read_text().replace("mixture: mix.yaml}", "mixture: mix.yaml, orders: 2}"))
    folder, ended = carried_out(path)
    assert type(AutoModelForCausalLM.from_pretrained(folder)).__name__ == name
    assert len(ended[1].chosen.spec.merge) == 2
    assert ended[2].chosen.metrics["chat/answers"] < ended[1].chosen.metrics["chat/answers"]


@pytest.mark.slow
def test_the_commands_say_what_they_will_do_and_what_is_wrong(
    recipe: Callable[..., Path], study: Study, regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    check = regmix("run", recipe(), "--check")
    output, errors = check.communicate(timeout=60)
    assert check.returncode == 0, errors
    assert re.search(r"^sft +sft +the stage before +fresh +2 ", output, re.MULTILINE)
    assert "nothing was trained" in output
    bad = regmix("run", recipe("seed: 3", "seed: 3\nmax_epochs: 0.01"), "--check")
    _, errors = bad.communicate(timeout=60)
    assert bad.returncode == 2
    assert "max_epochs is 0.01, short by" in errors
    assert "Traceback" not in errors
    assert study.runs() == []
    out = study.layout.root.parent / "merged"
    merge = regmix("merge", study.layout.root / "nowhere", "-o", out, "--weights", "1,x")
    _, errors = merge.communicate(timeout=60)
    assert merge.returncode == 2
    assert "--weights 1,x: numbers with commas between are needed" in errors


@pytest.mark.slow
def test_commands_that_end_together_leave_one_whole_model(
    recipe: Callable[..., Path], study: Study
) -> None:
    path = one_stage(recipe)
    _, ended = carried_out(path)
    model = study.layout.run(ended[0].chosen.spec.run_id).model
    for i in range(20):
        (model / f"part-{i}").write_text("some more to put there")
    found = resolve(path)
    with ThreadPoolExecutor(4) as pool:
        [target] = set(pool.map(lambda _: execute._final(found, ended), range(24)))
    assert {p.name for p in target.iterdir()} == {p.name for p in model.iterdir()}
    kept = {p.name for p in target.parent.iterdir()}
    assert "model" in kept
    assert not [name for name in kept if name.startswith(".model")]


def test_what_is_planned_is_written_before_anything_trains(
    recipe: Callable[..., Path], study: Study
) -> None:
    def stopped(*_: object) -> Any:
        raise KeyboardInterrupt

    found = resolve(recipe())
    with pytest.raises(KeyboardInterrupt):
        execute.execute(found, display=stopped, on_stage=lambda _: None)
    kept = json.loads((study.layout.recipes / "tiny" / "recipe.json").read_text())
    assert kept["stages"] == []
    assert not kept["done"]
    assert {u["stage"] for u in kept["uses"]} == {"pretrain", "midtrain", "sft"}
    prose = [u["epochs"] for u in kept["uses"] if u["source"] == "prose"]
    assert len(prose) == 2
    assert sum(prose) == pytest.approx(kept["epochs"]["prose"])


QUESTIONS = """\
tasks:
  - {name: sums, files: [questions.jsonl], question: "{question}"}
"""


@pytest.mark.slow
def test_models_are_asked_after_every_stage_and_their_average_too(
    recipe: Callable[..., Path], study: Study
) -> None:
    root = study.layout.root
    rows = [
        {"question": f"{a} + {b} =", "choices": [str(a + b), str(a - b)], "answer": 0}
        for a in range(3, 7)
        for b in (1, 2)
    ]
    (root / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "tasks.yaml").write_text(QUESTIONS)
    with study.layout.config.open("a") as stream:
        stream.write("evaluate: {tasks: [tasks.yaml]}\n")
    steps.build_data(Study.open(root))
    path = recipe(
        "mixture: mix.yaml}\n  - {name: sft",
        "mixture: mix.yaml, orders: 2, metric: sums/bpb}\n  - {name: sft",
    )
    _, ended = carried_out(path)
    midtrain = ended[1]
    assert midtrain.metric == "sums/bpb"
    assert midtrain.chosen not in midtrain.tried
    _, measured, _ = study.store.measured()
    average = measured.loc[midtrain.chosen.spec.run_id]
    assert average[["sums/bpb", "bpb/prose"]].gt(0).all(), "asked, and measured on the domains"
    values = [midtrain.value(t) for t in (*midtrain.tried, midtrain.chosen)]
    assert len(set(values)) == 3
    assert all(0 < v < 100 for v in values)
    shown = tables.metrics(ended).set_index("metric")
    assert shown.loc["sums/acc"].between(0, 1).all()
    assert not [name for name in shown.index if name.count("/") > 1]
