"""Loss on what the assistant wrote and the end of its turn, token by token, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.data.chat import template as templates
from proxy_trainer.data.chat.conversations import Conversation, conversations
from proxy_trainer.data.chat.encode import ChatEncoder, Encoded
from proxy_trainer.data.chat.template import ChatTemplate
from regmix.errors import UserError

SHARED = Path(__file__).parents[3] / "shared/data"
GPTNEOX = SHARED / "tokenizer/gptneox/tokenizer.json"
GSM8K = SHARED / "sft/gsm8k_chat.jsonl.zst"
END = "<|endoftext|>"
TALKS = (
    (("system", "Be short."), ("user", "one\ntwo "), ("assistant", "three"), ("user", "four"),
     ("assistant", " five\n\nsix")),
    (("user", "Ångström? 日本語"), ("assistant", "naïve → yes 👍"), ("user", "and")),
    (("assistant", "I begin."), ("user", ""), ("assistant", "\tx = 1\n\n\n")),
)  # fmt: skip
TEXTS = [
    f"def f_{i}(x):\n    return x + {i}\n\n\n<|user|> says {i} apples are {'red' * (i % 3)}.\n"
    for i in range(400)
]


def conversation(messages: Sequence[tuple[str, str]]) -> Conversation:
    return Conversation("talk:1", tuple({"role": r, "content": c} for r, c in messages))


def byte_level(path: Path) -> Path:
    tokenizers.save(tokenizers.train_bpe(iter(TEXTS), 420), path)
    return path


def normalising(path: Path) -> Path:
    tokenizer = tokenizers.train_bpe(iter(TEXTS), 420)
    tokenizer.normalizer = normalizers.NFC()  # type: ignore[assignment]
    tokenizers.save(tokenizer, path)
    return path


def metaspace(path: Path) -> Path:
    """As SentencePiece's models are: spaces as ▁, one put before the text, bytes for the rest."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")  # type: ignore[assignment]
    tokenizer.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
    )
    given = ["<unk>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=given, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizers.save(tokenizer, path)
    return path


def gptneox(path: Path) -> Path:
    if not GPTNEOX.exists():
        pytest.skip(f"{GPTNEOX} is not here")
    path.write_bytes(GPTNEOX.read_bytes())
    return path


KINDS = {f.__name__: f for f in (byte_level, normalising, metaspace, gptneox)}
Setting = tuple[Path, ChatTemplate, Any]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Setting]:
    """A tokenizer by kind, its template, and transformers' tokenizer with the same."""
    made: dict[str, Setting] = {}

    def make(kind: str) -> Setting:
        if kind not in made:
            path = KINDS[kind](tmp_path_factory.mktemp(kind) / "tokenizer.json")
            template = templates.find(None, path)
            theirs = PreTrainedTokenizerFast(
                tokenizer_file=str(path),
                **template.special_tokens,
                clean_up_tokenization_spaces=False,
            )
            theirs.chat_template = template.text
            made[kind] = path, template, theirs
        return made[kind]

    return make


def by_prefix(theirs: Any, messages: Sequence[dict[str, str]]) -> list[bool]:
    """Which tokens are trained, from lengths alone: with every turn of the assistant, from where
    the prompt before it ends to where the conversation with it ends."""
    whole = theirs.apply_chat_template(list(messages))["input_ids"]
    trained = [False] * len(whole)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        upto = theirs.apply_chat_template(list(messages[: index + 1]))["input_ids"]
        if index:
            prompt = theirs.apply_chat_template(list(messages[:index]), add_generation_prompt=True)
        else:
            prompt = theirs("<|assistant|>\n", add_special_tokens=False)
        before = prompt["input_ids"]
        assert whole[: len(upto)] == upto
        assert whole[: len(before)] == before
        trained[len(before) : len(upto)] = [True] * (len(upto) - len(before))
    return trained


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_those_of_prefixes_and_of_transformers(
    setting: Callable[[str], Setting], kind: str
) -> None:
    path, template, theirs = setting(kind)
    talks = [conversation(t) for t in TALKS]
    for talk, encoded in zip(talks, ChatEncoder(path, template).encode(talks), strict=True):
        messages = [dict(m) for m in talk.messages]
        expected = theirs.apply_chat_template(messages, return_assistant_tokens_mask=True)
        assert encoded.ids.tolist() == expected["input_ids"]
        assert encoded.trained.tolist() == by_prefix(theirs, messages)
        assert not encoded.shared.any()
        differ = np.asarray(expected["assistant_masks"], dtype=bool) != encoded.trained
        # GPT-NeoX trims white space off its offsets, and where a turn begins with a space
        # transformers then masks all of that turn away.
        assert not differ.any() or (kind == "gptneox" and encoded.trained[differ].all())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gptneox", "byte_level"])
