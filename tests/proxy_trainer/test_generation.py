"""Texts that models write: drawn as they should be, the same again, and judged as the task says."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.evals import afterwards, generation_metrics, kept_tasks
from proxy_trainer.evals.chat_prompt import ChatPrompt
from proxy_trainer.evals.generate import Prompt, Sampling, TransformersWriter, Written, room
from proxy_trainer.evals.generation import Generation
from proxy_trainer.evals.models import Models, load
from proxy_trainer.evals.results import Result
from proxy_trainer.models import hf
from proxy_trainer.models.array import ModelArray
from proxy_trainer.models.folder import load_folder
from regmix import direction
from regmix.config import EvaluateConfig, ModelConfig
from regmix.errors import RegmixError, UserError
from regmix.layout import StudyLayout
from regmix.sizes import shape
from regmix.tasks import GenerationTask, taken_in

CHATML = (Path(__file__).parent / "chatml.jinja").read_text("utf-8")
CONTEXT = 64
ROWS = [{"question": f"{a} + {b}", "answer": f"It is\n#### {a + b:,}"} for a in (1, 20, 800)
        for b in (3, 400)]  # fmt: skip


def described(**more: object) -> GenerationTask:
    given = {
        "kind": "generation", "name": "sums", "files": ("q.jsonl",), "gold": "#### ([0-9,]+)",
        "extract": ("#### ([0-9,]+)", "[0-9]+"), "ignore": (",",), "max_tokens": 10,
    }  # fmt: skip
    return GenerationTask(**{**given, **more})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    texts = [f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in ROWS]
    tokenizers.save(tokenizers.train_bpe(iter(texts), 290), path)
    return path


def array(members: int = 1, **dims: object) -> ModelArray:
    config = ModelConfig(size="50k", d_model=32, layers=2, heads=4, context=CONTEXT, **dims)
    made = ModelArray.initialised(shape(config), 290, range(members))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.shape[1] > 1:
                parameter *= 6  # far from uniform predictions
    return made


def models(found: ModelArray, tokenizer: Path) -> Models:
    return Models.of_array(found, tokenizers.load(tokenizer), 0)


def writer(found: ModelArray, tokenizer: Path) -> TransformersWriter:
    made = models(found, tokenizer).writer(0)
    assert isinstance(made, TransformersWriter)
    return made


def prompts(count: int, seed: int = 0) -> list[Prompt]:
    rng = np.random.default_rng(seed)
    return [Prompt(tuple(rng.integers(290, size=3 + i * 2).tolist()), i) for i in range(count)]


def test_the_likeliest_token_is_what_transformers_takes(
    tokenizer_file: Path, tmp_path: Path
) -> None:
    found = array(kv_heads=2, qk_norm=True)
    hf.save(found.member(0), found.shape, tmp_path, tokenizer_file, 0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokenizer = tokenizers.load(tokenizer_file)
    asked = prompts(9)
    written = writer(found, tokenizer_file).write(asked, Sampling(max_tokens=20))
    for prompt, one in zip(asked, written, strict=True):
        ids = theirs.generate(
            torch.tensor([prompt.ids]), max_new_tokens=20, do_sample=False, pad_token_id=0,
            eos_token_id=0,
        )[0, len(prompt.ids) :].tolist()  # fmt: skip
        kept = ids[: ids.index(0)] if 0 in ids else ids
        assert one.text == tokenizer.decode(kept, skip_special_tokens=False)
        assert (one.tokens, one.ended) == (len(kept), 0 in ids)


def test_what_is_drawn_depends_on_nobody_else(tokenizer_file: Path) -> None:
    how = Sampling(max_tokens=15, temperature=0.9, top_p=0.95, seed=3)
    made = writer(array(), tokenizer_file)
    asked = [Prompt(p.ids, p.number, repeat) for p in prompts(8) for repeat in range(3)]
    together = made.write(asked, how)
    assert made.write(asked, how) == together
    assert made.write(asked[::-1], how) == together[::-1]
    assert [made.write([p], how)[0] for p in asked] == together
    assert len({one.text for one in together}) > 20
    other = made.write(asked, Sampling(15, (), 0.9, 0.95, seed=4))
    assert sum(a == b for a, b in zip(together, other, strict=True)) < 3


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.3, 0.7)])
def test_tokens_are_drawn_as_often_as_they_are_likely(
    tokenizer_file: Path, tmp_path: Path, temperature: float, top_p: float
) -> None:
    found = array()
    hf.save(found.member(0), found.shape, tmp_path, tokenizer_file, 0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = (5, 9, 40)
    with torch.no_grad():
        p = (theirs(torch.tensor([ids])).logits[0, -1].double() / temperature).softmax(0).numpy()
    order = np.argsort(-p, kind="stable")
    nucleus = order[: int(np.searchsorted(np.cumsum(p[order]), top_p) + 1)]
    expected = np.zeros_like(p)
    expected[nucleus] = p[nucleus] / p[nucleus].sum()
    count = 3000
    how = Sampling(max_tokens=1, temperature=temperature, top_p=top_p)
    written = writer(found, tokenizer_file).write([Prompt(ids, 0, r) for r in range(count)], how)
    tokenizer = tokenizers.load(tokenizer_file)
    texts = pd.Series([one.text for one in written]).value_counts() / count
    by_text: dict[str, float] = {}
    for token, share in enumerate(expected):
        text = "" if token == 0 else tokenizer.decode([token], skip_special_tokens=False)
        by_text[text] = by_text.get(text, 0.0) + float(share)
    assert set(texts.index) <= {text for text, share in by_text.items() if share > 0}
    for text, share in by_text.items():
        error = math.sqrt(share * (1 - share) / count)
        assert abs(texts.get(text, 0.0) - share) <= 4.5 * error + 1e-9, text


def test_a_text_ends_before_its_stop(tokenizer_file: Path) -> None:
    made, how = writer(array(), tokenizer_file), Sampling(max_tokens=30)
    asked = prompts(6)
    for plain, prompt in zip(made.write(asked, how), asked, strict=True):
        if len(plain.text) < 6:
            continue
        stop = plain.text[3:6]
        [short] = made.write([prompt], Sampling(30, stop=(stop, "never this")))
        assert short.text == plain.text[: plain.text.index(stop)]
        assert short.ended
        assert short.tokens < plain.tokens or plain.text.index(stop) + 3 >= len(plain.text) - 3
        break
    else:
        pytest.fail("no text to stop")


def test_a_prompt_leaves_room_for_what_is_written(tokenizer_file: Path) -> None:
    assert (room(1000, 256), room(300, 256), room(64, 500)) == (744, 150, 32)
    made = writer(array(), tokenizer_file)
    long = Prompt(tuple(range(1, 61)), 0)
    how = Sampling(max_tokens=20, temperature=1.0)
    [cut] = made.write([Prompt(long.ids[-44:], 0)], how)
    assert made.write([long], how) == [cut]
    [most] = made.write([Prompt(long.ids, 1)], Sampling(max_tokens=500, temperature=1.0))
    assert most.tokens <= 32


def test_a_broken_model_has_a_reason(folder: Path, tokenizer_file: Path) -> None:
    found = array(2)
    with torch.no_grad():
        found.head[1] = math.nan
    sound, broken = Generation.read(described(), folder).ask(models(found, tokenizer_file))
    assert isinstance(sound, Result)
    assert isinstance(broken, RegmixError)
    assert "task 'sums': a text cannot be written: logits are no finite numbers" in str(broken)


def judged(task: Generation, texts: Sequence[str], tokenizer: Path) -> Result:
    """What a task makes of texts, whoever wrote them."""
    loaded = models(array(), tokenizer)
    written = [Written(text, len(text), "stop" not in text) for text in texts]
    return task._result(loaded, task.prompts(loaded), written)


def test_avg_at_k_by_hand(folder: Path, tokenizer_file: Path) -> None:
    task = Generation.read(described(repeats=2, temperature=0.5), folder)
    assert [q.gold for q in task.questions] == ["4", "401", "23", "420", "803", "1,200"]
    texts = [
        "#### 4", "so 4",  # both
        "401 or 402", "#### 401 ... 7",  # the last number is another; the first pattern goes first
        "none stop", "",  # no answer
        "#### 1\n#### 420", "420",
        "it is 80", "803!",
        "1200", "#### 1,200",
    ]  # fmt: skip
    result = judged(task, texts, tokenizer_file)
    shares = [1, 0.5, 0, 1, 0.5, 1]
    found = {m.name: m for m in result.means}
    assert found["sums/avg@2"].value == pytest.approx(np.mean(shares))
    error = np.std(shares, ddof=1) / math.sqrt(6)
    assert found["sums/avg@2"].std_error == pytest.approx(error)
    assert found["sums/pass@2"].value == pytest.approx(5 / 6)
    assert {m.count for m in result.means} == {6}
    assert result.counts["without_answer"] == 2
    assert result.counts["unfinished"] == 1
    assert result.items["right"].tolist() == [1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1]
    assert any("2 texts have no answer in them" in note for note in result.notes)
    assert {direction.of_name(name) for name in found} == {"higher"}
    once = judged(Generation.read(described(), folder), texts[::2], tokenizer_file)
    assert [m.name for m in once.means] == ["sums/avg@1"]


def test_gsm8k_as_it_ships() -> None:
    data = Path(__file__).resolve().parents[3] / "shared" / "data" / "eval"
    if not data.is_dir():
        pytest.skip(f"real data is not there: {data}")
    [task] = kept_tasks.read(["gsm8k"], folder=Path(), data=data, where="here")
    assert isinstance(task, Generation)
    assert len(task.questions) == 1319
    for question in task.questions:
        own = question.answer.rsplit("#### ")[-1].strip()
        assert question.gold == own
        plain = generation_metrics.plain(question.gold, task.ignore)
        float(plain)
        for text in (
            question.answer,  # strict
            f"So it must be ${own}.",  # flexible
            f"3 + 4, no: {own} dollars",
        ):
            found = generation_metrics.extracted(text, task.extract)
            assert found is not None
            assert generation_metrics.plain(found, task.ignore) == plain, text
        assert question.text == f"Question: {question.chat}\nAnswer:"


def test_prompts_have_shots_and_templates(folder: Path, tokenizer_file: Path) -> None:
    task = Generation.read(
        described(shots=2, shot_files=("q.jsonl",), chat_question="Say {question}."), folder
    )
    loaded = models(array(), tokenizer_file)
    [first, *_] = task.prompts(loaded)
    text = loaded.tokenizer.decode(list(first.ids), skip_special_tokens=False)
    assert text == (
        "<|endoftext|>Question: 1 + 3\nAnswer: It is\n#### 4\n\n"
        "Question: 1 + 400\nAnswer: It is\n#### 401\n\nQuestion: 1 + 3\nAnswer:"
    )
    chat = ChatPrompt(CHATML, {"eos_token": "<|endoftext|>"})
    [first, *_] = task.prompts(
        Models(loaded.measured, loaded.reader, loaded.tokenizer, CONTEXT, 0, chat=chat)
    )
    text = loaded.tokenizer.decode(list(first.ids), skip_special_tokens=False)
    before, _, last = text.rpartition("user\n")
    assert "user\nSay 1 + 3.<|im_end|>\n<|im_start|>assistant\nIt is\n#### 4" in before
    assert last.startswith("Say 1 + 3.")
    assert last.endswith("assistant\n")


def test_of_arrays_and_folders_alike(folder: Path, tokenizer_file: Path, tmp_path: Path) -> None:
    task = Generation.read(described(repeats=3, temperature=1.0), folder)
    found = array(2)
    results = task.ask(models(found, tokenizer_file))
    for member, result in enumerate(results):
        assert isinstance(result, Result)
        place = tmp_path / f"{member}"
        hf.save(found.member(member), found.shape, place, tokenizer_file, 0)
        [alone] = afterwards.folder(place, [task], None)
        pd.testing.assert_frame_equal(alone.items, result.items)
        assert alone.metrics == result.metrics
    first, second = results
    assert isinstance(first, Result)
    assert isinstance(second, Result)
    assert first.items["text"].tolist() != second.items["text"].tolist()


def test_a_folder_of_conversations_is_asked_in_its_template(
    folder: Path, tokenizer_file: Path, tmp_path: Path
) -> None:
    found = array()
    place = tmp_path / "model"
    hf.save(found.member(0), found.shape, place, tokenizer_file, 0, chat_template=CHATML)
    (place / "generation_config.json").write_text('{"eos_token_id": [0, 7]}')
    loaded = load([load_folder(place)[1]], tokenizers.load(place / "tokenizer.json"))
    assert loaded.chat is not None
    assert loaded.ends == {0, 7}
    task = Generation.read(described(), folder)
    text = loaded.tokenizer.decode(list(task.prompts(loaded)[0].ids), skip_special_tokens=False)
    assert "<|im_start|>user\n1 + 3" in text


def test_a_study_takes_questions_in(folder: Path) -> None:
    layout = StudyLayout(folder / "study")
    layout.root.mkdir()
    (folder / "sums.yaml").write_text(
        "tasks:\n  - {kind: generation, name: sums, files: [q.jsonl], extract: ['[0-9]+'],\n"
        "     gold: '#### ([0-9,]+)', shots: 1, shot_files: [q.jsonl], stop: ['\\n']}\n"
    )
    config = EvaluateConfig(tasks=("../sums.yaml",))
    kept_tasks.take_in(layout, config)
    [task] = kept_tasks.load(layout, taken_in(layout, config))
    assert [task] == kept_tasks.read(["sums.yaml"], folder=folder, data=None, where="")
    path = layout.evals / task.fingerprint / "questions.jsonl"
    path.write_text(path.read_text().replace("1 + 3", "1 + 4"))
    with pytest.raises(UserError, match="they were changed by hand"):
        kept_tasks.load(layout, taken_in(layout, config))


def test_a_sample_says_so(folder: Path) -> None:
    task = Generation.read(described(), folder)
    found = task.sample(4, 1)
    assert (found.name, found.available, len(found.questions)) == ("sums-4-seed1", 6, 4)
    assert task.sample(6, 1) is task
    assert len({task.fingerprint, found.fingerprint}) == 2
    other = Generation.read(described(temperature=0.3), folder)
    assert other.fingerprint != task.fingerprint


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"question": "?", "answer": "seven"}, "q.jsonl:7: answer: gold finds nothing in 'seven'"),
        ({"question": "?"}, "q.jsonl:7: no 'answer'"),
        ({"question": " ", "answer": "#### 3"}, "q.jsonl:7: question: expected text"),
    ],
)
def test_a_row_that_is_not_as_described_is_named(folder: Path, row: object, told: str) -> None:
    with (folder / "q.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    with pytest.raises(UserError) as error:
        Generation.read(described(), folder)
    assert str(error.value).startswith(f"{folder}/{told}")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"repeats": 3}, "3 texts of temperature 0 would be one text"),
        ({"extract": ("(a)(b)",)}, "has 2 groups; one at most"),
        ({"gold": "("}, "is no regular expression"),
        ({"shots": 2}, "shots: 2 need shot_files"),
        ({"answer": "{x}"}, "must hold {answer} once"),
        ({"stop": ("",)}, "an empty text would stop a model at once"),
        ({"question": " "}, "question: is empty"),
    ],
)
def test_a_description_is_checked(more: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match="Value error") as error:
        described(**more)
    assert told in str(error.value)
