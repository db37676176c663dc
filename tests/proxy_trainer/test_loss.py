"""The chunked loss is cross-entropy: value, gradients, any size, every member by itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from proxy_trainer import loss
from proxy_trainer.loss import cross_entropy, token_nats


def made(
    members: int, rows: int, width: int, vocab: int, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(members * 1000 + rows)
    hidden = torch.randn(members, rows, width, dtype=dtype, generator=generator)
    weight = torch.randn(members, width, vocab, dtype=dtype, generator=generator)
    target = torch.randint(vocab, (members, rows), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), target


def plain(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, z_loss: float
) -> torch.Tensor:
    logits = hidden @ weight
    nats = F.cross_entropy(logits.transpose(1, 2), target, reduction="none").mean(1)
    return nats + z_loss * logits.logsumexp(-1).square().mean(1)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 rows at a vocabulary of 50, so that a small input has several, the last one short."""
    monkeypatch.setitem(loss.CHUNK_LOGITS, "cpu", 64 * 50)


SIZES = [
    (1, 1, 4, 3),
    (1, 63, 4, 50),
    (2, 64, 8, 50),
    (1, 65, 8, 50),
    (3, 150, 6, 50),
    (2, 9, 5, 2),
]


@pytest.mark.parametrize("z_loss", [0.0, 1e-4, 0.3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_value_and_gradients_are_those_of_the_plain_formula(
    size: tuple[int, int, int, int], z_loss: float, dtype: torch.dtype
) -> None:
    hidden, weight, target = made(*size, dtype)
    scale = torch.arange(1, size[0] + 1, dtype=dtype)
    ours = cross_entropy(hidden, weight, target, z_loss)[0]
    found = torch.autograd.grad((scale * ours).sum(), (hidden, weight))
    expected = plain(hidden, weight, target, z_loss)
    wanted = torch.autograd.grad((scale * expected).sum(), (hidden, weight))
    exact = dtype == torch.float64
    torch.testing.assert_close(
        ours, expected, rtol=1e-12 if exact else 1e-5, atol=1e-12 if exact else 1e-5
    )
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            a, b, rtol=1e-10 if exact else 1e-4, atol=1e-12 if exact else 1e-5
        )


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_gradcheck(z_loss: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loss.CHUNK_LOGITS, "cpu", 20)
    hidden, weight, target = made(2, 6, 3, 5)
    assert torch.autograd.gradcheck(
        lambda h, w: cross_entropy(h, w, target, z_loss)[0], (hidden, weight)
    )


@pytest.mark.parametrize("least", [1, 16, 64])
def test_members_that_share_chunks_come_to_the_same(
    least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: all of one chunk, two, or one."""
    chunks = loss._chunks
    monkeypatch.setattr(loss, "_chunks", lambda _, *sizes: chunks("cuda", *sizes))
    monkeypatch.setitem(loss.CHUNK_LOGITS, "cuda", 40 * 50)
    monkeypatch.setattr(loss, "LEAST_ROWS", least)
    hidden, weight, target = made(3, 150, 6, 50)
    ours = cross_entropy(hidden, weight, target, 0.1)[0]
    expected = plain(hidden, weight, target, 0.1)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(ours.sum(), (hidden, weight))
    wanted = torch.autograd.grad(expected.sum(), (hidden, weight))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("members", "rows", "vocabulary", "each"),
    [(32, 16_384, 50_432, 1), (32, 16_384, 8_192, 8), (8, 16_384, 512, 8), (1, 16_384, 50_432, 1),
     (32, 512, 50_432, 10)],
)  # fmt: skip
def test_a_chunk_on_a_gpu_is_worth_reading_its_heads_for(
    members: int, rows: int, vocabulary: int, each: int
) -> None:
    seen = torch.zeros(members, rows, dtype=torch.int64)
    for own, part in loss._chunks("cuda", members, rows, vocabulary):
        size = seen[own, part].numel()
        assert size * vocabulary <= loss.CHUNK_LOGITS["cuda"]
        assert len(seen[own]) <= each
        seen[own, part] += 1
    assert bool((seen == 1).all())
    first = loss._chunks("cuda", members, rows, vocabulary)[0]
    assert len(seen[first[0]]) == each
    assert seen[first].shape[1] >= min(rows, 4096)


def test_shares_weigh_every_token() -> None:
    hidden, weight, target = made(2, 150, 6, 50)
    share = torch.rand(2, 150, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    share[:, ::3] = 0
    ours, nats = cross_entropy(hidden, weight, target, 0.1, share)
    logits = hidden @ weight
    each = F.cross_entropy(logits.transpose(1, 2), target, reduction="none")
    expected = (share * (each + 0.1 * logits.logsumexp(-1).square())).sum(1)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(nats, each.detach(), rtol=1e-12, atol=1e-12)
    assert not nats.requires_grad
    found = torch.autograd.grad(ours.sum(), (hidden, weight))
    wanted = torch.autograd.grad(expected.sum(), (hidden, weight))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("factor", [1e2, 1e3, 1e6])
def test_large_logits_stay_finite(factor: float) -> None:
    """Where probabilities underflow, nats are still the difference of logits."""
    hidden, weight, target = made(1, 70, 8, 50, torch.float32)
    ours = cross_entropy(hidden * factor, weight, target)[0]
    expected = plain(hidden * factor, weight, target, 0)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=0)
    for gradient in torch.autograd.grad(ours.sum(), (hidden, weight)):
        assert gradient.isfinite().all()


def test_what_is_no_number_stays_with_its_member() -> None:
    hidden, weight, target = made(3, 70, 8, 50, torch.float32)
    with torch.no_grad():
        hidden[1, 5, 2] = torch.nan
    found = cross_entropy(hidden, weight, target)[0]
    assert found.isfinite().tolist() == [True, False, True]
    gradient = torch.autograd.grad(found.sum(), weight)[0]
    assert gradient.flatten(1).isfinite().all(1).tolist() == [True, False, True]


def test_a_strided_weight_is_read_as_it_is() -> None:
    """As that of tied embeddings, which is the transpose of what is stored."""
    hidden, weight, target = made(2, 80, 8, 50, torch.float32)
    stored = weight.detach().transpose(1, 2).contiguous().requires_grad_()
    found = cross_entropy(hidden, stored.transpose(1, 2), target)[0]
    torch.testing.assert_close(found, plain(hidden, weight, target, 0), rtol=1e-5, atol=1e-5)
    ours = torch.autograd.grad(found.sum(), stored)[0].transpose(1, 2)
    wanted = torch.autograd.grad(plain(hidden, weight, target, 0).sum(), weight)[0]
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
def test_token_nats_are_the_losses_one_by_one(rows: int) -> None:
    hidden, weight, target = made(2, rows, 8, 50)
    found = token_nats(hidden, weight, target)
    logits = (hidden @ weight).transpose(1, 2)
    expected = F.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)
    assert not found.requires_grad
