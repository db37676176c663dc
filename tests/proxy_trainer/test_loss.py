"""The chunked loss is cross-entropy: value, gradients, any size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from proxy_trainer.loss import CHUNK_ROWS, cross_entropy, token_nats


def made(
    batch: int, length: int, width: int, vocab: int, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    hidden = torch.randn(batch, length, width, dtype=dtype, generator=generator)
    weight = torch.randn(vocab, width, dtype=dtype, generator=generator)
    target = torch.randint(vocab, (batch, length), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), target


def plain(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, z_loss: float
) -> torch.Tensor:
    logits = hidden.flatten(0, 1) @ weight.T
    loss = F.cross_entropy(logits, target.flatten())
    return loss + z_loss * logits.logsumexp(-1).square().mean()


SIZES = [(1, 1, 4, 3), (1, 63, 4, 7), (2, 32, 8, 50), (1, 65, 8, 50), (3, 50, 6, 11), (4, 64, 5, 2)]


@pytest.mark.parametrize("z_loss", [0.0, 1e-4, 0.3])
@pytest.mark.parametrize("size", SIZES)
def test_value_and_gradients_are_those_of_the_plain_formula(
    size: tuple[int, int, int, int], z_loss: float
) -> None:
    hidden, weight, target = made(*size)
    ours = cross_entropy(hidden, weight, target, z_loss)
    found = torch.autograd.grad(3 * ours, (hidden, weight))
    expected = plain(hidden, weight, target, z_loss)
    wanted = torch.autograd.grad(3 * expected, (hidden, weight))
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_gradcheck(z_loss: float) -> None:
    hidden, weight, target = made(2, (CHUNK_ROWS + 6) // 2, 3, 5)
    assert torch.autograd.gradcheck(
        lambda h, w: cross_entropy(h, w, target, z_loss), (hidden, weight)
    )


def test_float32_agrees_to_float32() -> None:
    hidden, weight, target = made(4, 100, 32, 500, torch.float32)
    ours, expected = cross_entropy(hidden, weight, target), plain(hidden, weight, target, 0)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(
        torch.autograd.grad(ours, (hidden, weight)),
        torch.autograd.grad(expected, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_large_logits_stay_finite() -> None:
    hidden, weight, target = made(1, 70, 8, 50, torch.float32)
    ours = cross_entropy(hidden * 1e3, weight * 1e3, target)
    expected = plain(hidden * 1e3, weight * 1e3, target, 0)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=0)


def test_rows_of_a_strided_view_are_read_in_order() -> None:
    hidden, weight, target = made(6, 40, 8, 30)
    cut = hidden.transpose(0, 1)[:, 1:4]
    torch.testing.assert_close(
        cross_entropy(cut, weight, target.T[:, 1:4]), plain(cut, weight, target.T[:, 1:4], 0)
    )


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
def test_token_nats_are_the_losses_one_by_one(rows: int) -> None:
    hidden, weight, target = made(1, rows, 8, 50)
    found = token_nats(hidden[0], weight, target[0])
    expected = F.cross_entropy(hidden[0] @ weight.T, target[0], reduction="none")
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)
    assert not found.requires_grad
