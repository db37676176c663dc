"""A template is taken only if it trains what the assistant writes, its end, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.data.chat import template as templates
from proxy_trainer.data.chat.conversations import Conversation
from proxy_trainer.data.chat.encode import ChatEncoder
from regmix.errors import UserError

TALK = (
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "one\ntwo "},
    {"role": "assistant", "content": "three"},
    {"role": "user", "content": "four?"},
    {"role": "assistant", "content": " five\n\nsix"},
)
CHATML = (Path(__file__).parent / "chatml.jinja").read_text("utf-8")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [f"number {i} is a number, {'blue' if i % 2 else 'red'}\n\n\n" for i in range(300)]
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizers.save(tokenizers.train_bpe(iter(texts), 300), path)
    return path


def own(tokenizer: Path, tmp_path: Path, **settings: object) -> Path:
    """The tokenizer in a folder of its own, with a ``tokenizer_config.json``."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(tokenizer.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.jinja"
    path.write_text(text)
    return path


def test_the_plain_template_ends_each_answer_with_the_end_token(tokenizer: Path) -> None:
    template = templates.find(None, tokenizer)
    text, spans = template.render(TALK)
    assert text == (
        "<|system|>\nBe short.\n<|user|>\none\ntwo \n<|assistant|>\nthree<|endoftext|>\n"
        "<|user|>\nfour?\n<|assistant|>\n five\n\nsix<|endoftext|>"
    )
    assert [text[a:b] for a, b in spans] == ["three<|endoftext|>", " five\n\nsix<|endoftext|>"]
    assert template.special_tokens == {"eos_token": "<|endoftext|>"}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([("user", "a"), ("user", "b")], "two turns of the user follow each other"),
        ([("assistant", "a"), ("assistant", "b")], "two turns of the assistant"),
        ([("user", "a"), ("system", "b")], "a system message must be the first"),
        ([("judge", "a")], "unknown role 'judge'; valid: system, user, assistant"),
    ],
)
def test_the_plain_template_says_which_messages_it_takes(
    tokenizer: Path, messages: list[tuple[str, str]], message: str
) -> None:
    talk = [{"role": role, "content": content} for role, content in messages]
    with pytest.raises(UserError, match=rf"the template plain\.jinja refuses it: {message}"):
        templates.find(None, tokenizer).render(talk)


def test_a_template_comes_from_the_stage_the_tokenizer_or_the_package(
    tokenizer: Path, tmp_path: Path
) -> None:
    path = own(tokenizer, tmp_path, eos_token={"content": "<|endoftext|>"}, chat_template=CHATML)
    assert templates.find(None, path).text == CHATML
    (tmp_path / "chat_template.jinja").write_text(CHATML + "{# beside #}")
    found = templates.find(None, path)
    assert found.text == CHATML + "{# beside #}"
    assert found.origin == str(tmp_path / "chat_template.jinja")
    given = written(tmp_path, CHATML + "{# given #}")
    assert templates.find(given, path).text == CHATML + "{# given #}"
    assert templates.find(None, tokenizer).text == templates.PLAIN.read_text()


def test_of_several_templates_the_default_is_taken(tokenizer: Path, tmp_path: Path) -> None:
    several = [{"name": "rag", "template": "x"}, {"name": "default", "template": CHATML}]
    assert templates.find(None, own(tokenizer, tmp_path, chat_template=several)).text == CHATML
    with pytest.raises(UserError, match="none of its templates is the 'default'"):
        templates.find(None, own(tokenizer, tmp_path, chat_template=several[:1]))


