"""Every block follows from seed and index: whole conversations, each once an epoch, in shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proxy_trainer.data.chat.sampler import PADDING, ChatBlocks, ChatSampler, source_epochs
from proxy_trainer.data.chat.shards import (
    ChatManifest,
    ChatShardWriter,
    ChatTokens,
    SourceManifest,
    open_sources,
)
from regmix.chat import ChatData
from regmix.errors import UserError

CONTEXT = 32
PAD = 7
SIZES = {"a": 300, "b": 120, "c/d": 40}
BASE = {"a": 1000, "b": 20_000, "c/d": 40_000}
"""Token ids tell source and conversation: all of conversation i of source s are BASE[s] + i."""


def length(index: int) -> int:
    return 2 + (index * 7919) % (CONTEXT - 1)


def mask(index: int) -> np.ndarray:
    """Every third token, and the last one; never the first."""
    found = np.arange(length(index)) % 3 == 2
    found[-1] = True
    return found


def write(root: Path) -> ChatManifest:
    sources = []
    for name, size in SIZES.items():
        shards = []
        for part, own in enumerate(np.array_split(np.arange(size), 2)):
            writer = ChatShardWriter(root / f"{BASE[name]}/{part}.bin", "uint16")
            for i in own.tolist():
                writer.add(np.full(length(i), BASE[name] + i), mask(i))
            shards.append(writer.close(root))
        tokens = sum(length(i) for i in range(size))
        trained = sum(int(mask(i).sum()) for i in range(size))
        sources.append(SourceManifest(name, size, size, tokens, trained, 0, 0, 0, 0, tuple(shards)))
    return ChatManifest(
        root.name, CONTEXT, "drop", "plain.jinja", {}, "t", 2**16, PAD, "uint16", tuple(sources)
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatTokens]:
    root = tmp_path_factory.mktemp("chat")
    return open_sources(root, write(root))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> ChatManifest:
    return write(tmp_path_factory.mktemp("manifest"))


Make = Callable[..., ChatSampler]


@pytest.fixture(scope="module")
def sampler(sources: dict[str, ChatTokens]) -> Make:
    def make(seed: int = 0, **epochs: float) -> ChatSampler:
        """Epochs by the first letter of the source; the others are left out."""
        named = {name: epochs[name[0]] for name in sources if name[0] in epochs}
        own = {name: sources[name] for name in named}
        return ChatSampler(own, named, context=CONTEXT, seed=seed, pad_id=PAD)

    return make


def conversations(block: ChatBlocks) -> list[int]:
    """Ids in the order in which they stand, one a conversation, checked token by token."""
    found = []
    assert block.ids.shape == (CONTEXT + 1,)
    assert block.weights.shape == block.documents.shape == (CONTEXT,)
    assert block.ids[-1] == PAD
    for number in range(int(block.documents.max()) + 1):
        at = np.flatnonzero(block.documents == number)
        assert (np.diff(at) == 1).all(), "a document lies in one piece"
        ids = np.unique(block.ids[at])
        assert len(ids) == 1
        if ids[0] == PAD:
            assert at[-1] == CONTEXT - 1
            assert not block.weights[at].any()
            continue
        base = max(b for b in BASE.values() if b <= ids[0])
        index = int(ids[0]) - base
        assert len(at) == length(index)
        # What is weighted at a position is the token after it.
        assert block.weights[at[:-1]].tolist() == mask(index)[1:].astype(int).tolist()
        assert block.weights[at[-1]] == 0
        found.append(int(ids[0]))
    return found


def read(sampler: ChatSampler) -> list[list[int]]:
    return [conversations(sampler.block(i)) for i in range(sampler.blocks)]


def numbers(name: str) -> Counter[int]:
    return Counter(range(BASE[name], BASE[name] + SIZES[name]))


@given(seed=st.integers(0, 2**31), epochs=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_every_conversation_once_an_epoch_and_whole(sampler: Make, seed: int, epochs: int) -> None:
    made = sampler(seed, a=epochs, b=1, c=2)
    seen = Counter(i for block in read(made) for i in block)
    expected = Counter({k: v * n for name, n in zip(SIZES, (epochs, 1, 2), strict=True)
                        for k, v in numbers(name).items()})  # fmt: skip
    assert seen == expected
    told = {r.domain: r for r in made.realised()}
    assert [told[name].epochs for name in SIZES] == [epochs, 1, 2]
    total = sum(r.tokens for r in told.values())
    assert made.fill == total / (made.blocks * CONTEXT)
    for name in SIZES:
        own = {k - BASE[name]: n for k, n in seen.items() if k in numbers(name)}
        assert told[name].tokens == sum(length(i) * n for i, n in own.items())
        assert told[name].trained_tokens == sum(int(mask(i).sum()) * n for i, n in own.items())
        assert told[name].conversations == sum(own.values())
        assert told[name].requested == pytest.approx(told[name].realised, abs=1e-12)
    assert sum(r.blocks for r in told.values()) == made.blocks


def test_epochs_of_a_source_follow_each_other_each_in_its_own_order(sampler: Make) -> None:
    blocks = read(sampler(a=2))
    once = sampler(a=1).blocks
    first, second = blocks[:once], blocks[once:]
    for epoch in (first, second):
        assert Counter(i for block in epoch for i in block) == numbers("a")
    assert {tuple(b) for b in first} != {tuple(b) for b in second}
    # An epoch is as full as best fit makes it: of any two blocks, half and more.
    sizes = sorted(sum(length(i - BASE["a"]) for i in block) for block in first)
    assert sizes[0] + sizes[1] > CONTEXT
    assert sampler(a=2).fill > 0.95


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_order_is_a_function_of_the_seed(sampler: Make, seed: int) -> None:
    first, again, other = (read(sampler(s, a=1, b=1)) for s in (seed, seed, seed + 1))
    assert first == again
    assert first != other


def test_a_source_is_read_alike_whatever_stands_beside_it(
    sampler: Make, sources: Mapping[str, ChatTokens]
) -> None:
    alone = read(sampler(a=2))
    mixed = [b for b in read(sampler(a=2, b=3.5, c=1)) if b[0] in numbers("a")]
    assert mixed == alone
    turned = ChatSampler(
        {n: sources[n] for n in ("b", "a")}, {"a": 2, "b": 1}, context=CONTEXT, seed=0, pad_id=PAD
    )
    assert [b for b in read(turned) if b[0] in numbers("a")] == alone


def test_sources_are_not_shuffled_alike(sources: Mapping[str, ChatTokens]) -> None:
    twin = copy(sources["a"])
    twin.source = "twin"
    one, other = (
        ChatSampler({t.source: t}, {t.source: 1}, context=CONTEXT, seed=0, pad_id=PAD)
        for t in (sources["a"], twin)
    )
    assert read(one) != read(other)


def test_long_conversations_stand_anywhere_in_an_epoch(sampler: Make) -> None:
    """Though the longest are packed first."""
    longest = BASE["a"] + max(range(SIZES["a"]), key=length)
    found = [read(sampler(seed, a=1)) for seed in range(12)]
    places = [next(n for n, b in enumerate(run) if longest in b) / len(run) for run in found]
    assert min(places) < 0.4
    assert max(places) > 0.6


def test_a_longer_run_begins_with_the_whole_epochs_of_a_shorter_one(sampler: Make) -> None:
    once = read(sampler(b=1))
    assert read(sampler(b=2.4))[: len(once)] == once


@given(epochs=st.floats(0.02, 3.5), seed=st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_part_of_an_epoch_is_a_seeded_part(sampler: Make, epochs: float, seed: int) -> None:
    made = sampler(seed, a=epochs)
    seen = Counter(i for block in read(made) for i in block)
    whole = int(epochs)
    assert set(seen.values()) <= {whole, whole + 1}
    assert epochs < 1 or set(seen) == set(numbers("a"))
    asked = epochs * sum(length(i) for i in range(SIZES["a"]))
    assert abs(made.realised()[0].tokens - asked) <= CONTEXT / 2


def test_parts_of_other_seeds_hold_other_conversations(sampler: Make) -> None:
    parts = [{i for block in read(sampler(seed, a=0.5)) for i in block} for seed in range(8)]
    assert len({frozenset(part) for part in parts}) == 8
    # None is left out for good: of 300, eight halves miss 1.2 on average.
    assert len(set().union(*parts)) > 0.95 * SIZES["a"]


def data(weights: Mapping[str, float] | None = None, **epochs: float) -> ChatData:
    named = {name: {"weight": w} for name, w in (weights or {}).items()}
    named |= {name: {"epochs": epochs[name[0]]} for name in SIZES if name[0] in epochs}
    return ChatData(sources=tuple({"name": n, "files": ("x",), **s} for n, s in named.items()))


@given(
    raw=st.tuples(*[st.floats(0.01, 1)] * 3),
    tokens=st.integers(3000, 20_000),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_shares_of_tokens_are_within_half_a_block(
    sources: Mapping[str, ChatTokens], manifest: ChatManifest,
    raw: tuple[float, ...], tokens: int, seed: int,
) -> None:  # fmt: skip
    weights = {name: w / sum(raw) for name, w in zip(SIZES, raw, strict=True)}
    assume(min(weights.values()) * tokens > CONTEXT)
    epochs = source_epochs(data(weights), manifest, tokens)
    made = ChatSampler(sources, epochs, context=CONTEXT, seed=seed, pad_id=PAD)
    for told in made.realised():
        assert told.requested == pytest.approx(weights[told.domain])
        assert abs(told.tokens - weights[told.domain] * tokens) <= CONTEXT / 2
        assert told.tokens / sum(r.tokens for r in made.realised()) == told.realised


def test_sources_are_interleaved_evenly(sampler: Make) -> None:
    made = sampler(a=1, b=2, c=3)
    of = made.places(0, made.blocks)[:, 0]
    for told in made.realised():
        counts = np.cumsum(of == made.names.index(told.domain))
        expected = np.arange(1, made.blocks + 1) * told.blocks / made.blocks
        assert (np.abs(counts - expected) < 2).all()


def test_steps_are_read_by_index_by_any_number_of_processes(sampler: Make) -> None:
    made, resumed = sampler(3, a=1.3, b=2), sampler(3, a=1.3, b=2)
    batch = 6
    assert made.steps(batch) == -(-made.blocks // batch)
    whole = [made.batch(made.places(s * batch, batch)) for s in range(made.steps(batch))]
    step = made.steps(batch) // 2
    again = resumed.batch(resumed.places(step * batch, batch))
    for rank in range(3):
        part = resumed.batch(resumed.places(step * batch, batch)[rank::3])
        for ours, alone in ((whole[step], again), (ChatBlocks(*_rows(again, rank)), part)):
            assert (ours.ids == alone.ids).all()
            assert (ours.weights == alone.weights).all()
            assert (ours.documents == alone.documents).all()
    for row in range(batch):
        one = resumed.block(step * batch + row)
        assert (one.ids == whole[step].ids[row]).all()
        assert (one.weights == whole[step].weights[row]).all()
    assert whole[0].ids.shape == (batch, CONTEXT + 1)
    assert whole[0].weights.shape == whole[0].documents.shape == (batch, CONTEXT)


def _rows(blocks: ChatBlocks, rank: int) -> tuple[np.ndarray, ...]:
    return blocks.ids[rank::3], blocks.weights[rank::3], blocks.documents[rank::3]


def test_the_last_step_is_filled_with_padding(sampler: Make) -> None:
    made = sampler(c=1)
    last = made.places(made.blocks - 1, 4)
    assert last[:, 1].tolist()[1:] == [PADDING] * 3
    blocks = made.batch(last)
    assert blocks.weights[0].any()
    assert not blocks.weights[1:].any()
    assert (blocks.ids[1:] == PAD).all()
    assert not blocks.documents[1:].any()
    for index in (made.blocks, -1):
        with pytest.raises(IndexError, match=f"block {index} of a run of {made.blocks}"):
            made.block(index)


def test_conversations_are_numbered_through_the_shards(sources: Mapping[str, ChatTokens]) -> None:
    for name, size in SIZES.items():
        for i in range(size):
            ids, trained = sources[name].conversation(i)
            assert ids.tolist() == [BASE[name] + i] * length(i)
            assert (trained == mask(i)).all()


def test_epochs_of_sources(manifest: ChatManifest) -> None:
    assert source_epochs(data(a=1, b=2.5, c=3), manifest) == {"a": 1, "b": 2.5, "c/d": 3}
    weights = {"a": 0.2, "b": 0.5, "c/d": 0.3}
    once = source_epochs(data(weights), manifest)
    for name, weight in weights.items():
        expected = weight * manifest.tokens / manifest.source(name).tokens
        assert once[name] == pytest.approx(expected)
    with pytest.raises(UserError, match=r"tokens: 1,000 were asked for, but the sources have epo"):
        source_epochs(data(a=1, b=1, c=1), manifest, 1000)
    with pytest.raises(UserError, match="the stage has the sources a, b; the conversations were b"):
        source_epochs(data(a=1, b=1), manifest)


def test_what_cannot_be_planned_is_refused(sources: Mapping[str, ChatTokens]) -> None:
    def plan(epochs: Mapping[str, float], context: int = CONTEXT) -> ChatSampler:
        return ChatSampler(sources, epochs, context=context, seed=0, pad_id=PAD)

    with pytest.raises(UserError, match="epochs are given for a, b, e; the sources are a, b, c/d"):
        plan({"a": 1, "b": 1, "e": 1})
    with pytest.raises(
        UserError, match=r"source 'b': 0\.0001 epochs of its [\d,]+ tokens are less"
    ):
        plan({"a": 1, "b": 1e-4, "c/d": 1})
    with pytest.raises(
        UserError, match=r"source 'a': a conversation has 32 tokens, the context is"
    ):
        plan(dict.fromkeys(SIZES, 1), CONTEXT - 1)
