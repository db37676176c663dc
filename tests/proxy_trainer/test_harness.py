"""lm-evaluation-harness on our models finds what its own model does on the exported folder."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.evals import afterwards, kept_tasks, kinds
from proxy_trainer.evals.harness import SHIPPED, Harness
from proxy_trainer.evals.harness_lm import MemberLM, Together, side_by_side
from proxy_trainer.evals.models import Models
from proxy_trainer.evals.multiple_choice import MultipleChoice
from proxy_trainer.evals.results import Result
from proxy_trainer.evals.texts import Texts
from proxy_trainer.models import hf
from proxy_trainer.models.array import ModelArray
from regmix.config import EvaluateConfig, ModelConfig
from regmix.errors import RegmixError, UserError
from regmix.layout import StudyLayout
from regmix.sizes import shape
from regmix.tasks import ChoiceTask, HarnessTask, TextCollection, taken_in

pytestmark = pytest.mark.filterwarnings("default")  # the harness's own are not ours to mend
WORDS = "the sum of two numbers is even where both are odd or none is and one may be prime".split()
SUBJECTS = ("anatomy", "world_religions")
CONTEXT = 600


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)

    def text(least: int, most: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(least, most)))

    return [
        {
            "subject": SUBJECTS[i % 2],
            "question": text(2, 12),
            "choices": [text(1, 6) + f" {n}" for n in range(4)],
            "answer": int(rng.integers(4)),
        }
        for i in range(count)
    ]


def write_rows(path: Path, content: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))


@pytest.fixture(autouse=True)
def no_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness's own evaluations fork for their bootstrap, which torch's threads may stall."""
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions, texts, tasks of two subjects, and a tokenizer."""
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "test.jsonl", rows(14, 1))
    write_rows(folder / "dev.jsonl", rows(10, 2))
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(WORDS, rng.integers(3, 60))) for _ in range(9)]
    write_rows(folder / "valid.jsonl", [{"text": f"«{text}»"} for text in texts])
    found = (SHIPPED / "mmlu_rc.yaml").read_text()
    head, _, tasks = found.partition("\ntask:\n")
    kept = [line for line in tasks.splitlines() if line.split("task: ")[1].startswith(SUBJECTS)]
    head = head.replace("mmlu_test.jsonl.zst", "test.jsonl").replace("group: mmlu_rc", "group: few")
    head = head.replace("mmlu_dev.jsonl.zst", "dev.jsonl")
    (folder / "include").mkdir()
    (folder / "include" / "few.yaml").write_text(head + "\ntask:\n" + "\n".join(kept) + "\n")
    shutil.copy(SHIPPED / "mmlu_rc.py", folder / "include")
    for row in rows(10, 2):
        WORDS_SEEN.append(f"Question: {row['question']}\nAnswer: {row['choices'][0]}\n\n")
    tokenizers.save(tokenizers.train_bpe(iter(WORDS_SEEN), 320), folder / "tokenizer.json")
    return folder


WORDS_SEEN: list[str] = []


@pytest.fixture(scope="module")
def few(data: Path) -> Harness:
    described = HarnessTask(
        kind="lm-eval", name="own", task="few", include="include", data=str(data)
    )
    return Harness.read(described, data)


@pytest.fixture(scope="module")
def array() -> ModelArray:
    config = ModelConfig(size="50k", d_model=32, layers=2, heads=4, context=CONTEXT)
    made = ModelArray.initialised(shape(config), 320, range(3))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.shape[1] > 1:
                parameter *= 8  # far from uniform predictions
    return made


@pytest.fixture(scope="module")
def folders(array: ModelArray, data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    for member in range(array.members):
        hf.save(array.member(member), array.shape, root / f"{member}", data / "tokenizer.json", 0)
    return [root / f"{member}" for member in range(array.members)]


def together(array: ModelArray, data: Path) -> Models:
    return Models.of_array(array, tokenizers.load(data / "tokenizer.json"), 0)


def asked(task: Any, models: Models) -> list[Result]:
    outcomes = task.ask(models)
    for outcome in outcomes:
        assert isinstance(outcome, Result), outcome
    return outcomes  # type: ignore[no-any-return]


@pytest.fixture
def theirs(folders: list[Path]) -> list[HFLM]:
    return [HFLM(pretrained=str(f), dtype="float32", batch_size=4, device="cpu") for f in folders]


def logprobs(found: dict[str, Any]) -> list[list[float]]:
    return [
        [answer[0] for [answer] in row["resps"]]
        for _, own in sorted(found["samples"].items())
        for row in own
    ]


def test_multiple_choice_as_the_harness_has_it_and_as_our_own(
    few: Harness, array: ModelArray, data: Path, theirs: list[HFLM]
) -> None:
    described = ChoiceTask(
        name="own",
        files=("test.jsonl",),
        shot_files=("dev.jsonl",),
        shots=5,
        fields={"subject": "subject"},
        header="The following are multiple choice questions (with answers) about {subject}:\n\n",
    )
    models = together(array, data)
    ours = asked(MultipleChoice.read(described, data), models)
    adapted = asked(few, models)
    assert max(result.counts["cut_from_the_left"] for result in ours) == 0
    few_shots = ours[0].counts["fewer_shots"]
    assert few_shots == 0, "the harness keeps shots that ours leaves out"
    for member, (own, result, lm) in enumerate(zip(ours, adapted, theirs, strict=True)):
        found = few._loaded.evaluated(lm)
        expected = logprobs(found)
        by_subject = own.items.sort_values("subject", kind="stable")
        native = by_subject["logprob"].tolist()
        assert np.asarray(native) == pytest.approx(np.asarray(expected), abs=1e-4)
        for name in ("acc", "acc_norm", "bpb"):
            value = found["results"]["few"][f"{name},none"]
            exact = {"abs": 0} if name.startswith("acc") else {"abs": 1e-4}
            assert result.metrics[f"own/{name}"] == pytest.approx(value, **exact)
            assert own.metrics[f"own/{name}"] == pytest.approx(value, **exact)
            errors = {m.name: m.std_error for m in (*own.means, *result.means)}
            assert errors[f"own/{name}"] == pytest.approx(
                found["results"]["few"][f"{name}_stderr,none"], abs=1e-4
            )
        subjects = {m.name for m in result.means if m.split == "subject"}
        assert subjects == {f"own/{s}/{m}" for s in SUBJECTS for m in ("acc", "acc_norm", "bpb")}
        assert result.counts["asked"] == 14
        assert member == 0 or result.metrics != adapted[0].metrics


def test_bits_per_byte_of_text_as_the_harness_has_it_and_as_our_own(
    array: ModelArray, data: Path, theirs: list[HFLM]
) -> None:
    task = Harness.read(HarnessTask(kind="lm-eval", name="domain_bpb", data=str(data)), data)
    described = TextCollection(kind="texts", name="domain_bpb", sources={"a": ("valid.jsonl",)})
    models = together(array, data)
    ours = asked(Texts.read(described, data), models)
    adapted = asked(task, models)
    assert ours[0].items["tokens"].max() < CONTEXT, "windows of one text are not the same"
    for own, result, lm in zip(ours, adapted, theirs, strict=True):
        found = task._loaded.evaluated(lm)
        value = found["results"]["domain_bpb"]["bpb,none"]
        assert result.metrics == {"domain_bpb/bpb": pytest.approx(value, rel=1e-5)}
        assert own.metrics == {"domain_bpb/bpb": pytest.approx(value, rel=1e-5)}
        [mean], [native] = result.means, own.means
        assert mean.std_error == pytest.approx(native.std_error, rel=1e-4)


def test_what_is_longer_than_the_context_is_read_in_the_harness_own_windows(
    data: Path, tmp_path: Path
) -> None:
    config = ModelConfig(size="50k", d_model=32, layers=2, heads=4, context=24)
    short = ModelArray.initialised(shape(config), 320, range(2))
    task = Harness.read(HarnessTask(kind="lm-eval", name="domain_bpb", data=str(data)), data)
    results = asked(task, together(short, data))
    for member, result in enumerate(results):
        folder = tmp_path / f"{member}"
        hf.save(short.member(member), short.shape, folder, data / "tokenizer.json", 0)
        lm = HFLM(pretrained=str(folder), dtype="float32", batch_size=4, device="cpu")
        value = task._loaded.evaluated(lm)["results"]["domain_bpb"]["bpb,none"]
        assert result.metrics["domain_bpb/bpb"] == pytest.approx(value, rel=1e-5)


COUNTING = """\
task: counting
dataset_path: json
dataset_kwargs: {data_files: {test: test.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["e", "\\n"], max_gen_toks: 12, do_sample: false}
filter_list:
  - {name: first, filter: [{function: take_first}]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
---
"""
LAST_WORD = """\
task: last_word
dataset_path: json
dataset_kwargs: {data_files: {test: test.jsonl}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{choices[0]}}"
metric_list: [{metric: acc}, {metric: perplexity}]
metadata: {version: 1}
"""


def test_text_that_is_written_and_the_likeliest_continuation(
    array: ModelArray, data: Path, theirs: list[HFLM], tmp_path: Path
) -> None:
    (tmp_path / "counting.yaml").write_text(COUNTING.removesuffix("---\n"))
    (tmp_path / "last_word.yaml").write_text(LAST_WORD)
    models = together(array, data)
    for name, metrics in (
        ("counting", {"counting/exact_match/first"}),
        ("last_word", {"last_word/acc", "last_word/perplexity"}),
    ):
        described = HarnessTask(kind="lm-eval", name=name, include=str(tmp_path), data=str(data))
        task = Harness.read(described, data)
        for member, (result, lm) in enumerate(zip(asked(task, models), theirs, strict=True)):
            found = evaluate(lm, task._loaded.content, bootstrap_iters=10)
            assert set(result.metrics) == metrics
            said = [row["resps"] for row in found["samples"][name]]
            own_lm = MemberLM(Together(models, None), member)
            ours = task._loaded.evaluated(own_lm)["samples"][name]
            for own, other in zip([row["resps"] for row in ours], said, strict=True):
                if name == "counting":
                    assert own == other
                else:
                    assert own[0][0][0] == pytest.approx(other[0][0][0], abs=1e-4)
                    assert own[0][0][1] == other[0][0][1]


def test_a_sample_is_the_same_items_for_all(few: Harness, array: ModelArray, data: Path) -> None:
    sample = few.sample(6, 1)
    assert sample.name == "own-6-seed1"
    [first, *_] = asked(sample, together(array, data))
    assert first.counts["asked"] == 6
    assert first.counts["available"] == 14
    assert set(first.items.groupby("task").size()) == {3}
    assert few.sample(14, 1) is few
    with pytest.raises(UserError, match="two of each of its 2 subjects or sources, 4, are"):
        few.sample(3, 0)


def test_a_study_keeps_which_task_it_was_and_notices_a_change(few: Harness, data: Path) -> None:
    layout = StudyLayout(data / "study")
    layout.root.mkdir()
    (data / "few.yaml").write_text(
        "tasks: [{kind: lm-eval, name: own, task: few, include: include, data: .}]\n"
    )
    config = EvaluateConfig(tasks=("../few.yaml",))
    kept_tasks.take_in(layout, config)
    [task] = kept_tasks.load(layout, taken_in(layout, config))
    assert task.fingerprint == few.fingerprint
    path = data / "test.jsonl"
    before = path.read_text()
    write_rows(path, rows(14, 5))
    try:
        with pytest.raises(UserError, match="lm-evaluation-harness now asks something else as"):
            kinds.load(layout.evals / few.fingerprint)
    finally:
        path.write_text(before)


def test_what_cannot_be_loaded_is_told(data: Path, tmp_path: Path) -> None:
    (tmp_path / "counting.yaml").write_text(COUNTING.replace("test.jsonl", "none.jsonl"))
    for changed, told in (
        ({"name": "counting", "include": str(tmp_path / "no")}, "no: no such folder"),
        ({"name": "domain_bpb", "data": str(tmp_path / "no")}, "no: no such folder"),
    ):
        with pytest.raises(UserError, match=told):
            Harness.read(HarnessTask(kind="lm-eval", **changed), data)
    with pytest.raises(UserError, match=r"--tasks: lm:a/b: .*a task's name has no '/'"):
        kept_tasks.read(["lm:a/b"], folder=data, data=None, where="--tasks")


@pytest.mark.slow
def test_names_that_the_harness_does_not_know(data: Path, tmp_path: Path) -> None:
    """It has thousands, which it reads first."""
    (tmp_path / "counting.yaml").write_text(
        COUNTING.removesuffix("---\n").replace("test.jsonl", "none.jsonl")
    )
    with pytest.raises(UserError, match="has no task 'mmul'"):
        kept_tasks.read(["lm:mmul"], folder=data, data=None, where="--tasks")
    with pytest.raises(UserError, match="cannot load 'counting': FileNotFoundError"):
        kept_tasks.read(["lm:counting"], folder=data, data=data, where="--tasks", include=tmp_path)


def test_a_broken_model_has_a_reason(few: Harness, array: ModelArray, data: Path) -> None:
    broken = ModelArray(array.shape, array.vocab_size, 2)
    broken.load_member(0, array.member(0))
    with torch.no_grad():
        broken.head[1] = math.nan
    sound, wrong = few.ask(together(broken, data))
    assert isinstance(sound, Result)
    assert isinstance(wrong, RegmixError)
    assert "own/" in str(wrong)
    assert "is no finite number" in str(wrong)


def test_of_any_folder(few: Harness, array: ModelArray, folders: list[Path], data: Path) -> None:
    [alone] = afterwards.folder(folders[1], [few], None)
    assert alone.metrics == pytest.approx(asked(few, together(array, data))[1].metrics, rel=1e-5)


@pytest.mark.parametrize("context", [22, 60])
def test_pairs_side_by_side_are_the_pairs(context: int) -> None:
    rng = np.random.default_rng(0)
    begin = tuple(rng.integers(999, size=20).tolist())
    pairs = []
    for i in range(30):
        given = (begin if i % 3 else ()) + tuple(rng.integers(999, size=4 + i % 5).tolist())
        pairs += [(given, tuple(rng.integers(999, size=1 + n).tolist())) for n in range(3)]
    prompts, order = side_by_side(pairs, context)
    shared_by = [len(own) for shared, own in prompts.groups if len(shared)]
    assert context == 22 or shared_by == [20], "all that begin alike, and no others"
    found = {}
    for shared, own in prompts.groups:
        for prompt in own:
            assert len(prompt.own) > 0
            whole = tuple(shared.tolist()) + tuple(prompt.own.tolist())
            for place, choice in enumerate(prompt.choices):
                found[order[prompt.index][place]] = (whole, tuple(choice.tolist()))
    assert set(found) == set(pairs)
    for (given, scored), (whole, choice) in found.items():
        assert choice == scored
        assert whole == given[-(context + 1 - len(scored)) :]
    with pytest.raises(UserError, match="61 tokens are to be scored, in a context of"):
        side_by_side([((1,), (2,) * 61)], context)


def test_documents_are_read_one_by_one() -> None:
    """After one and the same opening, which is no reason to put them side by side."""
    documents = [((1,), tuple(range(2, 2 + size))) for size in (1, 5, 9, 40)]
    prompts, order = side_by_side(documents, 60)
    assert [p.inputs for p in prompts.all] == [1, 5, 9, 40]
    assert order == [[document] for document in documents]
