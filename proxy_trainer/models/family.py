"""A decoder of one of transformers' families, of transformers' own modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from proxy_trainer.models.decoder import Decoder
from regmix.families import FULL, SLIDING, TransformersShape

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class FamilyDecoder(Decoder):
    """Llama, Qwen3, OLMo 2 or OLMo 3 as transformers computes them.

    No token is padding: every row of the embedding is trained.
    """

    shape: TransformersShape
    model: PreTrainedModel

    def __init__(self, shape: TransformersShape, vocab_size: int) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModelForCausalLM

        self.shape, self.vocab_size = shape, vocab_size
        config = AutoConfig.for_model(
            **shape.to_config(),
            vocab_size=vocab_size,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        with torch.device("meta"):  # units are filled one by one, by draw_ or from a file
            whole = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                config, attn_implementation="sdpa"
            )
        self.model, self.lm_head = whole.model, whole.lm_head

    def hidden(
        self, ids_BT: Tensor, mask: Tensor | None = None, place_BT: Tensor | None = None
    ) -> Tensor:
        """Final normalised hidden states; of :meth:`Decoder.hidden`."""
        found = self.model(
            input_ids=ids_BT,
            attention_mask=self._masks(mask, place_BT),
            position_ids=place_BT,
            use_cache=False,
        )
        last_BTD: Tensor = found.last_hidden_state
        return last_BTD

    def _masks(
        self, mask: Tensor | None, place_BT: Tensor | None
    ) -> Tensor | dict[str, Tensor] | None:
        """The mask of each kind of layer; transformers makes its own where there is none."""
        if mask is None or self.shape.window is None:
            return mask
        if place_BT is None:
            place_BT = torch.arange(mask.shape[-1], device=mask.device)[None]
        near_BTT = place_BT[:, :, None] - place_BT[:, None] < self.shape.window
        return {FULL: mask, SLIDING: mask & near_BTT[:, None]}

    def draw_(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """N(0, ``initializer_range``) for every matrix, biases 0, norms 1, as in transformers."""
        if parameter.dim() >= 2:
            nn.init.normal_(parameter, std=self.shape.init_std, generator=generator)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.ones_(parameter)

    def place_(self) -> None:
        """Rotary frequencies."""
        model: Any = self.model
        with torch.device("cpu"):
            model.rotary_emb = type(model.rotary_emb)(config=model.config)
