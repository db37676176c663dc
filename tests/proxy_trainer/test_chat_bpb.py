"""What is scored of held-out conversations: tokens and the bytes that they spell, and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.data.chat.shards import ChatManifest, ChatShardWriter, SourceManifest
from proxy_trainer.evals.chat import load_chat_sets
from regmix.layout import StudyLayout


def test_bytes_are_those_of_the_tokens_that_are_scored(tmp_path: Path) -> None:
    layout = StudyLayout(tmp_path)
    tokenizer = tokenizers.train_bpe(iter(["an answer, long or short"]), 270)
    tokenizers.save(tokenizer, layout.tokenizer)
    folder = layout.chat_data("talk")
    writer = ChatShardWriter(folder / "0/0.bin", "uint16")
    talks = [("long answer", [1, 1]), ("or answer", [0, 1]), ("an", [1])]
    for text, trained in talks:
        words = [tokenizer.encode(w).ids for w in text.split(" ")]
        mask = [np.full(len(w), bool(t)) for w, t in zip(words, trained, strict=True)]
        writer.add(np.concatenate([*words, [0]]), np.concatenate([*mask, [True]]))
    source = SourceManifest("talk", 3, 3, 0, 0, 0, 0, 0, 0, (writer.close(folder),))
    ChatManifest("talk", 64, "drop", "t", {}, "t", 270, 0, "uint16", (source,)).save(folder)
    [found] = load_chat_sets(layout, "talk", 10**6)
    for document, size in enumerate(found.document_bytes):
        [window] = [i for i, d in enumerate(found.documents) if d == document]
        assert size == len(tokenizer.decode(found.targets[window].tolist()).encode())
        assert found.scored[window].sum() == len(found.targets[window])
    first = {text: tokenizer.decode(tokenizer.encode(text).ids[:1]) for text, _ in talks}
    unscored = [len(first["long answer"]), len("or"), len(first["an"])]
    expected = [len("longanswer"), len("oranswer"), len("an")]
    left = [e - u for e, u in zip(expected, unscored, strict=True)]
    assert sorted(found.document_bytes) == sorted(size for size in left if size)
