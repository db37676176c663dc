"""``study.yaml``: strict, typed, frozen. What it does not know, it refuses."""

from regmix.config.data import (
    Benchmark,
    DataConfig,
    DecontaminateConfig,
    Domain,
    Source,
    TokenizerConfig,
)
from regmix.config.deciding import FitConfig, LimitsConfig, ObjectiveConfig
from regmix.config.evaluating import EvaluateConfig, Points
from regmix.config.launch import LaunchConfig, RayConfig, SlurmConfig
from regmix.config.mixtures import GroupBound, RatioBound, SpaceConfig, SwarmConfig
from regmix.config.read import (
    TEXT_METRICS,
    check_name,
    check_text_metrics,
    find_study,
    load_study,
    name_from,
)
from regmix.config.study import StudyConfig
from regmix.config.training import (
    LadderConfig,
    ModelConfig,
    ProxyConfig,
    RunConfig,
    TrainConfig,
)

__all__ = [
    "TEXT_METRICS",
    "Benchmark",
    "DataConfig",
    "DecontaminateConfig",
    "Domain",
    "EvaluateConfig",
    "FitConfig",
    "GroupBound",
    "LadderConfig",
    "LaunchConfig",
    "LimitsConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "Points",
    "ProxyConfig",
    "RatioBound",
    "RayConfig",
    "RunConfig",
    "SlurmConfig",
    "Source",
    "SpaceConfig",
    "StudyConfig",
    "SwarmConfig",
    "TokenizerConfig",
    "TrainConfig",
    "check_name",
    "check_text_metrics",
    "find_study",
    "load_study",
    "name_from",
]
