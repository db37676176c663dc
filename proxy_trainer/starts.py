"""What a run starts from, other than its seed: another run's model, or one from elsewhere."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from proxy_trainer.moments import Moments
from regmix.errors import UserError
from regmix.layout import StudyLayout
from regmix.runs import Start


def model_folder(study: StudyLayout, start: Start) -> Path:
    """The Hugging Face folder of the model."""
    return study.run(start.run).model if start.run else study.starts / start.folder


def load(study: StudyLayout, start: Start) -> tuple[dict[str, Tensor], Moments | None]:
    """Weights in transformers' names, and the optimiser's moments if they are to go on.

    Raises:
        UserError: they are not there, or cannot be read.
    """
    weights = load_weights(model_folder(study, start))
    return weights, Moments.load(study.run(start.run).state) if start.optimiser else None


def load_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a Hugging Face folder; a tied head is that of the embeddings.

    Raises:
        UserError: there are none as safetensors, or a file cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: no *.safetensors in it; is it a Hugging Face model folder?")
    found: dict[str, Tensor] = {}
    for file in files:
        try:
            found |= load_file(file)
        except SafetensorError as exc:
            raise UserError(f"{file}: not a safetensors file ({exc})") from exc
    if "model.embed_tokens.weight" in found:
        found.setdefault("lm_head.weight", found["model.embed_tokens.weight"])
    return found
