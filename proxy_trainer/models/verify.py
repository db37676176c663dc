"""Whether transformers, loading a folder, computes what the trained model computes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proxy_trainer.models.decoder import Decoder
from proxy_trainer.models.family import FamilyDecoder
from proxy_trainer.models.gpt import GPT
from regmix.errors import RegmixError
from regmix.families import Shape
from regmix.sizes import ModelShape

TOLERANCE = 1e-4
"""Largest difference between logits in single precision: absolute where they are below 1, of the
largest where they are not, since rounding grows with them."""
ROWS, LENGTH, COMPARED = 2, 64, 64
"""Of the batch: texts, their tokens beyond a window, and positions at whose logits is looked."""
_COPIES = 3
"""Times the weights' memory that must be free: theirs, what loading takes, and activations."""


@dataclass(frozen=True)
class Verification:
    """What the check came to."""

    difference: float | None
    """Largest between logits; None if it could not be made."""
    positions: int
    """At whose logits was looked, all texts together."""
    reason: str = ""
    """Why it could not be made."""
    largest: float = 0.0
    """Logit, by its size."""


def verify(
    folder: Path, weights: dict[str, Tensor], shape: Shape, *, free: int | None = None
) -> Verification:
    """Load a folder with ``AutoModelForCausalLM`` and compare its logits with those of weights.

    On random tokens, always the same, in single precision; beyond the window where the model has
    one. A model that the machine has no memory for twice is not loaded, and that is what is found.

    Args:
        weights: a state dict in transformers' names, of which no copy is made.
        free: bytes of memory that may be taken; what the system says is free if not given.

    Raises:
        RegmixError: they differ by more than :data:`TOLERANCE` allows, or are no numbers.
    """
    too_large = beyond_memory(sum(tensor.numel() for tensor in weights.values()), free)
    if too_large is not None:
        return too_large
    vocab_size = len(weights["model.embed_tokens.weight"])
    length = min(shape.context, LENGTH + _window(shape))
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(vocab_size, (ROWS, length), generator=generator)
    last = min(length, COMPARED)
    with torch.no_grad():
        ours_BTD = with_weights(weights, shape, vocab_size).hidden(ids_BT)[:, -last:]
        ours_BTV = ours_BTD @ weights["lm_head.weight"].float().T
        theirs_BTV = _loaded(folder)(input_ids=ids_BT, logits_to_keep=last, use_cache=False).logits
    difference = (ours_BTV - theirs_BTV).abs().max().item()
    largest = ours_BTV.abs().max().item()
    limit = TOLERANCE * max(1.0, largest)
    if not difference <= limit:  # no number compares
        raise RegmixError(
            f"{folder}: transformers computes other logits than the model that was trained: they "
            f"differ by up to {difference:.3g}, more than {limit:.3g}; the largest is {largest:.3g}"
        )
    return Verification(difference, ROWS * last, largest=largest)


def beyond_memory(elements: int, free: int | None = None) -> Verification | None:
    """What :func:`verify` finds of a model that is too large for it; None if it is not.

    Args:
        elements: of all its tensors.
        free: bytes of memory that may be taken; what the system says is free if not given.
    """
    needed = _COPIES * 4 * elements
    free = free_memory() if free is None else free
    if needed <= free:
        return None
    reason = f"{needed / 1e9:,.1f} GB of memory are needed for it, {free / 1e9:,.1f} GB free"
    return Verification(None, 0, reason)


def with_weights(weights: dict[str, Tensor], shape: Shape, vocab_size: int) -> Decoder:
    """A decoder that has the weights themselves, not copies.

    Args:
        weights: a state dict in transformers' names.
    """
    with torch.device("meta"):
        found: Decoder = (
            GPT(shape, vocab_size)
            if isinstance(shape, ModelShape)
            else FamilyDecoder(shape, vocab_size)
        )
    found.load_state_dict(weights, assign=True)
    found.complete_()
    return found


def free_memory() -> int:
    """Bytes that can be taken without taking them from others: of the machine, or its container."""
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    free = os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    information = Path("/proc/meminfo")
    if information.exists():  # counts what the system would give back, such as cached files
        lines = dict(line.split(":", 1) for line in information.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").exists():
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            free = min(free, int(limit) - int((group / "memory.current").read_text()))
    return free


def _window(shape: Shape) -> int:
    return 0 if isinstance(shape, ModelShape) else shape.window or 0


def _loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    with _no_bars():
        return AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )


@contextmanager
def _no_bars() -> Iterator[None]:
    """No progress bars for the length of the block: what they go to is a log."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
