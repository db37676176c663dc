"""What a run sees is exact, seekable, and the same text for every mixture with one seed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy_trainer.data import pool as pool_module
from proxy_trainer.data.pool import TokenPool
from proxy_trainer.data.sampler import DomainStream, MixtureSampler, open_streams
from proxy_trainer.data.shards import DomainTokens, ShardWriter
from regmix.errors import UserError
from regmix.layout import StudyLayout
from regmix.manifest import DataManifest, DomainManifest, SplitManifest
from regmix.mixture import Mixture

CONTEXT = 16
SIZES = {"a": 1000, "b": 517, "c": 90}
BASE = {"a": 0, "b": 10_000, "c": 20_000}
"""Token ids tell domain and position: position p of domain d is BASE[d] + p."""


def write_data(root: Path) -> tuple[StudyLayout, DataManifest]:
    """Shards whose tokens tell where they stand: two shards for 'a', one for the others."""
    layout = StudyLayout(root)
    domains = []
    for name, size in SIZES.items():
        shards, position = [], 0
        for index, length in enumerate([size // 3, size - size // 3] if name == "a" else [size]):
            writer = ShardWriter(layout.domain_tokens(name) / f"train-{index}.bin", "uint16")
            ids = list(range(BASE[name] + position, BASE[name] + position + length))
            writer.add(ids[:10], 5)
            writer.add(ids[10:], 7)
            position += length
            shards.append(writer.close(layout.tokens))
        split = SplitManifest(size, 2 * len(shards), 12, tuple(shards))
        domains.append(DomainManifest(name, split, split))
    return layout, DataManifest(tuple(domains), 2**16, 0, "uint16", "t")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyLayout, DataManifest]:
    return write_data(tmp_path_factory.mktemp("data"))


class Reader:
    """A sampler, and the text at the places that it names."""

    def __init__(
        self,
        data: tuple[StudyLayout, DataManifest],
        mixture: Mixture,
        context: int = CONTEXT,
        blocks: int = 200,
        seed: int = 0,
        share: float = 1.0,
    ) -> None:
        streams = open_streams(*data, context=context, seed=seed, share=share)
        self.sampler = MixtureSampler(streams, mixture, context=context, blocks=blocks, seed=seed)
        self._pool = TokenPool(streams, context=context, device=torch.device("cpu"))

    def batch(self, first: int, count: int) -> np.ndarray:
        return self._pool.batch(self.sampler.places(first, count)).numpy()


MakeSampler = Callable[..., Reader]


@pytest.fixture(scope="module")
def sampler(data: tuple[StudyLayout, DataManifest]) -> MakeSampler:
    def make(*w: float, **settings: float) -> Reader:
        return Reader(data, Mixture.of(dict(zip(SIZES, w, strict=True))), **settings)

    return make


def test_a_pool_that_is_held_whole_gives_what_is_read_from_the_files(
    data: tuple[StudyLayout, DataManifest],
) -> None:
    """As a GPU holds it; of several runs at once, from every domain and both of a's shards."""
    streams = open_streams(*data, context=CONTEXT, seed=3)
    places = np.stack(
        [
            MixtureSampler(
                streams, Mixture.of(dict(zip(SIZES, w, strict=True))),
                context=CONTEXT, blocks=200, seed=3,
            ).places(0, 200)
            for w in ((0.6, 0.3, 0.1), (0.2, 0.3, 0.5))
        ]
    )  # fmt: skip
    cpu = torch.device("cpu")
    pools = [TokenPool(streams, context=CONTEXT, device=cpu, resident=r) for r in (True, False)]
    assert [pool.resident for pool in pools] == [True, False]
    held, read = (pool.batch(places) for pool in pools)
    assert held.shape == (2, 200, CONTEXT + 1)
    assert held.dtype == read.dtype
    assert torch.equal(held, read)
    assert not TokenPool(streams, context=CONTEXT, device=cpu).resident


