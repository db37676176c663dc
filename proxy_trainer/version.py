"""Which code this is: the version, and a fingerprint of the source, which changes in between."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import proxy_trainer
import regmix

DIGITS = 12
"""Of the fingerprint: 48 bits, which a float holds exactly."""


@cache
def version() -> str:
    """The version with a fingerprint of both packages' Python files, ``0.1.0+3f9c…``.

    Two checkouts of one version differ in it, and so does a checkout that was changed since: what
    a process has loaded is taken to be what is there when this is first asked.
    """
    return f"{regmix.__version__}+{_fingerprint()}"


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for package in (regmix, proxy_trainer):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package.__name__}/{path.relative_to(root).as_posix()}\0".encode())
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:DIGITS]