def test_gsm8k_token_by_token(setting: Callable[[str], Setting], kind: str) -> None:
    if not GSM8K.exists():
        pytest.skip(f"{GSM8K} is not here")
    path, template, theirs = setting(kind)
    talks = list(conversations(GSM8K, "auto", template))
    assert len(talks) == 7473
    found = ChatEncoder(path, template).encode(talks)
    tokenizer = tokenizers.load(path)
    for talk, encoded in zip(talks, found, strict=True):
        question, answer = (m["content"] for m in talk.messages)
        decoded = tokenizer.decode(encoded.ids.tolist(), skip_special_tokens=False)
        assert decoded == f"<|user|>\n{question}\n<|assistant|>\n{answer}{END}"
        assert tokenizer.decode(encoded.ids[encoded.trained].tolist(), False) == answer + END
        rest = tokenizer.decode(encoded.ids[~encoded.trained].tolist(), False)
        assert rest == f"<|user|>\n{question}\n<|assistant|>\n"
    messages = [[dict(m) for m in talk.messages] for talk in talks]
    prompts = theirs.apply_chat_template([m[:1] for m in messages], add_generation_prompt=True)
    wholes = theirs.apply_chat_template(messages)
    for encoded, prompt, whole in zip(
        found, prompts["input_ids"], wholes["input_ids"], strict=True
    ):
        assert encoded.ids.tolist() == whole
        assert encoded.ids[: len(prompt)].tolist() == prompt
        assert encoded.trained.tolist() == [False] * len(prompt) + [True] * (
            len(whole) - len(prompt)
        )


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
spelt = st.sampled_from([END, "<|", "\n", "\n\n\n", "    ", "<|assistant|>\n", "𪜀", "\U000f0000"])
contents = st.lists(words | spelt, max_size=5).map("".join)


@st.composite
def talks(draw: st.DrawFn) -> Conversation:
    turns = draw(st.integers(1, 3))
    messages = [("system", draw(contents))] if draw(st.booleans()) else []
    for _ in range(turns):
        answer = draw(contents.filter(lambda text: bool(text.strip())))
        messages += [("user", draw(contents)), ("assistant", answer)]
    return conversation(messages)


@given(talk=talks())
@settings(max_examples=300, deadline=None)
def test_any_text_is_kept_and_masked(setting: Callable[[str], Setting], talk: Conversation) -> None:
    path, template, _ = setting("byte_level")
    encoded = ChatEncoder(path, template).encode([talk])[0]
    tokenizer = tokenizers.load(path)
    text, spans = template.render(talk.messages)
    assert tokenizer.decode(encoded.ids.tolist(), skip_special_tokens=False) == text
    # The end token stands where the template put it, whatever the messages spell.
    assert (encoded.ids == tokenizer.token_to_id(END)).sum() == talk.turns
    assert not (encoded.trained & encoded.shared).any()
    ours = bytes_of(tokenizer, encoded, encoded.trained)
    written = "".join(text[a:b] for a, b in spans).encode()
    assert len(ours) < len(written) if encoded.shared.any() else ours == written


def bytes_of(tokenizer: Tokenizer, encoded: Encoded, which: Any) -> bytes:
    """The UTF-8 bytes of some tokens of a byte-level tokenizer."""
    letters = {c: b for b, c in _byte_letters().items()}
    pieces = (tokenizer.id_to_token(int(i)) for i in encoded.ids[which])
    return b"".join(p.encode() if p == END else bytes(letters[c] for c in p) for p in pieces)


