"""What a decoder is to everything around it, whoever wrote its modules.

Two implementations: the native :class:`proxy_trainer.models.gpt.GPT` and
:class:`proxy_trainer.models.family.FamilyDecoder`, which has transformers' own modules. Tensor
shapes are in suffixes: B batch, T time, D model width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from regmix.families import Shape


class Decoder(nn.Module, ABC):
    """Decoder-only language model whose parameters have the names of transformers' state dict.

    Made on the ``meta`` device it has no weights; its units are then filled one by one, with
    :meth:`fill_`, and :meth:`complete_` adds what is no parameter.
    """

    shape: Shape
    vocab_size: int
    model: nn.Module
    """Holds ``embed_tokens``, ``layers`` and ``norm``."""
    lm_head: nn.Linear

    @property
    def blocks(self) -> list[nn.Module]:
        """The layers, in the order in which they are computed."""
        layers = self.model.layers
        assert isinstance(layers, nn.ModuleList)
        return list(layers)

    @property
    def units(self) -> list[nn.Module]:
        """Modules that hold every parameter once, in the order of ``parameters()``."""
        embedding, norm = self.model.embed_tokens, self.model.norm
        assert isinstance(embedding, nn.Module)
        assert isinstance(norm, nn.Module)
        head = [] if self.shape.tied_embeddings else [self.lm_head]
        return [embedding, *self.blocks, norm, *head]

    @property
    def head_VD(self) -> Tensor:  # noqa: N802
        """The head's matrix, ``(V, D)``."""
        return self.lm_head.weight

    @abstractmethod
    def hidden(
        self, ids_BT: Tensor, mask: Tensor | None = None, place_BT: Tensor | None = None
    ) -> Tensor:
        """Final normalised hidden states, ``(B, T, D)``.

        Args:
            mask: positions that may be attended to, ``(B, 1, T, T)``, never later ones; causal if
                not given. Layers with a window see of them what is in it.
            place_BT: where in its text each token stands; in the order of T if not given.
        """

    @abstractmethod
    def draw_(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """One parameter's initial values.

        Args:
            name: of the parameter in its unit.
        """

    @abstractmethod
    def place_(self) -> None:
        """Tables of positions, which are no parameters."""

    def initialise(self, seed: int) -> None:
        """Every parameter as :meth:`draw_` has it. A function of the seed alone."""
        generator = torch.Generator().manual_seed(seed)
        for unit in self.units:
            self._draw(unit, generator)

    def fill_(self, unit: nn.Module, generator: torch.Generator | None) -> None:
        """Give a unit memory, and initial values unless there is no generator."""
        unit.to_empty(device="cpu")
        if generator is not None:
            self._draw(unit, generator)

    def complete_(self) -> None:
        """Tie the head where it is tied, and place what is no parameter, once units have memory."""
        if self.shape.tied_embeddings:
            embedding = self.model.embed_tokens
            assert isinstance(embedding, nn.Embedding)
            self.lm_head.weight = embedding.weight
        self.place_()

    def _draw(self, unit: nn.Module, generator: torch.Generator) -> None:
        with torch.no_grad():
            for name, parameter in unit.named_parameters():
                self.draw_(name, parameter, generator)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits, ``(B, T, V)``."""
        logits_BTV: Tensor = self.lm_head(self.hidden(ids_BT))
        return logits_BTV
