"""The whole of ``study.yaml``, and a stage file."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from regmix.config.base import AsTuple, Name, Strict
from regmix.config.data import DataConfig, Domain
from regmix.config.deciding import FitConfig, ObjectiveConfig
from regmix.config.evaluating import EvaluateConfig
from regmix.config.launch import LaunchConfig
from regmix.config.mixtures import SpaceConfig, SwarmConfig
from regmix.config.training import LadderConfig, ModelConfig, ProxyConfig, RunConfig


class StudyConfig(Strict):
    """The whole of ``study.yaml``."""

    name: Name
    seed: Annotated[int, Field(ge=0)] = 0
    domains: Annotated[tuple[Domain, ...], Field(min_length=1), AsTuple]
    data: DataConfig = DataConfig()
    proxy: ProxyConfig = ProxyConfig()
    target: RunConfig = RunConfig(model=ModelConfig(size="15m"))
    """The larger model that the mixture is for."""
    ladder: Annotated[tuple[LadderConfig, ...], AsTuple] = ()
    """Larger proxies, from small to large, that say whether the order of mixtures holds."""
    swarm: SwarmConfig = SwarmConfig()
    space: SpaceConfig = SpaceConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    fit: FitConfig = FitConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    launch: LaunchConfig = LaunchConfig()

    def sizes(self) -> list[tuple[str, RunConfig]]:
        """Everything that models are trained by, by the key that says so."""
        ladder = [(f"ladder.{i}", step) for i, step in enumerate(self.ladder)]
        return [("proxy", self.proxy), *ladder, ("target", self.target)]

    def data_settings(self) -> dict[str, Any]:
        """What decides the token shards, in the shape of ``study.yaml``; plain values.

        Recorded when the data are built and compared ever after: a key that has its default is
        left out, so that a later version with more keys finds nothing changed.
        """
        tokenizer = self.data.tokenizer
        own = {"path"} if tokenizer.path is not None else {"vocab_size", "train_bytes"}
        data = {"tokenizer": tokenizer.model_dump(include=own, exclude_defaults=True)}
        if self.data.decontaminate is not None:
            data["decontaminate"] = self.data.decontaminate.model_dump(mode="json")
        return {
            "domains": [
                d.model_dump(
                    mode="json", include={"name", "train", "valid", "valid_share"},
                    exclude={"valid_share"} if d.valid else None, exclude_defaults=True,
                )
                for d in self.domains
            ],
            "data": data,
        }  # fmt: skip

    @model_validator(mode="after")
    def _budget_known(self) -> StudyConfig:
        for key, run in self.sizes():
            if run.train.repetition == "match" and self.space.budget_tokens is None:
                raise ValueError(f"{key}.train.repetition: match needs space.budget_tokens")
        return self

    @property
    def domain_names(self) -> tuple[str, ...]:
        """Domain names in study order."""
        return tuple(d.name for d in self.domains)
