"""An environment with other trainers' own readers, made once and kept.

    python tests/services/trainers.py [FOLDER]    makes it if it is not there, prints its Python

It stands on the environment that runs this: what is installed there (torch above all) is seen from
it, and only what `trainers.txt` pins is added, without dependencies. So it takes seconds and some
200 MB, and the default install gets nothing from it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

PINS = Path(__file__).with_name("trainers.txt")


def python(folder: Path | None = None) -> Path:
    """The environment's Python; installs what is pinned on first use.

    Args:
        folder: where environments are kept; default: the person's cache.
    """
    below = folder or _cache() / "regmix-trainers"
    identity = hashlib.sha256(PINS.read_bytes() + sysconfig.get_path("purelib").encode())
    root = below / identity.hexdigest()[:12]
    if not (root / ".ready").exists():
        below.mkdir(parents=True, exist_ok=True)
        _make(root)
    return root / "bin" / "python"


def _make(root: Path) -> None:
    """Under a name of its own first: an environment that is there is whole."""
    made = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    venv.create(made)
    where = {"base": str(made), "platbase": str(made)}
    packages = Path(sysconfig.get_path("purelib", "venv", where))
    (packages / "below.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [
        made / "bin" / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check",
        "--no-deps", "-r", PINS,
    ]  # fmt: skip
    subprocess.run(command, check=True)
    (made / ".ready").touch()
    try:
        made.rename(root)
    except OSError:  # another process was first
        if not (root / ".ready").exists():
            raise


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))


if __name__ == "__main__":
    print(python(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
