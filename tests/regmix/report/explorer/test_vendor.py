"""Libraries in the report are the ones that the list of them names."""

from __future__ import annotations

import hashlib
import re
from importlib import resources

VENDOR = resources.files("regmix.report").joinpath("vendor")


def test_libraries_are_those_of_the_list() -> None:
    rows = re.findall(
        r"\| `(\S+\.js)` \| `\S+` \| (\S+) \| .*`(\S+\.LICENSE)` \| `(\w{64})` \|",
        VENDOR.joinpath("README.md").read_text(encoding="utf-8"),
    )
    files = {name for name, *_ in rows}
    assert files == {p.name for p in VENDOR.iterdir() if p.name.endswith(".js")}
    for name, version, licence, digest in rows:
        content = VENDOR.joinpath(name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        assert f"v{version} Copyright".encode() in content[:200]
        assert "copyright notice" in VENDOR.joinpath(licence).read_text(encoding="utf-8")
