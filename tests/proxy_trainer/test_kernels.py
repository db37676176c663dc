"""Hand-written gradients against autograd's, in double precision's eyes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from proxy_trainer.models import kernels
from proxy_trainer.models.gpt import NORM_EPS, rope_angles


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + NORM_EPS) * weight


def _attention(x_BTC: Tensor, heads: int) -> Tensor:
    B, T, C = x_BTC.shape
    E = C // (3 * heads)
    q, k, v = x_BTC.view(B, T, 3, heads, E).permute(2, 0, 3, 1, 4)
    turn_TE = _turn(T, E).to(torch.complex128)
    q, k = (
        torch.view_as_real(torch.view_as_complex(z.unflatten(-1, (-1, 2)).contiguous()) * turn_TE)
        .flatten(-2)
        for z in (q, k)
    )  # fmt: skip
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return y.transpose(1, 2).reshape(B, T, heads * E)


def _turn(length: int, width: int) -> Tensor:
    angle_TE = rope_angles(length, width)
    return torch.polar(torch.ones_like(angle_TE), angle_TE)


def _attending(length: int) -> Callable[[Tensor], Tensor]:
    return lambda x: kernels.causal_attention(x, _turn(length, 16), 2)


CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "rms_norm": (kernels.rms_norm, _rms, [(3, 50, 24), (3, 1, 24)]),
    "norm_linear": (
        kernels.norm_linear,
        lambda x, weight, w: _rms(x, weight) @ w,
        [(3, 50, 24), (3, 1, 24), (3, 24, 40)],
    ),
    "linear": (kernels.linear, torch.matmul, [(3, 50, 24), (3, 24, 40)]),
    "swiglu": (
        kernels.swiglu,
        lambda x: F.silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1],
        [(3, 50, 48)],
    ),
    **{
        f"attention {length}": (
            _attending(length),
            lambda x: _attention(x, 2),
            [(4, length, 96)],
        )
        for length in (1, 63, 64, 65, 128, 200, 300)
    },
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_formula(name: str) -> None:
    fast, formula, shapes = CASES[name]
    torch.manual_seed(0)
    given = [3 * torch.randn(size) for size in shapes]
    single = [x.clone().requires_grad_() for x in given]
    double = [x.double().requires_grad_() for x in given]
    found, true = fast(*single), formula(*double)
    g = torch.randn(found.shape)
    found.backward(g)
    true.backward(g.double())
    torch.testing.assert_close(found.double(), true, rtol=1e-4, atol=1e-4)
    for x, y in zip(single, double, strict=True):
        assert x.grad is not None
        assert y.grad is not None
        torch.testing.assert_close(x.grad.double(), y.grad, rtol=2e-4, atol=2e-4)


def test_swiglu_is_exact_far_out() -> None:
    """Where a sigmoid is 0 or 1 the slope is too."""
    x = torch.tensor([[[-200.0, -30.0, 0.0, 30.0, 200.0, 1.0, 1.0, 1.0, 1.0, 1.0]]])
    x.requires_grad_()
    kernels.swiglu(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(
        x.grad[0, 0, :5], torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]), rtol=1e-6, atol=1e-10
    )
