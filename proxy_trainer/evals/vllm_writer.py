"""A model's folder as vLLM writes with it: where it is installed, and there is a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from proxy_trainer.evals.generate import Prompt, Sampling, Written, room, seed_of
from regmix.errors import RegmixError


def available() -> bool:
    """Whether texts are written with vLLM here."""
    return torch.cuda.is_available() and find_spec("vllm") is not None


class VllmWriter:
    """:class:`proxy_trainer.evals.generate.Writer`; draws its own random numbers from the seed."""

    def __init__(self, folder: Path, context: int, ends: frozenset[int]) -> None:
        from vllm import LLM

        self._context, self._ends = context, ends
        self._model = LLM(str(folder), max_model_len=context, dtype="float32")

    def write(
        self,
        prompts: Sequence[Prompt],
        how: Sampling,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Written]:
        """What it writes after each."""
        from vllm import SamplingParams, TokensPrompt

        kept = room(self._context, how.max_tokens)
        found = self._model.generate(
            [TokensPrompt(prompt_token_ids=list(p.ids[-kept:])) for p in prompts],
            [
                SamplingParams(
                    temperature=how.temperature, top_p=how.top_p, seed=seed_of(how.seed, p),
                    max_tokens=min(how.max_tokens, self._context - kept), stop=list(how.stop),
                    stop_token_ids=sorted(self._ends), skip_special_tokens=False,
                )
                for p in prompts
            ],
            use_tqdm=False,
        )  # fmt: skip
        if len(found) != len(prompts):
            raise RegmixError(f"vLLM answered {len(found)} of {len(prompts)} prompts")
        if progress is not None:
            progress(len(prompts), len(prompts))
        outputs = [one.outputs[0] for one in found]
        return [Written(o.text, len(o.token_ids), o.finish_reason == "stop") for o in outputs]
