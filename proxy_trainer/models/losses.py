"""Decoders as functions from text to its loss.

Losses are taken inside the forward pass, where the head is whole even if its parameters are spread
over processes: full logits never exist.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proxy_trainer.loss import by_row, cross_entropy, token_nats, token_scores
from proxy_trainer.models.decoder import Decoder
from proxy_trainer.models.family import FamilyDecoder
from proxy_trainer.models.gpt import GPT
from regmix.families import Shape
from regmix.sizes import ModelShape


class Losses(Decoder):
    """A decoder as a function from text to its loss."""

    half_precision = False

    def loss(
        self,
        ids_BT: Tensor,
        target_BT: Tensor,
        share_BT: Tensor | None,
        z_loss: float,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Loss, a scalar, and every target's nats without gradient, ``(B, T)``.

        Args:
            share_BT: what each target counts for; the mean over all if not given.
        """
        with self._autocast(ids_BT):
            hidden_ND = self.hidden(ids_BT, mask).flatten(0, 1)
            # The loss sums gradients over chunks, which half precision is too coarse for.
            loss_K, nats_KN = cross_entropy(
                hidden_ND[None].float(),
                self._head_1DV,
                target_BT.flatten()[None],
                z_loss,
                None if share_BT is None else share_BT.flatten()[None],
            )
            return loss_K.sum(), nats_KN.view_as(target_BT)

    def nats(self, ids_BT: Tensor, keep_BT: Tensor, target_N: Tensor) -> Tensor:
        """Total nats of every window's targets, at the positions that are kept, ``(B,)``."""
        with self._autocast(ids_BT):
            hidden_ND = self.hidden(ids_BT)[keep_BT]
            nats_1N = token_nats(hidden_ND[None].float(), self._head_1DV, target_N[None])
            return by_row(nats_1N, keep_BT)[0]

    def scored(
        self, ids_BT: Tensor, seen_BTT: Tensor, place_BT: Tensor, at_N: Tensor, target_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Nats of tokens, and whether no other is likelier, ``(N,)`` each.

        Args:
            seen_BTT: what each position sees of its row.
            place_BT: where each position stands in its text.
            at_N: positions of all rows, one row after the other, that say something of a token.
        """
        with self._autocast(ids_BT):
            said_ND = self.hidden(ids_BT, seen_BTT[:, None], place_BT).flatten(0, 1)[at_N]
            found = token_scores(said_ND[None].float(), self._head_1DV, target_N[None])
            return found[0][0], found[1][0]

    @property
    def _head_1DV(self) -> Tensor:  # noqa: N802
        return self.head_VD.float().t()[None]

    def _autocast(self, ids_BT: Tensor) -> torch.autocast:
        return torch.autocast(ids_BT.device.type, torch.bfloat16, enabled=self.half_precision)


class LossGPT(Losses, GPT):
    """The native decoder's loss."""


class LossFamily(Losses, FamilyDecoder):
    """The loss of transformers' modules."""


def without_weights(shape: Shape, vocab_size: int) -> Losses:
    """A decoder on no device; :meth:`Decoder.fill_` gives it memory unit by unit."""
    with torch.device("meta"):
        if isinstance(shape, ModelShape):
            return LossGPT(shape, vocab_size)
        return LossFamily(shape, vocab_size)
