"""The demo: from text to a trained model, and the comparison that it stands or falls by.

The steps are those of the command line, in order; each keeps what is already there. Building and
training need torch and are handed in as :class:`Steps`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from regmix import yaml_io
from regmix.choosing import Progress
from regmix.comparison import Comparison
from regmix.config import TrainConfig, check_name, name_from
from regmix.errors import UserError
from regmix.files import TEXT_SUFFIXES, expanded, read_json, write_json, write_text
from regmix.layout import StudyLayout
from regmix.mixture import Mixture
from regmix.results import Fit
from regmix.store import Store
from regmix.study import Study

Size = Literal["tiny", "default", "large"]


@dataclass(frozen=True)
class Preset:
    """What a demo size means; docs/DECISIONS.md says how the default was found."""

    corpus_scale: float
    mixtures: int
    proxy_size: str
    proxy: TrainConfig
    target_size: str
    target: TrainConfig
    target_seeds: int


def _settings(
    tokens: int, batch_tokens: int, lr: float, warmup_share: float, eval_bytes: int
) -> TrainConfig:
    return TrainConfig(
        tokens=tokens,
        batch_tokens=batch_tokens,
        lr=lr,
        warmup_share=warmup_share,
        eval_bytes=eval_bytes,
    )


PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        corpus_scale=0.35,
        mixtures=14,
        proxy_size="50k",
        proxy=_settings(24_000, 256, 4e-3, 0.4, 10_000),
        target_size="400k",
        target=_settings(32_000, 256, 2e-3, 0.2, 20_000),
        target_seeds=1,
    ),
    "default": Preset(
        corpus_scale=1.0,
        mixtures=32,
        proxy_size="100k",
        proxy=_settings(160_000, 256, 4e-3, 0.4, 24_000),
        target_size="800k",
        target=_settings(200_000, 256, 1e-3, 0.1, 48_000),
        target_seeds=2,
    ),
    "large": Preset(
        corpus_scale=1.0,
        mixtures=64,
        proxy_size="300k",
        proxy=_settings(2_000_000, 512, 3e-3, 0.4, 100_000),
        target_size="4m",
        target=_settings(3_000_000, 1024, 1e-3, 0.1, 200_000),
        target_seeds=3,
    ),
}


class Steps(Protocol):
    """What the trainer does for the demo; `proxy_trainer.steps` has it."""

    def default_corpus(self, folder: Path, scale: float, progress: Progress | None = None) -> None:
        """Build the default corpus."""
        ...

    def build_data(self, study: Study, progress: Progress | None = None) -> Any:
        """Tokenise the study's sources."""
        ...

    def train(
        self, study: Study, run_ids: Sequence[str], on_poll: Callable[[], None] | None = None
    ) -> Any:
        """Train runs."""
        ...


class Display(Protocol):
    """How the demo shows that it is alive."""

    def stage(self, title: str) -> Any:
        """A context manager that yields a :data:`Progress`."""
        ...

    def training(self, study: Study, run_ids: Sequence[str], title: str) -> Any:
        """A context manager that yields what to call while runs train."""
        ...


@dataclass(frozen=True)
class Cost:
    """What a stage of the demo took."""

    stage: str
    runs: int
    tokens: int
    """Trained on, by all of its runs together."""
    flops: float
    core_seconds: float
    """Of training, summed over the runs."""
    seconds: float
    """On the clock, the first time that the stage was carried out."""


@dataclass(frozen=True)
class Summary:
    """What the demo came to."""

    study: Study
    fit: Fit
    comparison: Comparison
    costs: tuple[Cost, ...]
    """In the order of the stages."""
    report: Path


def run(
    folder: Path,
    *,
    size: Size,
    corpus: Path | None,
    seed: int,
    steps: Steps,
    display: Display,
    write_report: Callable[[Study], Path],
) -> Summary:
    """Carry out the demo in ``folder``; what an earlier run finished is kept.

    Raises:
        UserError: the folder holds a demo with other settings, or the corpus is not as described.
        RegmixError: a run could not go on.
    """
    layout = StudyLayout(expanded(folder).resolve())
    clock = _Clock(
        layout.root / "demo.json", {"size": size, "corpus": _shown(corpus), "seed": seed}
    )
    preset = PRESETS[size]
    with clock.stage("corpus"), display.stage("Corpus") as progress:
        if corpus is None:
            steps.default_corpus(layout.root / "corpus", preset.corpus_scale, progress)
    if not layout.config.exists():
        source = expanded(corpus).resolve() if corpus else layout.root / "corpus"
        write_text(layout.config, study_yaml(source, layout.root, preset, size, seed))
    with clock.stage("tokens"), display.stage("Tokens") as progress:
        steps.build_data(Study.open(layout.root), progress)
    study = Study.open(layout.root)
    with clock.stage("swarm"):
        # The larger baselines do not wait for the fit; longest first, no core idles at the end.
        swarm = _add_targets(study, study.references(), preset.target_seeds)
        swarm += [s.run_id for s in study.propose().specs]
        with display.training(study, swarm, "Swarm and baselines") as poll:
            _check_alone(steps.train(study, swarm, poll).busy, layout.root)
    with clock.stage("fit"), display.stage("Fit and solve") as progress:
        fit = study.fit(progress=progress)
    with clock.stage("proposal"):
        proposed = _add_targets(study, {"proposal": fit.best}, preset.target_seeds)
        with display.training(study, proposed, "Proposed mixture") as poll:
            _check_alone(steps.train(study, proposed, poll).busy, layout.root)
    comparison = study.comparison()
    if comparison is None:
        raise UserError(f"{layout.root}: no larger model finished; see `regmix status {folder}`")
    with clock.stage("report"), display.stage("Report") as progress:
        report = write_report(study)
    costs = stage_costs(study.store, clock.seconds, {"swarm": swarm, "proposal": proposed})
    return Summary(study, fit, comparison, costs, report)


