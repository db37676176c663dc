"""Data-mixture optimisation: sample mixtures, train proxies, fit, solve, say how sure it is."""

__version__ = "0.1.0"