def _byte_letters() -> dict[int, str]:
    """The letter that a byte-level vocabulary writes for every byte (GPT-2's table)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return {b: chr(b) for b in shown} | {b: chr(256 + n) for n, b in enumerate(hidden)}


@pytest.mark.parametrize("kind", ["byte_level", "gptneox"])
def test_a_token_that_holds_both_is_counted_and_not_trained(
    setting: Callable[[str], Setting], kind: str
) -> None:
    path, template, _ = setting(kind)
    tokenizer = tokenizers.load(path)
    whole = tokenizer.encode("<|assistant|>\n\n\nyes").tokens
    assert "ĊĊ" in whole, "the tokenizer joins line feeds, or this shows nothing"
    encoded = ChatEncoder(path, template).encode(
        [conversation([("user", "?"), ("assistant", "\n\nyes")])]
    )[0]
    assert encoded.shared.sum() == 1
    assert tokenizer.decode(encoded.ids[encoded.shared].tolist()) == "\n\n"
    assert tokenizer.decode(encoded.ids[encoded.trained].tolist(), False) == f"\nyes{END}"


def test_so_is_one_at_the_end_of_a_turn(setting: Callable[[str], Setting], tmp_path: Path) -> None:
    path = setting("byte_level")[0]
    (tmp_path / "t.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content + '\n###\n' }}{% endgeneration %}{{ '' if loop.last else '\n\n' }}"
        "{% else %}{{ m.content + ':\n' }}{% endif %}{% endfor %}"
    )
    template = templates.find(tmp_path / "t.jinja", path)
    talk = conversation([("user", "?"), ("assistant", "yes"), ("user", "!")])
    encoded = ChatEncoder(path, template).encode([talk])[0]
    tokenizer = tokenizers.load(path)
    assert tokenizer.decode(encoded.ids[encoded.shared].tolist()) == "\n\n"
    assert tokenizer.decode(encoded.ids[encoded.trained].tolist()) == "yes\n###"


@pytest.mark.parametrize("kind", ["byte_level", "gptneox"])
def test_a_template_that_shares_a_token_with_every_turn_is_refused(
    setting: Callable[[str], Setting], tmp_path: Path, kind: str
) -> None:
    path = setting(kind)[0]
    text = (
        "{% for m in messages %}{% if m.role == 'assistant' %}A: {% generation %}"
        "{{ m.content + eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
        "{% endfor %}"
    )
    (tmp_path / "t.jinja").write_text(text)
    with pytest.raises(
        UserError, match=r"t\.jinja: begins or ends the assistant's words inside a token \('Ġ"
    ):
        ChatEncoder(path, templates.find(tmp_path / "t.jinja", path))
    inside = text.replace("A: {%", "A:{%").replace("m.content + eos", "' ' + m.content + eos")
    (tmp_path / "t.jinja").write_text(inside)
    encoded = ChatEncoder(path, templates.find(tmp_path / "t.jinja", path)).encode(
        [conversation([("user", "?"), ("assistant", "It is")])]
    )[0]
    trained = tokenizers.load(path).decode(encoded.ids[encoded.trained].tolist(), False)
    assert trained == f" It is{END}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_spelled_end_token_is_text_in_every_role(
    setting: Callable[[str], Setting], kind: str
) -> None:
    path, template, _ = setting(kind)
    end = template.special_tokens["eos_token"]
    tokenizer = tokenizers.load(path)
    talk = conversation([("user", f"say {end}!"), ("assistant", f"{end}{end} said{end}")])
    encoded = ChatEncoder(path, template).encode([talk])[0]
    assert np.flatnonzero(encoded.ids == tokenizer.token_to_id(end)).tolist() == [
        len(encoded.ids) - 1
    ]
    decoded = tokenizer.decode(encoded.ids.tolist(), skip_special_tokens=False)
    assert decoded == f"<|user|>\nsay {end}!\n<|assistant|>\n{end}{end} said{end}{end}"
    prompt = f"<|user|>\nsay {end}!\n<|assistant|>\n"
    untrained = tokenizer.decode(encoded.ids[~encoded.trained].tolist(), False)
    assert untrained == prompt


def test_the_first_token_is_never_trained(
    setting: Callable[[str], Setting], tmp_path: Path
) -> None:
    path = setting("byte_level")[0]
    (tmp_path / "t.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content + eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
        "{% endfor %}"
    )
    template = templates.find(tmp_path / "t.jinja", path)
    encoded = ChatEncoder(path, template).encode([conversation([("assistant", "blue")])])[0]
    assert encoded.trained.tolist() == [False] + [True] * (len(encoded.ids) - 1)


def test_a_turn_that_a_template_leaves_out_is_told(
    setting: Callable[[str], Setting], tmp_path: Path
) -> None:
    path = setting("byte_level")[0]
    (tmp_path / "t.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'assistant' and not loop.first %}{% generation %}"
        "{{ m.content + eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
        "{% endfor %}"
    )
    encoder = ChatEncoder(path, templates.find(tmp_path / "t.jinja", path))
    with pytest.raises(UserError, match=r"talk:1: the template .*t\.jinja puts no token of the as"):
        encoder.encode([conversation([("assistant", "blue"), ("user", "why")])])


def test_messages_that_a_template_refuses_are_told_with_their_place(
    setting: Callable[[str], Setting],
) -> None:
    path, template, _ = setting("byte_level")
    with pytest.raises(UserError, match=r"talk:1: the template plain\.jinja refuses it: two turns"):
        ChatEncoder(path, template).encode(
            [conversation([("user", "a"), ("user", "b"), ("assistant", "c")])]
        )
