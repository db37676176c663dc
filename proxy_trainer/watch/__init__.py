"""Watching a run: what it does at its log points, and everything that it is told to."""
