"""What one run is: everything that changes its result, and an id that is its hash."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from regmix import yaml_io
from regmix.config import Points
from regmix.errors import UserError
from regmix.families import Shape, shape_from_json, shape_to_json
from regmix.files import write_text
from regmix.hashing import fingerprint
from regmix.mixture import Mixture
from regmix.sizes import TrainPlan

NUMERICS = 5
"""Raised whenever a change of the training code changes the figures a run comes to."""

PROXY_ROLES = ("swarm", "baseline", "replicate", "single", "import")
"""Of runs that a mixture is chosen by, at proxy size; the larger ones of a ladder are not."""


@dataclass(frozen=True)
class Start:
    """What a run goes on from, other than the weights that its seed gives."""

    run: str = ""
    """Id of the run of this study whose finished model it is, or"""
    folder: str = ""
    """fingerprint of a Hugging Face folder that was taken into the study."""
    optimiser: bool = False
    """Whether the moments go on too."""
    step: int = 0
    """Of ``run``: the checkpoint after so many steps, in place of its finished model."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what few have stands there only if it does."""
        found = asdict(self)
        if not self.step:
            del found["step"]
        return found


@dataclass(frozen=True)
class RunSpec:
    """One training of one model on one mixture."""

    name: str
    """What people call it; not part of its identity."""
    role: str
    """One of ``PROXY_ROLES``, or ``ladder``, ``target``, ``stage``; not part of its identity."""
    mixture: Mixture
    """Of the study's domains, or of the sources of ``chat``."""
    model: Shape
    plan: TrainPlan
    vocab_size: int
    data: str
    """Fingerprint of the token shards."""
    seed: int
    """Of initial weights, document order and interleaving alike."""
    numerics: int = NUMERICS
    """Version of the training code's numerics that the run was planned for."""
    keep_model: bool = False
    """Whether the finished model is kept. Part of the identity, so that a run that was trained
    without keeping it does not pass for one that has a model."""
    keep_state: bool = False
    """Whether the optimiser's moments are kept with it, for a later stage to go on."""
    start: Start | None = None
    chat: str = ""
    """Fingerprint of the conversations that it is trained on, if it is trained on any."""
    epochs: tuple[tuple[str, float], ...] = ()
    """Passes over each source of ``chat``."""
    held_out: str = ""
    """Fingerprint of the conversations that it is measured on, if on any."""
    merge: tuple[str, ...] = ()
    """Runs whose models' average it is; then nothing is trained."""
    tasks: tuple[str, ...] = ()
    """Fingerprints of the tasks that the model is asked while it is trained, if any. A part of the
    identity where the model is not kept, and so could not be asked later."""
    tasks_at: Points = "last"
    """Evaluation points at which it is asked them; not part of its identity."""

    @property
    def cohort(self) -> str:
        """What runs must share to be comparable: model, training settings, data, what is measured.

        Also where they start, the conversations they read, and of how many runs they are the
        average. Not the seed. Whether models are kept is a part too: of two runs that differ in
        nothing else the second would pass for a repeat, of no noise. What kept ones are asked is
        not: they can be asked the same at any time.
        """
        parts = [asdict(self.model), asdict(self.plan), self.vocab_size, self.data, self.numerics]
        stage = {
            "kept": self.keep_model,
            "tasks": [] if self.keep_model else list(self.tasks),
            "start": asdict(self.start) if self.start else None,
            "chat": self.chat,
            "held_out": self.held_out,
            "averaged": len(self.merge),
        }
        own = {key: value for key, value in stage.items() if value}
        return fingerprint([*parts, own] if own else parts)

    @property
    def cohorts(self) -> tuple[str, ...]:
        """Its cohort, then those of runs that differ by an earlier version of the numerics alone.

        Whoever installs a later version has not lost what was trained before.
        """
        return tuple(replace(self, numerics=n).cohort for n in range(self.numerics, 0, -1))

    @property
    def run_id(self) -> str:
        """Hash of everything that changes the result, or what can be found of it later."""
        lost = {"tasks": list(self.tasks)} if self.tasks and not self.keep_model else {}
        return fingerprint(
            {
                "mixture": self.mixture.id,
                "model": shape_to_json(self.model),
                "plan": asdict(self.plan),
                "vocab_size": self.vocab_size,
                "data": self.data,
                "seed": self.seed,
                "keep_model": self.keep_model,
                "numerics": self.numerics,
                **self._stage(),
                **lost,
            },
            length=12,
        )

    def _stage(self) -> dict[str, Any]:
        """What most runs do not have, and then does not stand in their identity."""
        found = {
            "keep_state": self.keep_state,
            "start": self.start.to_dict() if self.start else None,
            "chat": self.chat,
            "epochs": dict(self.epochs),
            "held_out": self.held_out,
            "merge": list(self.merge),
        }
        return {key: value for key, value in found.items() if value}

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimiser step."""
        return self.plan.batch * self.model.context

    @property
    def tokens(self) -> int:
        """Training tokens of the whole run."""
        return self.plan.steps * self.tokens_per_step

    @property
    def flops(self) -> float:
        """Training FLOPs of the whole run."""
        return self.tokens * self.model.flops_per_token(self.vocab_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML."""
        return {
            "kind": "run",
            "run_id": self.run_id,
            "numerics": self.numerics,
            "name": self.name,
            "role": self.role,
            "seed": self.seed,
            "data": self.data,
            "vocab_size": self.vocab_size,
            "keep_model": self.keep_model,
            "model": shape_to_json(self.model),
            "plan": asdict(self.plan),
            "weights": self.mixture.as_dict(),
            **self._stage(),
            **({"tasks": list(self.tasks), "tasks_at": self.tasks_at} if self.tasks else {}),
        }

    def save(self, path: Path) -> None:
        """Write ``spec.yaml`` whole."""
        write_text(path, yaml_io.dump(self.to_dict()))

    @classmethod
    def load(cls, path: Path) -> RunSpec:
        """Read ``spec.yaml``; its id must be that of its content and of its folder.

        Raises:
            UserError: missing, malformed, or changed by hand.
        """
        raw = yaml_io.load(path)
        try:
            spec = cls(
                name=raw["name"],
                role=raw["role"],
                mixture=Mixture.of(raw["weights"], where=f"{path}: weights"),
                model=shape_from_json(raw["model"], f"{path}: model"),
                plan=_plan(raw["plan"]),
                vocab_size=raw["vocab_size"],
                data=raw["data"],
                seed=raw["seed"],
                numerics=raw["numerics"],
                keep_model=raw["keep_model"],
                keep_state=raw.get("keep_state", False),
                start=Start(**raw["start"]) if "start" in raw else None,
                chat=raw.get("chat", ""),
                epochs=tuple(raw.get("epochs", {}).items()),
                held_out=raw.get("held_out", ""),
                merge=tuple(raw.get("merge", ())),
                tasks=tuple(raw.get("tasks", ())),
                tasks_at=raw.get("tasks_at", "last"),
            )
        except (KeyError, TypeError) as exc:
            raise UserError(f"{path}: not a run specification ({exc})") from exc
        if raw.get("run_id") != spec.run_id or path.parent.name != spec.run_id:
            raise UserError(
                f"{path}: its content has id {spec.run_id}, not '{raw.get('run_id')}'; it was "
                "changed by hand or written by another version; propose again"
            )
        return spec


def _plan(raw: dict[str, Any]) -> TrainPlan:
    plan = TrainPlan(**raw)
    return replace(plan, eval_steps=tuple(plan.eval_steps))