UNMARKED = CHATML.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
MESSAGES = "{%- for m in messages -%}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (UNMARKED, r"has no \{% generation %\} block.*; wrap what the assistant writes"),
        (UNMARKED + "{# {% generation %} #}", r"has no \{% generation %\} block"),
        (UNMARKED + "{{ '{% generation %}'[:0] }}", r"has no \{% generation %\} block"),
        (UNMARKED + "{% if false %}{% generation %}{% endgeneration %}{% endif %}",
         "the assistant's words are not inside a generation block"),
        (CHATML.replace("+ '<|im_end|>' -}}{%- endgeneration", "-}}{%- endgeneration"),
         "nothing follows the assistant's words .* never learn to stop"),
        ("{% generation %}{% for m in messages %}{{ m.content }}.{% endfor %}{% endgeneration %}",
         "the user's words are inside a generation block"),
        (CHATML + "{{ strftime_now('%d') }}", "reads the clock"),
        (CHATML + "\n{% if %}", r"own\.jinja:\d+: not a Jinja template \(Expected an expression"),
        (CHATML.replace("{%- endgeneration -%}", ""), "not a Jinja template"),
        (CHATML + "{{ raise_exception('never') }}", "cannot render a question and .* never"),
        (CHATML + "{{ messages.x.y }}", "cannot render a question and an answer"),
        (CHATML + "{{ ''.__class__.__mro__ }}", "cannot render .* unsafe"),
        ("", "has no .* block"),
    ],
)  # fmt: skip
def test_a_template_that_would_train_something_else_is_refused(
    tokenizer: Path, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        templates.find(written(tmp_path, text), tokenizer)
    assert str(caught.value).startswith(str(tmp_path / "own.jinja"))


def test_a_template_that_is_not_there_or_is_not_text(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jinja: no template can be read there \(No such"):
        templates.find(tmp_path / "none.jinja", tokenizer)
    (tmp_path / "bytes.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"bytes\.jinja: not UTF-8 text"):
        templates.find(tmp_path / "bytes.jinja", tokenizer)
    with pytest.raises(UserError, match="chat_template: expected a text, found int"):
        templates.find(None, own(tokenizer, tmp_path, chat_template=3))


def test_marks_may_have_any_white_space(tokenizer: Path, tmp_path: Path) -> None:
    text = CHATML.replace("{%- generation -%}", "{%-\n  generation\n%}")
    assert templates.find(written(tmp_path, text), tokenizer).render(TALK)[1]


def test_a_saved_template_renders_the_same_in_transformers(tokenizer: Path, tmp_path: Path) -> None:
    model = own(tokenizer, tmp_path, tokenizer_class="PreTrainedTokenizerFast",
                eos_token="<|endoftext|>", chat_template="old").parent  # fmt: skip
    template = templates.find(None, tokenizer)
    template.save(model)
    loaded = AutoTokenizer.from_pretrained(model)
    encoded = ChatEncoder(tokenizer, template).encode([Conversation("t", TALK)])[0]
    theirs = loaded.apply_chat_template(list(TALK), return_assistant_tokens_mask=True)
    assert loaded.apply_chat_template(list(TALK), tokenize=False) == template.render(TALK)[0]
    assert theirs["input_ids"] == encoded.ids.tolist()
    assert theirs["assistant_masks"] == encoded.trained.astype(int).tolist()
    # What was saved is found again, as the tokenizer's own.
    again = templates.find(None, model / "tokenizer.json")
    assert again.identity == template.identity
    assert json.loads((model / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>",
    }  # fmt: skip


def test_special_tokens_that_the_template_reads_are_kept_with_it(
    tokenizer: Path, tmp_path: Path
) -> None:
    changed = Tokenizer.from_file(str(tokenizer))
    changed.add_special_tokens(["<|start|>", "<|im_start|>", "<|im_end|>"])
    tokenizers.save(changed, tmp_path / "new.json")
    path = own(tmp_path / "new.json", tmp_path, bos_token="<|start|>", pad_token="<|pad|>")
    template = templates.find(written(tmp_path, "{{ bos_token }}" + CHATML), path)
    assert template.special_tokens == {"bos_token": "<|start|>", "eos_token": "<|endoftext|>"}
    encoded = ChatEncoder(path, template).encode([Conversation("t", TALK)])[0]
    assert encoded.ids[0] == changed.token_to_id("<|start|>")
    saved = tmp_path / "saved"
    saved.mkdir()
    template.save(saved)
    assert json.loads((saved / "tokenizer_config.json").read_text()) == template.special_tokens


def test_an_end_token_that_is_not_one_token_is_refused(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    path = tmp_path / "tokenizer.json"
    words.save(str(path))
    with pytest.raises(
        UserError, match=re.escape(f"{path}: does not read eos_token '</s>' as one token")
    ):
        ChatEncoder(path, templates.find(None, path))


def test_a_token_that_ends_turns_is_known(tokenizer: Path, tmp_path: Path) -> None:
    """Of the tokenizer's own; the plain template ends them with the end of a document."""
    changed = Tokenizer.from_file(str(tokenizer))
    changed.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    path = tmp_path / "tokenizer.json"
    changed.save(str(path))
    chatml = templates.find(written(tmp_path, CHATML), path)
    assert ChatEncoder(path, chatml).turn_ends() == (changed.token_to_id("<|im_end|>"),)
    plain = templates.find(None, path)
    assert ChatEncoder(path, plain).turn_ends() == (changed.token_to_id("<|endoftext|>"),)
    spelled = CHATML.replace("<|im_end|>", "!").replace("<|im_start|>", "#")
    words = templates.find(written(tmp_path, spelled), path)
    assert ChatEncoder(path, words).turn_ends() == ()


def test_a_model_that_is_gone_on_from_brings_its_template(tokenizer: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    beside = tmp_path / "study"
    beside.mkdir()
    path = own(tokenizer, beside, chat_template=CHATML.replace("<|im_end|>", "<|endoftext|>"))
    assert templates.find(None, path, base=base).origin.startswith(str(beside))
    (base / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    assert templates.find(None, path, base=base).origin.startswith(str(beside))
    (base / "chat_template.jinja").write_text(CHATML.replace("<|im_end|>", "<|endoftext|>"))
    found = templates.find(None, path, base=base)
    assert found.origin == str(base / "chat_template.jinja")
    given = written(tmp_path, templates.PLAIN.read_text())
    assert templates.find(given, path, base=base).origin == str(given)