@pytest.mark.parametrize(("dtype", "shards"), [("uint16", 1), ("uint16", 4), ("uint32", 4)])
def test_filling_a_pool_takes_a_piece_of_the_hosts_memory_whatever_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, shards: int
) -> None:
    """Beside the pool itself, which is in torch's memory: what is counted here is numpy's."""
    layout, length, piece = StudyLayout(tmp_path), 50_000, 7000
    ids = np.random.default_rng(0).integers(2 ** (16 if dtype == "uint16" else 18), size=4 * length)
    made = []
    for index, part in enumerate(np.split(ids, shards)):
        writer = ShardWriter(layout.domain_tokens("a") / f"train-{index}.bin", dtype)
        writer.add(part.tolist(), 1)
        made.append(writer.close(layout.tokens))
    split = SplitManifest(len(ids), shards, 1, tuple(made))
    manifest = DataManifest((DomainManifest("a", split, split),), 2**18, 0, dtype, "t")
    streams = open_streams(layout, manifest, context=CONTEXT, seed=0)
    monkeypatch.setattr(pool_module, "_PIECE", piece)
    tracemalloc.start()
    pool = TokenPool(streams, context=CONTEXT, device=torch.device("cpu"), resident=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 4 * piece + 20_000
    places = np.stack([np.zeros(40, dtype=int), np.arange(0, len(ids) - CONTEXT, 5000)], axis=1)
    assert (pool.batch(places).numpy() == ids[places[:, 1:] + np.arange(CONTEXT + 1)]).all()
    assert pool._pool.numpy().tolist() == ids.tolist()


def by_domain(blocks: np.ndarray) -> dict[str, np.ndarray]:
    """The blocks of every domain in the order in which they were read."""
    return {
        name: blocks[(blocks[:, 0] >= base) & (blocks[:, 0] < base + 10_000)]
        for name, base in BASE.items()
    }


def test_blocks_are_consecutive_tokens_of_one_domain(sampler: MakeSampler) -> None:
    blocks = sampler(0.6, 0.3, 0.1).batch(0, 200)
    assert blocks.shape == (200, CONTEXT + 1)
    assert (np.diff(blocks, axis=1) == 1).all()
    for name, own in by_domain(blocks).items():
        assert own.min() >= BASE[name]
        assert own.max() < BASE[name] + SIZES[name]


@given(first=st.integers(0, 199), count=st.integers(0, 64))
@settings(max_examples=60, deadline=None)
def test_any_position_can_be_read_directly(sampler: MakeSampler, first: int, count: int) -> None:
    count = min(count, 200 - first)
    whole = sampler(0.6, 0.3, 0.1).batch(0, 200)
    fresh = sampler(0.6, 0.3, 0.1)
    assert (fresh.batch(first, count) == whole[first : first + count]).all()


def test_one_seed_reads_the_same_text_of_a_domain_in_every_mixture(sampler: MakeSampler) -> None:
    one = by_domain(sampler(0.6, 0.3, 0.1, seed=4).batch(0, 200))
    two = by_domain(sampler(0.1, 0.3, 0.6, blocks=150, seed=4).batch(0, 150))
    for name in SIZES:
        shared = min(len(one[name]), len(two[name]))
        assert shared > 10
        assert (one[name][:shared] == two[name][:shared]).all()


def test_another_seed_reads_in_another_order(sampler: MakeSampler) -> None:
    one = by_domain(sampler(0.6, 0.3, 0.1, seed=0).batch(0, 200))
    two = by_domain(sampler(0.6, 0.3, 0.1, seed=1).batch(0, 200))
    for name in SIZES:
        assert (one[name] != two[name]).any()


def block(stream: DomainStream, number: int) -> np.ndarray:
    start = stream.start(number)
    return stream.tokens.take(np.arange(start, start + CONTEXT + 1))


@pytest.mark.parametrize("name", SIZES)
def test_an_epoch_reads_every_token_once_but_the_cut_ends(
    data: tuple[StudyLayout, DataManifest], name: str
) -> None:
    stream = DomainStream(DomainTokens(*data, name, "train"), 5, 0, CONTEXT)
    epochs = []
    for epoch in range(6):
        numbers = range(epoch * stream.blocks_per_epoch, (epoch + 1) * stream.blocks_per_epoch)
        blocks = np.array([block(stream, n) for n in numbers])
        inputs = blocks[:, :-1] - BASE[name]
        assert len(np.unique(inputs)) == inputs.size
        assert np.unique(inputs).tolist() == list(range(inputs.min(), inputs.max() + 1))
        left_out = SIZES[name] - inputs.size
        assert CONTEXT <= left_out < 2 * CONTEXT
        epochs.append(inputs)
    orders = {e.tobytes() for e in epochs}
    assert len(orders) == 6, "two epochs have the same order"
    assert len({int(e.min()) for e in epochs}) > 1, "the cuts never move"


def test_a_stream_can_be_read_back_and_forth_over_epochs(
    data: tuple[StudyLayout, DataManifest],
) -> None:
    stream = DomainStream(DomainTokens(*data, "c", "train"), 5, 0, CONTEXT)
    forward = [stream.start(n) for n in range(20)]
    backward = [stream.start(n) for n in reversed(range(20))]
    assert forward == backward[::-1]


def test_realised_adds_up(sampler: MakeSampler) -> None:
    made = sampler(0.6, 0.4, 0.0)
    found = {r.domain: r for r in made.sampler.realised()}
    read = by_domain(made.batch(0, 200))
    assert sum(r.tokens for r in found.values()) == 200 * CONTEXT
    assert sum(r.realised for r in found.values()) == pytest.approx(1)
    for name, r in found.items():
        assert r.tokens == len(read[name]) * CONTEXT
        assert r.realised == len(read[name]) / 200
        assert r.epochs == len(read[name]) / ((SIZES[name] - CONTEXT) // CONTEXT)
        assert abs(r.realised - r.requested) < 1 / 200
    assert (found["c"].tokens, found["c"].requested) == (0, 0.0)


@pytest.mark.parametrize("blocks", [1, 3, 4, 5, 8, 9])
def test_epochs_are_passes_also_over_a_domain_of_a_few_blocks(
    sampler: MakeSampler, blocks: int
) -> None:
    made = sampler(0.0, 0.0, 1.0, blocks=blocks)
    found = made.sampler.realised()[2]
    assert found.epochs == blocks / 4  # 90 tokens in blocks of 16: four fit at every offset
    starts = made.batch(0, blocks)[:, 0]
    full = [starts[i : i + 4] for i in range(0, blocks, 4)]
    assert len(full) == -(-blocks // 4) == int(np.ceil(found.epochs))
    for one in full:
        assert len(set(one % CONTEXT)) == 1, "blocks of two passes in one"
        assert len(set(one)) == len(one), "a block twice in one pass"


def test_a_domain_shorter_than_two_contexts_is_an_error_with_its_numbers(
    data: tuple[StudyLayout, DataManifest],
) -> None:
    mixture = Mixture.uniform(tuple(SIZES))
    with pytest.raises(UserError, match=r"domain 'c': 90 training tokens .* context of 45.* 90"):
        Reader(data, mixture, context=45, blocks=10)


def test_a_short_domain_with_no_weight_is_no_error(data: tuple[StudyLayout, DataManifest]) -> None:
    mixture = Mixture.of({"a": 0.5, "b": 0.5, "c": 0.0})
    made = Reader(data, mixture, context=45, blocks=10)
    assert len(by_domain(made.batch(0, 10))["c"]) == 0
    assert made.sampler.realised()[2].tokens == 0


def test_a_mixture_over_other_domains_is_an_error(data: tuple[StudyLayout, DataManifest]) -> None:
    with pytest.raises(UserError, match="mixture is over b, a, c; the data holds a, b, c"):
        Reader(data, Mixture.uniform(("b", "a", "c")), context=8, blocks=1)


@pytest.mark.parametrize("share", [0.5, 0.27])
def test_a_part_of_the_data_is_read_as_often_as_the_whole_would_be_in_a_longer_run(
    sampler: MakeSampler, share: float
) -> None:
    whole = sampler(0.5, 0.3, 0.2, blocks=400)
    part = sampler(0.5, 0.3, 0.2, blocks=round(400 * share), share=share)
    for long, short in zip(whole.sampler.realised(), part.sampler.realised(), strict=True):
        assert short.epochs == pytest.approx(long.epochs, rel=0.25)  # blocks are few here
    read = by_domain(part.batch(0, part.sampler.blocks))
    for name, size in SIZES.items():
        assert len(np.unique(read[name][:, 0])) <= share * (size // CONTEXT)


def test_a_part_that_is_less_than_a_block_is_an_error(sampler: MakeSampler) -> None:
    with pytest.raises(UserError, match=r"domain 'c': 0\.1 of its 90 training tokens"):
        sampler(0.5, 0.3, 0.2, share=0.1)


def test_members_share_streams_and_read_as_they_would_alone(
    data: tuple[StudyLayout, DataManifest], sampler: MakeSampler
) -> None:
    """At different epochs of one domain, in turns."""
    streams = open_streams(*data, context=CONTEXT, seed=0)
    mixtures = [(0.1, 0.1, 0.8), (0.8, 0.1, 0.1), (0.3, 0.3, 0.4)]
    shared = [
        MixtureSampler(
            streams, Mixture.of(dict(zip(SIZES, w, strict=True))),
            context=CONTEXT, blocks=200, seed=0,
        )
        for w in mixtures
    ]  # fmt: skip
    alone = [sampler(*w).sampler for w in mixtures]
    for first in range(0, 200, 20):
        for one, other in zip(shared, alone, strict=True):
            assert (one.places(first, 20) == other.places(first, 20)).all()
