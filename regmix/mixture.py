"""Mixture: shares of training tokens over named domains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regmix import markup, quantities
from regmix.errors import UserError, unknown_name
from regmix.files import write_text
from regmix.floats import as_float, exact_sum
from regmix.hashing import fingerprint
from regmix.yaml_io import dump, load

FloatArray = npt.NDArray[np.float64]

EXACT = 1e-12
"""How far a mixture's weights sum from 1 at most."""
TOLERANCE = 1e-9
"""How far a mixture may be beyond a limit, be it a bound of a space or a cap on epochs."""
SUM_TOLERANCE = 1e-5
"""How far written weights may sum from 1: what six printed decimals of 20 domains lose."""


@dataclass(frozen=True)
class Mixture:
    """Shares of training tokens over domains: ordered, non-negative, summing to 1.

    Build one with :meth:`of`, which validates; equality and :attr:`id` cover names, order and
    every digit of the weights.
    """

    domains: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(
        cls,
        weights: Mapping[str, float],
        order: Iterable[str] | None = None,
        *,
        tolerance: float = SUM_TOLERANCE,
        where: str = "mixture",
    ) -> Mixture:
        """Validate weights and put them in ``order`` (default: as given).

        Weights whose sum is within ``tolerance`` of 1 are divided by their sum, so that the
        mixture sums to 1 to 1e-12; anything further off is refused, never renormalised.

        Raises:
            UserError: names and ``order`` differ, or a weight is negative, not finite, or the sum
                is off; the message starts with ``where``.
        """
        names = tuple(weights) if order is None else tuple(order)
        check_names(weights, names, where)
        values = [as_float(weights[name]) for name in names]
        for name, value in zip(names, values, strict=True):
            if not math.isfinite(value) or value < 0:
                raise UserError(
                    f"{where}: weight of '{name}' is {value}; it must be finite and >= 0"
                )
        total = exact_sum(values)
        if abs(total - 1) > tolerance:
            raise UserError(
                f"{where}: weights sum to {total:.6g}, not 1 (tolerance {tolerance:g}); "
                "divide each by the sum if only their ratios are meant"
            )
        if abs(total - 1) > EXACT:  # dividing again would change digits, and with them the hash
            values = [value / total for value in values]
        return cls(names, tuple(values))

    @classmethod
    def from_array(cls, domains: Sequence[str], weights: npt.ArrayLike) -> Mixture:
        """A mixture from weights in the order of ``domains``, shape ``(n_domains,)``."""
        values = np.asarray(weights, dtype=np.float64)
        if values.shape != (len(domains),):
            raise UserError(f"mixture: {values.shape} weights for {len(domains)} domains")
        return cls.of(dict(zip(domains, values.tolist(), strict=True)))

    @classmethod
    def uniform(cls, domains: Sequence[str]) -> Mixture:
        """The same share for every domain."""
        return cls.of({name: 1 / len(domains) for name in domains})

    @classmethod
    def only(cls, domain: str, domains: Sequence[str]) -> Mixture:
        """All tokens from one domain."""
        return cls.of({name: float(name == domain) for name in domains})

    @property
    def id(self) -> str:
        """Content hash: names in order and weights to the last digit."""
        return fingerprint([self.domains, [repr(w) for w in self.weights]])

    def array(self) -> FloatArray:
        """Weights in domain order, shape ``(n_domains,)``."""
        return np.array(self.weights)

    def as_dict(self) -> dict[str, float]:
        """Name to weight, in order."""
        return dict(zip(self.domains, self.weights, strict=True))

    def _repr_html_(self) -> str:
        """For notebooks: shares of training tokens, the largest first."""
        ordered = sorted(self.as_dict().items(), key=lambda item: -item[1])
        return markup.table(
            ("domain", "share of tokens"), [(d, quantities.percent(w, 2)) for d, w in ordered]
        )

    def __getitem__(self, domain: str) -> float:
        return self.weights[self.domains.index(domain)]

    def distance(self, other: Mixture) -> float:
        """Total variation: half the sum of absolute differences, in [0, 1]."""
        if set(self.domains) != set(other.domains):
            raise UserError("mixtures over different domains have no distance")
        return 0.5 * sum(abs(w - other[name]) for name, w in self.as_dict().items())


def check_names(given: Iterable[str], expected: Sequence[str], where: str) -> None:
    """Refuse a set of domain names that is not exactly the expected one.

    Raises:
        UserError: naming the unknown or the missing domains.
    """
    given_names = list(given)
    for name in given_names:
        if name not in expected:
            raise unknown_name("domain", name, expected, where)
    missing = [name for name in expected if name not in given_names]
    if missing:
        raise UserError(
            f"{where}: no weight for {', '.join(repr(m) for m in missing)}; "
            "every domain needs one (0 leaves it out)"
        )


@dataclass(frozen=True)
class MixtureFile:
    """A mixture as it stands in ``mixes/<name>.yaml``: weights and where they came from."""

    name: str
    mixture: Mixture
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the YAML file whole."""
        write_text(
            path,
            dump(
                {
                    "kind": "mixture",
                    "name": self.name,
                    "weights": self.mixture.as_dict(),
                    "provenance": self.provenance,
                }
            ),
        )

    @classmethod
    def load(cls, path: Path, order: Sequence[str] | None = None) -> MixtureFile:
        """Read and validate a mixture file; ``order`` names the domains it must cover.

        Raises:
            UserError: file, key and value of whatever is not as it should be.
        """
        raw = load(path)
        allowed = {"kind", "name", "weights", "provenance"}
        for key in raw:
            if key not in allowed:
                raise unknown_name("key", key, allowed, str(path))
        if raw.get("kind", "mixture") != "mixture":
            raise UserError(f"{path}: kind is {raw['kind']!r}, not 'mixture'")
        weights = raw.get("weights")
        if not isinstance(weights, dict) or not weights:
            raise UserError(f"{path}: 'weights' must map domain names to shares")
        for name, value in weights.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise UserError(f"{path}: weights.{name} is {value!r}, not a number")
        mixture = Mixture.of(weights, order, where=f"{path}: weights")
        provenance = raw.get("provenance") or {}
        if not isinstance(provenance, dict):
            raise UserError(f"{path}: provenance is {provenance!r}, not a mapping")
        return cls(str(raw.get("name", path.stem)), mixture, provenance)
