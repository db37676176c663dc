"""What a model takes along of conversations: those of its run, or those of what it started from."""

from __future__ import annotations

from pathlib import Path

from proxy_trainer.data.chat import template
from proxy_trainer.data.chat.shards import ChatManifest
from regmix.files import read_json, write_json, write_text

_GENERATION = "generation_config.json"


def hand_on(chat: Path, model: Path) -> None:
    """Put the template beside a model's tokenizer, and let what it generates end with a turn.

    Args:
        chat: folder of the conversations, as they were built.
        model: the model's Hugging Face folder.
    """
    file, settings = template.FILES
    ours, theirs = read_json(chat / settings), read_json(model / settings)
    write_json(model / settings, {**theirs, **ours})
    write_text(model / file, (chat / file).read_text("utf-8"))
    manifest = ChatManifest.load(chat)
    ends = list(dict.fromkeys([manifest.eod_id, *manifest.turn_ends]))
    generation = read_json(model / _GENERATION)
    generation["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    write_json(model / _GENERATION, generation)


def inherit(start: Path, model: Path) -> None:
    """Keep the template, and what ends a turn, of the model that another one went on from.

    Args:
        start: the Hugging Face folder that was gone on from; nothing is kept of one without a
            template.
        model: the Hugging Face folder that was made of it.
    """
    file, settings = template.FILES
    theirs = read_json(start / settings) if (start / settings).exists() else {}
    own = start / file
    text = own.read_text("utf-8") if own.exists() else theirs.get("chat_template")
    if not isinstance(text, str):
        return
    write_text(model / file, text)
    tokens = {key: theirs[key] for key in theirs if key.endswith("_token")}
    write_json(model / settings, {**read_json(model / settings), **tokens})
    if (start / _GENERATION).exists():
        ends = read_json(start / _GENERATION).get("eos_token_id")
        if ends is not None:
            generation = read_json(model / _GENERATION)
            write_json(model / _GENERATION, {**generation, "eos_token_id": ends})
