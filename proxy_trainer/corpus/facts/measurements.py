"""Facts about single observations: the data sets that scikit-learn ships, row by row."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from proxy_trainer.corpus.base import Work

# The loader's short names for the serum measurements, spelled out as in its description.
_DIABETES_NAMES = {
    "age": "age",
    "bmi": "body mass index",
    "bp": "blood pressure",
    "s1": "total serum cholesterol",
    "s2": "low-density lipoproteins",
    "s3": "high-density lipoproteins",
    "s4": "ratio of total to high-density cholesterol",
    "s5": "logarithm of serum triglycerides",
    "s6": "blood sugar level",
}


@dataclass(frozen=True)
class _Table:
    """A data set: rows of measurements, their names, and what each row was found to be."""

    subject: str
    features: tuple[str, ...]
    rows: tuple[tuple[float, ...], ...]
    outcomes: tuple[str, ...]

    def means(self) -> tuple[float, ...]:
        """The mean of each column."""
        return tuple(sum(column) / len(self.rows) for column in zip(*self.rows, strict=True))


def documents(work: Work) -> Iterator[str]:
    """Yield short texts, each about one row of one data set."""
    for table in _tables():
        means = table.means()
        for number in range(work.shard.index, len(table.rows), work.shard.count):
            yield _article(table, means, number, work.rng)


def _tables() -> Iterator[_Table]:
    from sklearn import datasets  # optional, and slow to import

    for subject, verdict, load in (
        ("Iris flower", "belongs to the species {}", datasets.load_iris),
        ("Wine", "comes from the cultivar {}", datasets.load_wine),
        ("Breast tumour", "was diagnosed as {}", datasets.load_breast_cancer),
    ):
        bunch = load()
        outcomes = tuple(verdict.format(bunch.target_names[label]) for label in bunch.target)
        yield _Table(subject, tuple(bunch.feature_names), _rows(bunch.data), outcomes)
    bunch = datasets.load_diabetes(scaled=False)
    outcomes = tuple(f"had a disease progression of {score:g}" for score in bunch.target)
    kept = [n for n, name in enumerate(bunch.feature_names) if name in _DIABETES_NAMES]
    names = tuple(_DIABETES_NAMES[bunch.feature_names[n]] for n in kept)
    yield _Table("Diabetes patient", names, _rows(bunch.data[:, kept]), outcomes)


def _rows(data: Iterable[Iterable[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in data)


def _article(table: _Table, means: tuple[float, ...], number: int, rng: random.Random) -> str:
    row = table.rows[number]
    columns = rng.sample(range(len(row)), min(len(row), rng.randint(3, 7)))
    sentences = [_sentence(table.features[c], row[c], means[c], rng) for c in columns]
    verdict = f"{table.subject} number {number + 1} {table.outcomes[number]}."
    place = rng.choice((0, len(sentences)))
    sentences.insert(place, verdict)
    if place:
        sentences.insert(0, f"{table.subject} number {number + 1} was measured as follows.")
    return rng.choice((" ", "\n")).join(sentences)


def _sentence(feature: str, value: float, mean: float, rng: random.Random) -> str:
    name = feature.replace("_", " ").replace(" (cm)", " in centimetres")
    side = "above" if value > mean else "below"
    return rng.choice(
        (
            f"Its {name} measured {value:g}.",
            f"For {name} the value is {value:g}, {side} the mean of {mean:.3g}.",
            f"With {value:g} for {name} it lies {side} the average, {mean:.3g}.",
            f"{name.capitalize()}: {value:g}, or {_share(value, mean)}.",
            f"A {name} of {value:g} was found, {abs(value - mean):.3g} {side} the mean.",
        )
    )


def _share(value: float, mean: float) -> str:
    return f"{100 * value / mean:.0f} % of the mean" if mean else "as in the mean"
