"""What a model takes along of the conversations that it was trained on."""

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
