"""Chat templates: from messages to text, and which of it is the assistant's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from proxy_trainer.data import tokenizer as tokenizers
from regmix.errors import UserError
from regmix.files import read_json, write_json, write_text

Message = Mapping[str, Any]
Span = tuple[int, int]
"""First character, and the one after the last."""

PLAIN = Path(__file__).parents[1] / "templates" / "plain.jinja"
"""For tokenizers that have no template: it needs no vocabulary but an end token."""
_FILE = "chat_template.jinja"
_SETTINGS = "tokenizer_config.json"
FILES = (_FILE, _SETTINGS)
"""Beside a ``tokenizer.json``: its template, and its special tokens (an older place of one)."""
_ROLES = ("system", "user", "assistant")
_OTHER_ROLES = ("developer", "environment", "function", "ipython", "observation", "tool")
_QUESTION, _ANSWER = "Which colour is it?", "It is blue."
_CLOCK = "strftime_now"
_FIX = "wrap what the assistant writes in {% generation %} and {% endgeneration %}"


@dataclass(frozen=True)
class ChatTemplate:
    """A checked template and the special tokens that it may name."""

    text: str
    origin: str
    """The file that it comes from, for messages."""
    special_tokens: Mapping[str, str]
    """Those that it reads, by transformers' names, and ``eos_token``."""

    @property
    def identity(self) -> list[Any]:
        """Changes whenever what is rendered could."""
        return [self.text, dict(self.special_tokens)]

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """Roles that a message may have: the usual three, and what else the template names."""
        named = _constants(_parse(self.text, self.origin))
        return (*_ROLES, *(role for role in _OTHER_ROLES if role in named))

    @cached_property
    def fields(self) -> frozenset[str]:
        """Keys of a message that the template reads."""
        tree = _parse(self.text, self.origin)
        read = {node.attr for node in tree.find_all(nodes.Getattr)}
        return frozenset({"role", "content"} | read | _constants(tree))

    def render(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """The conversation as text, and the characters that the assistant writes.

        By the function behind transformers' ``apply_chat_template``, which does not tell the
        characters themselves.

        Raises:
            UserError: the template refuses the messages.
        """
        from transformers.utils import chat_template_utils

        render: Any = chat_template_utils.render_jinja_template  # its annotation is another's
        try:
            texts, spans = render(
                conversations=[list(messages)],
                chat_template=self.text,
                return_assistant_tokens_mask=True,
                **self.special_tokens,
            )
        except Exception as exc:  # whatever the expressions of a template come to
            raise UserError(f"the template {self.origin} refuses it: {_one_line(exc)}") from exc
        return texts[0], [(first, end) for first, end in spans[0] if end > first]

    @cached_property
    def ending(self) -> str:
        """What the assistant writes after its words, without white space around it."""
        text, spans = self.render(exchange(_QUESTION, _ANSWER))
        trained = "\n".join(text[first:end] for first, end in spans)
        return trained.rpartition(_ANSWER)[2].strip()

    def save(self, folder: Path) -> None:
        """Put the template beside a saved tokenizer.

        transformers' ``apply_chat_template`` of that folder then renders the same text. The
        special tokens of ``tokenizer_config.json`` become those that the template was used with.
        """
        settings = folder / _SETTINGS
        found = read_json(settings) if settings.is_file() else {}
        found.pop("chat_template", None)  # the older place, which must not contradict the file
        write_json(settings, {**found, **self.special_tokens})
        write_text(folder / _FILE, self.text)


def find(given: Path | None, tokenizer: Path, *, base: Path | None = None) -> ChatTemplate:
    """The template to use, checked.

    Args:
        given: a Jinja file; None: the template that lies beside the tokenizer, or :data:`PLAIN`.
        tokenizer: a ``tokenizer.json``; ``chat_template.jinja`` and ``tokenizer_config.json`` in
            its folder are its own template and special tokens.
        base: folder of a model that is gone on from; what lies there comes before what lies beside
            the tokenizer.

    Raises:
        UserError: no such file, not a template, without generation marks, or one that does not
            mark all of what the assistant writes.
    """
    beside = base if base is not None and has_template(base) else tokenizer.parent
    settings = beside / _SETTINGS
    found = read_json(settings) if settings.is_file() else {}
    if not isinstance(found, dict):
        raise UserError(f"{settings}: expected an object, found {type(found).__name__}")
    special = _special_tokens(found)
    if "eos_token" not in special:
        loaded = tokenizers.load(tokenizer)
        special["eos_token"] = str(
            loaded.id_to_token(tokenizers.end_of_document(loaded, tokenizer))
        )
    text, origin = _text(given, beside, found)
    tree = _parse(text, origin)
    read = {name.name for name in tree.find_all(nodes.Name)} | {"eos_token"}
    template = ChatTemplate(text, origin, {k: v for k, v in special.items() if k in read})
    _check(template, tree)
    return template


def has_template(folder: Path) -> bool:
    """Whether a tokenizer's folder has a chat template."""
    if (folder / _FILE).is_file():
        return True
    settings = folder / _SETTINGS
    found = read_json(settings) if settings.is_file() else {}
    return isinstance(found, dict) and found.get("chat_template") is not None


def as_given(folder: Path) -> tuple[str, dict[str, str]]:
    """The template of a tokenizer's folder and its special tokens, for what only reads prompts.

    Raises:
        UserError: the template cannot be read.
    """
    settings = folder / _SETTINGS
    found = read_json(settings) if settings.is_file() else {}
    return _text(None, folder, found)[0], _special_tokens(found)


def copy_beside(source: Path, target: Path) -> None:
    """Make a tokenizer's template and special tokens those of another folder's.

    What the other folder lacks is taken away.
    """
    for name in FILES:
        if (source / name).is_file():
            write_text(target / name, (source / name).read_text("utf-8"))
        else:
            (target / name).unlink(missing_ok=True)


def exchange(question: str, answer: str) -> tuple[Message, Message]:
    """The shortest conversation that every template can render."""
    return {"role": "user", "content": question}, {"role": "assistant", "content": answer}


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """``bos_token``, ``eos_token`` …, as texts."""
    found = {}
    for key, value in settings.items():
        content = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(content, str):
            found[key] = content
    return found


def _text(given: Path | None, beside: Path, settings: Mapping[str, Any]) -> tuple[str, str]:
    """A template and where it comes from."""
    own = beside / _FILE
    if given is not None or own.is_file():
        return _read(given or own), str(given or own)
    written = settings.get("chat_template")
    origin = f"{beside / _SETTINGS}: chat_template"
    if isinstance(written, list):  # several by name
        named = {t.get("name"): t.get("template") for t in written if isinstance(t, dict)}
        written = named.get("default")
        if written is None:
            raise UserError(
                f"{origin}: none of its templates is the 'default'; copy the one to use into a "
                "file and give that"
            )
    if written is None:
        return _read(PLAIN), PLAIN.name
    if not isinstance(written, str):
        raise UserError(f"{origin}: expected a text, found {type(written).__name__}")
    return written, origin


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise UserError(f"{path}: not UTF-8 text ({exc.reason} at byte {exc.start})") from exc
    except OSError as exc:
        raise UserError(f"{path}: no template can be read there ({exc.strerror})") from exc


class _Marks(Extension):
    """Reads ``{% generation %}`` blocks, so that they can be found in what was parsed."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("inside")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)


def _parse(text: str, origin: str) -> nodes.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Marks, "jinja2.ext.loopcontrols"]
    )
    try:
        return environment.parse(text)
    except jinja2.TemplateSyntaxError as exc:
        raise UserError(f"{origin}:{exc.lineno}: not a Jinja template ({exc.message})") from exc


def _constants(tree: nodes.Template) -> set[str]:
    return {n.value for n in tree.find_all(nodes.Const) if isinstance(n.value, str)}


def _check(template: ChatTemplate, tree: nodes.Template) -> None:
    """Refuse a template that would train the wrong tokens, or other ones tomorrow."""
    if not any(_is_mark(block) for block in tree.find_all(nodes.CallBlock)):
        raise UserError(
            f"{template.origin}: has no {{% generation %}} block, so nobody can tell the "
            f"assistant's words from the rest; {_FIX}, its end-of-turn token included"
        )
    if any(name.name == _CLOCK for name in tree.find_all(nodes.Name)):
        raise UserError(
            f"{template.origin}: reads the clock ({_CLOCK}), so every day would train another "
            "text; write the date out"
        )
    _check_rendered(template)


def _is_mark(block: nodes.CallBlock) -> bool:
    called = block.call.node
    return isinstance(called, nodes.ExtensionAttribute) and called.name == "inside"


def _check_rendered(template: ChatTemplate) -> None:
    """Look at what the template makes of one question and its answer."""
    try:
        text, spans = template.render(exchange(_QUESTION, _ANSWER))
    except UserError as exc:
        raise UserError(
            f"{template.origin}: cannot render a question and an answer; {exc}"
        ) from exc
    trained = "\n".join(text[first:end] for first, end in spans)
    if _ANSWER not in trained:
        raise UserError(
            f"{template.origin}: the assistant's words are not inside a generation block; {_FIX}"
        )
    if _QUESTION in trained:
        raise UserError(
            f"{template.origin}: the user's words are inside a generation block; {_FIX} alone"
        )
    if not trained.rpartition(_ANSWER)[2].strip():
        raise UserError(
            f"{template.origin}: nothing follows the assistant's words inside the generation "
            "block, so a model would never learn to stop; move the end-of-turn token into it"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
