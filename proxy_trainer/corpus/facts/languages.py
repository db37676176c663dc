"""Facts about languages, from the ISO 639 codes that the `datasets` package ships."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from proxy_trainer.corpus.base import Work
from proxy_trainer.corpus.files import package_folder

_TABLE = "utils/resources/languages.json"
_PER_DOCUMENT = 9
# The table is long and says one thing of each language; a part of it is enough.
_KEPT_SHARE = 0.4


def documents(work: Work) -> Iterator[str]:
    """Yield texts of a few languages each; none if the package has no such table."""
    root = package_folder("datasets")
    text = work.read(root / _TABLE) if root is not None else None
    if text is None:
        return
    table = [
        (code, name)
        for code, name in sorted(json.loads(text).items())
        if len(code) in (2, 3) and work.rng.random() < _KEPT_SHARE
    ]
    for start in range(0, len(table), _PER_DOCUMENT):
        group = table[start : start + _PER_DOCUMENT]
        yield "\n".join(_sentence(code, name, work.rng) for code, name in group)


def _sentence(code: str, name: str, rng: random.Random) -> str:
    main, _, other = name.partition(";")
    also = f" It is also called {other.strip()}." if other else ""
    standard = "ISO 639-1" if len(code) == 2 else "ISO 639-3"
    return rng.choice(
        (
            f"The {standard} code of the language {main} is {code}.{also}",
            f"{main} is a language with the code {code}.{also}",
            f"In {standard}, {code} means {main}.{also}",
            f"A text in {main} is tagged {code}.{also}",
            f"Which language is {code}? {main}.{also}",
        )
    )
