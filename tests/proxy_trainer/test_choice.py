"""Every choice has the log-probability that it has alone, with transformers, on the saved model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.evals import choice, prompts, questions
from proxy_trainer.evals.choice import ArrayReader, DecoderReader
from proxy_trainer.evals.prompts import Prompts
from proxy_trainer.evals.questions import Question, Questions
from proxy_trainer.models import hf
from proxy_trainer.models.array import ModelArray
from proxy_trainer.models.folder import load_folder
from proxy_trainer.models.losses import without_weights
from regmix import strict
from regmix.config import ModelConfig
from regmix.families import Shape, TransformersShape
from regmix.sizes import shape
from regmix.tasks import ChoiceTask, TasksFile

SHIPPED = Path(questions.__file__).parent / "tasks" / "mmlu.yaml"
WORDS = "the sum of two numbers is even where both are odd or none is and one may be prime".split()


REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def real_data() -> Path:
    if not REAL_DATA.is_dir():
        pytest.skip(f"real data is not there: {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    text = [f"Question: {' '.join(WORDS[i:])}\nAnswer: {' '.join(WORDS[:i])}\n\n" for i in range(9)]
    tokenizers.save(tokenizers.train_bpe(iter(text), 300), path)
    return path


def model(context: int, members: int = 1, **dims: object) -> ModelArray:
    config = ModelConfig(size="50k", d_model=32, layers=2, heads=4, context=context, **dims)
    made = ModelArray.initialised(shape(config), 300, range(members))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.shape[1] > 1:
                parameter *= 8  # far from uniform predictions
    return made


def rows(count: int, seed: int, subjects: int = 2, longest: int = 9) -> list[dict[str, object]]:
    rng = np.random.default_rng(seed)

    def text(least: int, most: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(least, most)))

    return [
        {
            "subject": f"topic_{i % subjects}",
            "question": text(2, longest),
            "choices": [text(1, 6) for _ in range(2 + i % 4)],
            "answer": i % 2,
        }
        for i in range(count)
    ]


def write_rows(path: Path, content: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))


def task_of(folder: Path, shots: int = 3, **more: object) -> Questions:
    write_rows(folder / "dev.jsonl", rows(2 * 3, 1))
    write_rows(folder / "test.jsonl", rows(24, 2))
    described = ChoiceTask(
        name="topics",
        files=("test.jsonl",),
        shot_files=("dev.jsonl",),
        shots=shots,
        fields={"subject": "subject"},
        header="About {subject}:\n\n",
        **more,
    )
    return questions.read(described, folder)


def context_ids(task: Questions, q: Question, tokenizer: Tokenizer, shots: int) -> list[int]:
    text = task.subjects[q.subject].before(shots) + q.text
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def plain(
    theirs: torch.nn.Module, task: Questions, tokenizer: Tokenizer, context: int
) -> list[list[float]]:
    """Every choice alone after its whole prompt, tokenised as one text; in double precision."""
    found = []
    for q in task.questions:
        texts = [task.subjects[q.subject].before(s) + q.text for s in (3, 2, 1, 0)]
        before = [tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
        after = [
            tokenizer.encode(texts[-1] + c, add_special_tokens=False).ids[len(before[-1]) :]
            for c in q.choices
        ]
        room = context + 1 - max(map(len, after))
        fitting = [b for b in before if len(b) <= room]
        given = fitting[0] if fitting else before[-1][-room:]
        own = []
        for ids in after:
            whole = [*given, *ids]
            logits = theirs(torch.tensor([whole[:-1]])).logits[0].double()
            logs = logits.log_softmax(-1)[len(given) - 1 :]
            own.append(sum(logs[i, t].item() for i, t in enumerate(ids)))
        found.append(own)
    return found


def exported(found: ModelArray, member: int, folder: Path, tokenizer: Path) -> torch.nn.Module:
    hf.save(found.member(member), found.shape, folder, tokenizer, 0)
    loaded: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return loaded.double()


@pytest.mark.parametrize("dims", [{}, {"kv_heads": 2, "qk_norm": True, "tied_embeddings": True}])
@pytest.mark.parametrize("context", [600, 90, 24])
@torch.no_grad()
def test_equals_every_choice_alone_with_transformers(
    tmp_path: Path, tokenizer_file: Path, context: int, dims: dict[str, object]
) -> None:
    task = task_of(tmp_path)
    tokenizer = tokenizers.load(tokenizer_file)
    array = model(context, 3, **dims)
    asked = prompts.encode(task, tokenizer, context)
    assert not asked.excluded
    kept = prompts.counts(asked.all, 3)
    wanted = {600: (0, 0), 90: (1, 0), 24: (1, 1)}[context]
    assert (kept["fewer_shots"] > 0, kept["cut_from_the_left"] > 0) == wanted
    found = choice.answers(ArrayReader(array), asked)
    for member in range(3):
        theirs = exported(array, member, tmp_path / f"model-{member}", tokenizer_file)
        expected = plain(theirs, task, tokenizer, context)
        for ours, truth in zip(found.logprob, expected, strict=True):
            assert ours[member] == pytest.approx(truth, abs=1e-4)
            assert ours[member].argmax() == np.argmax(truth)
    assert not np.allclose(found.logprob[0][0], found.logprob[0][1])


def family(model_type: str) -> Shape:
    config: dict[str, object] = {
        "model_type": model_type, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "initializer_range": 0.3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
        "tie_word_embeddings": False,
    }  # fmt: skip
    if model_type == "qwen3":
        config["head_dim"] = 16
    if model_type == "olmo3":
        config["sliding_window"] = 16
        rope = config["rope_parameters"]
        config["rope_parameters"] = {"full_attention": rope, "sliding_attention": rope}
        config["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
    return TransformersShape.from_config(config, "here")


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "olmo2", "olmo3"])
@torch.no_grad()
def test_a_decoder_of_any_family_equals_transformers_too(
    tmp_path: Path, tokenizer_file: Path, model_type: str
) -> None:
    task = task_of(tmp_path)
    tokenizer = tokenizers.load(tokenizer_file)
    decoder = without_weights(family(model_type), 300)
    generator = torch.Generator().manual_seed(0)
    for unit in decoder.units:
        decoder.fill_(unit, generator)
    decoder.complete_()
    found = choice.answers(DecoderReader(decoder), prompts.encode(task, tokenizer, 200))
    hf.save(decoder.state_dict(), decoder.shape, tmp_path / "model", tokenizer_file, 0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).double()
    for ours, truth in zip(found.logprob, plain(theirs, task, tokenizer, 200), strict=True):
        assert ours[0] == pytest.approx(truth, abs=1e-4)


def test_a_native_decoder_reads_as_the_array_does(tmp_path: Path, tokenizer_file: Path) -> None:
    task = task_of(tmp_path)
    array = model(120)
    hf.save(array.member(0), array.shape, tmp_path / "model", tokenizer_file, 0)
    described, weights = load_folder(tmp_path / "model")
    decoder = without_weights(described, 300)
    for unit in decoder.units:
        decoder.fill_(unit, None)
    decoder.complete_()
    decoder.load_state_dict(dict(weights))
    asked = prompts.encode(task, tokenizers.load(tokenizer_file), 120)
    ours = choice.answers(ArrayReader(array), asked)
    theirs = choice.answers(DecoderReader(decoder), asked)
    for a, b in zip(ours.logprob, theirs.logprob, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    own = sum(p.inputs for p in asked.all)
    shared = [(len(ids), len(group)) for ids, group in asked.groups]
    assert any(length and count > 1 for length, count in shared)
    assert ours.tokens == own + sum(length for length, _ in shared)
    assert theirs.tokens == own + sum(length * count for length, count in shared)


@pytest.mark.parametrize("weights", [1, 10**5, 10**9])
def test_the_batch_and_the_company_change_nothing(
    tmp_path: Path, tokenizer_file: Path, weights: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = prompts.encode(task_of(tmp_path), tokenizers.load(tokenizer_file), 120)
    together = choice.answers(ArrayReader(model(120, 2)), asked)
    monkeypatch.setitem(choice.WEIGHTS_AT_ONCE, "cpu", weights)
    alone = choice.answers(ArrayReader(model(120, 1)), asked)
    for a, b in zip(together.logprob, alone.logprob, strict=True):
        assert a[0] == pytest.approx(b[0], abs=1e-5)


def ids_of(asked: Prompts) -> dict[int, list[list[int]]]:
    """Whole texts as a model is given them, by question: the prompt's, then each choice's."""
    return {
        p.index: [[*shared, *p.own], *([*c] for c in p.choices)]
        for shared, own in asked.groups
        for p in own
    }


@pytest.mark.parametrize(
    ("header", "question", "choice_text", "separator"),
    [
        ("About {subject}:\n\n", "Question: {question}\nAnswer:", " {choice}", "\n\n"),
        ("", "{question}", " {choice}", "\n\n"),  # begins with whatever a question does
        ("About {subject}.", "{question} It is", "{choice}", " "),  # tokens cross every border
    ],
)
def test_tokens_are_those_of_the_whole_text(
    tmp_path: Path,
    tokenizer_file: Path,
    header: str,
    question: str,
    choice_text: str,
    separator: str,
) -> None:
    write_rows(tmp_path / "dev.jsonl", rows(6, 1))
    write_rows(tmp_path / "test.jsonl", rows(20, 2))
    described = ChoiceTask(
        name="t",
        files=("test.jsonl",),
        shot_files=("dev.jsonl",),
        shots=2,
        fields={"subject": "subject"},
        header=header,
        question=question,
        choice=choice_text,
        separator=separator,
    )
    task = questions.read(described, tmp_path)
    tokenizer = tokenizers.load(tokenizer_file)
    found = ids_of(prompts.encode(task, tokenizer, 10_000))
    for index, q in enumerate(task.questions):
        before = context_ids(task, q, tokenizer, 2)
        text = task.subjects[q.subject].before(2) + q.text
        whole = [tokenizer.encode(text + c, add_special_tokens=False).ids for c in q.choices]
        assert found[index] == [before, *(w[len(before) :] for w in whole)]


@pytest.mark.parametrize("context", [100_000, 512])
def test_tokens_of_mmlu_are_those_of_the_whole_text(real_data: Path, context: int) -> None:
    """With a tokenizer of 50k words: a real one, whose words begin with spaces and line ends."""
    described = strict.load(SHIPPED, TasksFile).tasks[0]
    task = questions.read(described, real_data / "eval").sample(300, 5)
    tokenizer = tokenizers.load(real_data / "tokenizer" / "gptneox" / "tokenizer.json")
    asked = prompts.encode(task, tokenizer, context)
    assert not asked.excluded
    shots = {p.index: p.shots for p in asked.all}
    cut = {p.index: p.cut for p in asked.all}
    assert (context == 512) == (len(set(shots.values())) > 1)
    for index, found in ids_of(asked).items():
        q = task.questions[index]
        text = task.subjects[q.subject].before(shots[index]) + q.text
        before = tokenizer.encode(text, add_special_tokens=False).ids
        whole = [tokenizer.encode(text + c, add_special_tokens=False).ids for c in q.choices]
        assert found == [before[cut[index] :], *(w[len(before) :] for w in whole)]
        assert len(found[0]) + max(map(len, found[1:])) - 1 <= context