def stage_costs(
    store: Store, seconds: Mapping[str, float], trained: Mapping[str, Sequence[str]]
) -> tuple[Cost, ...]:
    """What every stage took.

    Args:
        seconds: on the clock, by stage; stages are given in this order.
        trained: run ids that a stage trained; a run that two stages name counts for the first.
    """
    spent = store.query("select run_id, tokens, flops, seconds from costs").set_index("run_id")
    found, counted = [], set[str]()
    for stage, clock in seconds.items():
        own = [r for r in trained.get(stage, ()) if r in spent.index and r not in counted]
        counted |= set(own)
        total = spent.loc[own].sum()
        found.append(
            Cost(stage, len(own), int(total["tokens"]), float(total["flops"]),
                 float(total["seconds"]), clock)
        )  # fmt: skip
    return tuple(found)


def _shown(corpus: Path | None) -> str | None:
    return None if corpus is None else str(expanded(corpus).resolve())


def _check_alone(busy: Sequence[str], root: Path) -> None:
    """Stop before fitting a swarm of which another command still trains a part."""
    if busy:
        raise UserError(
            f"{root}: {len(busy)} runs are being trained by another command; wait for it to end"
        )


def _add_targets(study: Study, mixtures: dict[str, Mixture], seeds: int) -> list[str]:
    """Plan the larger models on some mixtures; their run ids."""
    specs = [
        study.target_run(name, mixture, study.config.seed + offset)
        for offset in range(seeds)
        for name, mixture in mixtures.items()
    ]
    for spec in specs:
        study.add_run(spec)
    return [spec.run_id for spec in specs]


class _Clock:
    """Seconds by stage, kept beside the study so that a second run still tells them."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        found = read_json(path) if path.exists() else {"settings": settings, "seconds": {}}
        if found["settings"] != settings:
            asked = ", ".join(f"{k} {v}" for k, v in settings.items())
            there = ", ".join(f"{k} {v}" for k, v in found["settings"].items())
            raise UserError(
                f"{path.parent}: holds a demo with {there}; asked was {asked}. "
                "Name another folder, or delete this one"
            )
        self._found = found
        self.seconds: dict[str, float] = found["seconds"]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; one that only finds everything done keeps its first time."""
        began = time.perf_counter()
        yield
        spent = round(time.perf_counter() - began, 1)
        self.seconds[name] = max(spent, self.seconds.get(name, 0.0))
        write_json(self._path, self._found)


def study_yaml(corpus: Path, root: Path, preset: Preset, size: str, seed: int) -> str:
    """``study.yaml`` for a corpus folder of ``train/`` and ``valid/``.

    Raises:
        UserError: no such folders, no domain in them, or a domain without a valid file.
    """
    found = domain_files(corpus)
    local = corpus.is_relative_to(root)

    def shown(path: Path) -> str:
        return str(path.relative_to(root) if local else path)

    domains = [
        {"name": name, "train": shown(train), "valid": shown(valid)}
        for name, (train, valid) in found.items()
    ]
    return f"# Written by `regmix demo --size {size}`.\n" + yaml_io.dump(
        {
            "name": name_from(root),
            "seed": seed,
            "domains": domains,
            "proxy": _run_yaml(preset.proxy_size, preset.proxy),
            "target": _run_yaml(preset.target_size, preset.target),
            "swarm": {"runs": preset.mixtures},
        }
    )


def _run_yaml(size: str, train: TrainConfig) -> dict[str, Any]:
    return {"model": {"size": size}, "train": train.model_dump(exclude_defaults=True)}


def domain_files(corpus: Path) -> dict[str, tuple[Path, Path]]:
    """Train and valid file of every domain in a corpus folder, by name in order.

    Raises:
        UserError: as :func:`study_yaml`.
    """
    splits: dict[str, dict[str, Path]] = {}
    for split in ("train", "valid"):
        folder = corpus / split
        if not folder.is_dir():
            raise UserError(
                f"{corpus}: no folder '{split}'; a corpus has train/<domain>.jsonl and "
                "valid/<domain>.jsonl (.zst, .gz, .txt and .parquet too)"
            )
        splits[split] = {}
        for path in sorted(folder.iterdir()):
            suffix = next((s for s in TEXT_SUFFIXES if path.name.endswith(s)), None)
            if path.name.startswith((".", "README", "LICENSE")) or not path.is_file():
                continue
            if suffix is None:
                raise UserError(
                    f"{path}: none of the suffixes {', '.join(TEXT_SUFFIXES)}; move it away"
                )
            name = path.name.removesuffix(suffix)
            check_name(name, str(path))
            if name in splits[split]:
                raise UserError(f"{path}: domain '{name}' stands in {splits[split][name].name} too")
            splits[split][name] = path
    alone = set(splits["train"]) ^ set(splits["valid"])
    if alone:
        raise UserError(
            f"{corpus}: {', '.join(sorted(alone))} stands in only one of train and valid"
        )
    if len(splits["train"]) < 2:
        raise UserError(
            f"{corpus}: {len(splits['train'])} domains found; a mixture needs two or more"
        )
    return {name: (splits["train"][name], splits["valid"][name]) for name in splits["train"]}
