"""Bits per byte of held-out answers: only what the assistant says is scored, in any template."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.data.chat import build as chat
from proxy_trainer.evals import bpb
from proxy_trainer.evals.chat import load_chat_sets
from proxy_trainer.models.array import ModelArray
from regmix import sizes
from regmix.chat import Conversations
from regmix.config import ModelConfig
from regmix.layout import StudyLayout

CHATML = (Path(__file__).parent / "chatml.jinja").read_text("utf-8")
TURNS = {
    "plain": "<|user|>\n{q}\n<|assistant|>\n{a}<|endoftext|>",
    "chatml": "<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{a}<|im_end|>\n",
}
TALK = [("How much is 2 + 3?", "It is 5."), ("Et le café ?", "Très bon, déjà."), ("Why", "No.")]


@pytest.fixture
def layout(tmp_path: Path) -> StudyLayout:
    found = StudyLayout(tmp_path / "study")
    found.tokens.mkdir(parents=True)
    words = tokenizers.train_bpe((" ".join(turn) for turn in TALK for _ in range(9)), 290)
    words.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizers.save(words, found.tokenizer)
    lines = [json.dumps({"prompt": q, "completion": a}) for q, a in TALK]
    (tmp_path / "talk.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "chatml.jinja").write_text(CHATML)
    return found


@pytest.mark.parametrize("name", TURNS)
def test_nats_and_bytes_are_those_of_the_answers_alone(
    name: str, layout: StudyLayout, tmp_path: Path
) -> None:
    held_out = Conversations(
        sources=({"name": "talk", "files": ("talk.jsonl",)},),
        template="chatml.jinja" if name == "chatml" else None,
    )
    manifest = chat.build(layout, held_out, folder=tmp_path, tokenizer=layout.tokenizer, context=96)
    size = sizes.shape(ModelConfig(size="50k", d_model=16, layers=1, heads=2, context=96))
    array = ModelArray.initialised(size, manifest.vocab_size, [0])
    [reading] = bpb.read(array, load_chat_sets(layout, manifest.fingerprint, 10_000))
    nats, count = alone(array, tokenizers.load(layout.tokenizer), TURNS[name])
    assert reading.bytes_M.sum() == count == sum(len(a.encode()) for _, a in TALK)
    assert reading.value(0) == pytest.approx(nats / (math.log(2) * count), rel=1e-6)


@torch.no_grad()
def alone(array: ModelArray, tokenizer: Tokenizer, turns: str) -> tuple[float, int]:
    """Nats and bytes of the answers, a conversation at a time, by the places of its characters."""
    tokenizer.encode_special_tokens = False
    nats, count = 0.0, 0
    for question, answer in TALK:
        text = turns.format(q=question, a=answer)
        begins = text.rindex(answer)
        found = tokenizer.encode(text, add_special_tokens=False)
        ids = torch.tensor([found.ids])
        logits = (array.hidden(ids[None, :, :-1]) @ array.unembed_KDV)[0]
        each = -logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        for nat, (first, end) in zip(each.tolist(), found.offsets[1:], strict=True):
            if begins <= first and end <= begins + len(answer):
                nats += nat
        count += len(answer.encode())
    return nats, count
