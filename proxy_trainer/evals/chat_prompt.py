"""What a model of conversations is asked: messages as its template writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy_trainer.data.chat import template
from proxy_trainer.data.chat.shards import ChatManifest
from proxy_trainer.data.chat.template import Message
from regmix.errors import UserError
from regmix.files import read_json


@dataclass(frozen=True)
class ChatPrompt:
    """A template, and the special tokens that it may name."""

    text: str
    special_tokens: Mapping[str, str]

    @classmethod
    def beside(cls, folder: Path) -> ChatPrompt | None:
        """That of a tokenizer's folder, if it has one.

        Raises:
            UserError: it cannot be read.
        """
        return cls(*template.as_given(folder)) if template.has_template(folder) else None

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation up to where the assistant begins.

        Raises:
            UserError: the template refuses it.
        """
        from transformers.utils import chat_template_utils

        render: Any = chat_template_utils.render_jinja_template  # its annotation is another's
        try:
            texts, _ = render(
                conversations=[list(messages)],
                chat_template=self.text,
                add_generation_prompt=True,
                **self.special_tokens,
            )
        except Exception as exc:  # whatever the expressions of a template come to
            why = " ".join(str(exc).split())
            raise UserError(f"the chat template refuses a question ({why})") from exc
        return str(texts[0])


def turn_ends(folder: Path) -> frozenset[int]:
    """Tokens that end what a folder's model writes, as its configs have them."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        found = read_json(path).get("eos_token_id") if path.is_file() else None
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()


def of_conversations(folder: Path) -> tuple[ChatPrompt | None, frozenset[int]]:
    """The template of conversations that a run is trained on, and what ends their turns."""
    manifest = ChatManifest.load(folder)
    return ChatPrompt.beside(folder), frozenset([manifest.eod_id, *manifest.turn_ends])
