"""Other trainers' own code reads what is exported, and gets the shares that were asked.

Their packages stand in an environment of their own (`tests/services/trainers.py`).
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxy_trainer.data import build, layouts
from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.data.places import text_places
from proxy_trainer.data.shards import DomainTokens
from regmix import export as exports
from regmix.errors import UserError
from regmix.manifest import DataManifest
from regmix.mixture import Mixture, MixtureFile
from regmix.places import Place, Places
from regmix.study import Study

pytestmark = pytest.mark.slow

SERVICES = Path(__file__).parents[1] / "services"
ALPHABETS = {"lower": "abcdefghij", "upper": "ABCDEFGHIJ", "digits": "0123456789"}
"""So that a text's domain can be told from any part of it."""
DOCUMENTS = {"lower": 6000, "upper": 4000, "digits": 2500}
WORDS = {"lower": 8, "upper": 30, "digits": 60}
"""Words of a document, on average: shares of documents are far from shares of tokens."""
MIXTURE = Mixture.of({"lower": 0.2, "upper": 0.5, "digits": 0.3})
BLOCK = 16


def _texts(domain: str) -> list[str]:
    rng = random.Random(domain)

    def word() -> str:
        return "".join(rng.choices(ALPHABETS[domain], k=rng.randint(2, 6)))

    def length() -> int:
        return rng.randint(1, 2 * WORDS[domain] - 1)

    return [" ".join(word() for _ in range(length())) for _ in range(DOCUMENTS[domain])]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of three domains, built and laid out for OLMo-core and Megatron."""
    root = tmp_path_factory.mktemp("corpus")
    listed = ""
    for domain in ALPHABETS:
        lines = [json.dumps({"text": t}) + "\n" for t in _texts(domain)]
        (root / f"{domain}.jsonl").write_text("".join(lines))
        listed += f"  - {{name: {domain}, train: {domain}.jsonl}}\n"
    (root / "study.yaml").write_text(
        f"name: corpus\ndomains:\n{listed}data: {{tokenizer: {{vocab_size: 400}}}}\n"
    )
    study = Study.open(root)
    manifest = build.build(study.layout, study.config)
    MixtureFile("asked", MIXTURE).save(study.layout.mixture("asked"))
    for layout in layouts.LAYOUTS:
        layouts.export_shards(study.layout, manifest, layout)
    return study


@pytest.fixture(scope="module")
def read() -> Callable[..., Any]:
    """``read(reader, **arguments)``: what a trainer's own code says."""
    made = subprocess.run(
        [sys.executable, SERVICES / "trainers.py"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    python = made.stdout.splitlines()[-1]

    def run(reader: str, **arguments: object) -> Any:
        command = [python, SERVICES / "trainer_readers.py", reader, json.dumps(arguments)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr[-4000:]
        return json.loads(found.stdout.splitlines()[-1])

    return run


@pytest.fixture
def export(corpus: Study, tmp_path: Path) -> Callable[..., Path]:
    """``export(format, paths, **asked)``: the mixture's file in a format."""

    def write(to: str, paths: Path | None = None, **asked: Any) -> Path:
        form = exports.exporter(to)
        found = exports.locate(form, corpus.layout.root, paths, text_places)
        settled = exports.settled(exports.Asked(**asked), form, found)
        output = tmp_path / f"{to.replace('-', '_')}.out"
        output = (
            output.with_suffix(".py") if to in ("litgpt", "torchtitan", "interleave") else output
        )
        exports.export(corpus.layout.mixture("asked"), to, output, found.places, settled)
        return output

    return write


@pytest.fixture
def count(corpus: Study) -> Callable[[Mapping[str, list[str]]], dict[str, int]]:
    """Tokens of texts by domain, each document's end counted."""
    tokenizer = tokenizers.load(corpus.layout.tokenizer)

    def tokens(texts: Mapping[str, list[str]]) -> dict[str, int]:
        found = {}
        for name, listed in texts.items():
            often = Counter(listed)  # the same document comes up many times
            encoded = tokenizer.encode_batch(list(often))
            lengths = [len(e.ids) + 1 for e in encoded]
            found[name] = sum(a * b for a, b in zip(lengths, often.values(), strict=True))
        return found

    return tokens


def manifest_of(study: Study) -> DataManifest:
    return DataManifest.load(study.layout.manifest)


def assert_shares(found: Mapping[str, float], who: str, within: float = 0.01) -> None:
    """The mixture's shares, up to ``within``; prints both (`pytest -rP` shows them)."""
    total = sum(found.values())
    shares = {name: found[name] / total for name in MIXTURE.domains}
    read = " ".join(f"{share:.4f}" for share in shares.values())
    asked = " ".join(f"{weight:.4f}" for weight in MIXTURE.weights)
    print(f"{who:<16} asked {asked}   read {read}   of {total:,}")
    assert shares == pytest.approx(MIXTURE.as_dict(), abs=within)


def flat_shards(study: Study) -> dict[str, str]:
    """One OLMo-core file of every domain: flat ids."""
    folder = study.layout.exported("olmo-core").parent
    return {name: str(folder / name / "train-00000.npy") for name in ALPHABETS}


def mapping_of_folders(root: Path) -> Path:
    """A mapping file of one folder a domain, which the trainer's own writer fills."""
    path = root / "paths.yaml"
    Places({n: Place((str(root / "data" / n),)) for n in ALPHABETS}, str(path)).save(path)
    return path


def test_olmo_core_builds_the_mixture(
    corpus: Study, read: Callable[..., Any], export: Callable[..., Path]
) -> None:
    tokens = 60_000
    path = export("olmo-core", tokens=tokens, max_epochs=2.0)
    found = read(
        "olmo_core", file=str(path), tokens=tokens, dtype="uint16", sequence=BLOCK, batch=BLOCK * 10
    )
    assert_shares(found, "olmo-core", within=0.001)
    assert sum(found.values()) == pytest.approx(tokens, rel=0.01)


def test_olmo_core_repeats_up_to_the_cap_and_we_refuse_where_it_does(
    corpus: Study, read: Callable[..., Any], export: Callable[..., Path]
) -> None:
    available = manifest_of(corpus).available_tokens()
    most = min(available[n] / w for n, w in MIXTURE.as_dict().items())
    for asked, allowed in ((1.8 * most, True), (2.1 * most, False)):
        tokens = int(asked)
        arguments: dict[str, Any] = {"dtype": "uint16", "sequence": BLOCK, "batch": BLOCK * 10}
        if allowed:
            path = export("olmo-core", tokens=tokens, max_epochs=2.0)
            found = read("olmo_core", file=str(path), tokens=tokens, **arguments)
            assert_shares(found, "olmo-core")
        else:
            with pytest.raises(UserError, match=r"2\.1 epochs, where at most 2 may be"):
                export("olmo-core", tokens=tokens, max_epochs=2.0)
            path = export("olmo-core", tokens=int(1.8 * most), max_epochs=2.0)
            found = read("olmo_core", file=str(path), tokens=tokens, **arguments)
            assert "Insufficient tokens for source" in found["refused"]


def test_olmo_core_reads_our_shards(corpus: Study, read: Callable[..., Any]) -> None:
    manifest = manifest_of(corpus)
    paths = flat_shards(corpus)
    tokens = {paths[n]: manifest.domain(n).train.shards[0].tokens for n in ALPHABETS}
    found = read("olmo_core_shards", tokens=tokens, dtype="uint16")
    for name, path in paths.items():
        ours = DomainTokens(corpus.layout, manifest, name, "train")
        assert found[path] == ours.take(np.arange(ours.tokens)).tolist()


def test_megatron_reads_our_shards(corpus: Study, read: Callable[..., Any]) -> None:
    manifest = manifest_of(corpus)
    folder = corpus.layout.exported("megatron").parent
    parts = {
        str(folder / name / split): (name, split)
        for name in ALPHABETS
        for split in ("train", "valid")
    }
    for prefix, found in read("megatron_shards", prefixes=list(parts)).items():
        ours = DomainTokens(corpus.layout, manifest, *parts[prefix])
        documents = [ours.document(i).tolist() for i in range(ours.documents)]
        assert found["documents"] == documents
        assert found["lengths"] == list(map(len, documents))
        assert found["bounds"] == list(range(len(documents) + 1))
        assert found["dtype"] == "uint16"


@pytest.mark.parametrize("to", ["megatron", "megatron-args", "megatron-splits"])
def test_megatron_blends_the_mixture(
    to: str, corpus: Study, read: Callable[..., Any], export: Callable[..., Path]
) -> None:
    path = export(to)
    folder = corpus.layout.exported("megatron").parent
    splits = {"train": "train"}
    if to == "megatron":
        script = f'source "{path}"; printf "%s\\n" "${{DATA_PATH[@]}}"'
        shell = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        option, *words = shell.stdout.splitlines()
        assert option == "--data-path"
        lists = {"train": words}
    elif to == "megatron-args":
        lists = {"train": path.read_text().split()}
    else:
        lists = json.loads(path.read_text())
        splits = {"train": "train", "valid": "valid", "test": "valid"}
    lists = {split: lists[split] for split in splits}
    drawn = read("megatron_blends", lists=lists, samples=10_000)
    for split, data in splits.items():
        found = {n: drawn[split][str(folder / n / data)] for n in ALPHABETS}
        assert_shares(found, f"{to} {split}" if len(splits) > 1 else to, within=0.001)


def test_litgpt_streams_the_mixture(
    corpus: Study, tmp_path: Path, read: Callable[..., Any], export: Callable[..., Path]
) -> None:
    path = export("litgpt", mapping_of_folders(tmp_path))
    found = read("litgpt", file=str(path), shards=flat_shards(corpus), block=BLOCK, blocks=9000)
    assert_shares(found, "litgpt")


def test_streaming_chooses_the_mixture(
    corpus: Study, tmp_path: Path, read: Callable[..., Any], export: Callable[..., Path]
) -> None:
    path = export("streaming", mapping_of_folders(tmp_path))
    found = read("streaming", file=str(path), shards=flat_shards(corpus), block=BLOCK, rows=3000)
    assert_shares(found, "streaming", within=0.001)


def test_torchtitan_interleaves_the_mixture(
    corpus: Study, read: Callable[..., Any], export: Callable[..., Path]
) -> None:
    path = export("torchtitan")
    tokenizer = str(corpus.layout.tokenizer)
    found = read("torchtitan", file=str(path), tokenizer=tokenizer, block=BLOCK, rows=9000)
    assert_shares(found, "torchtitan")


@pytest.mark.parametrize(
    ("reader", "to", "asked", "arguments"),
    [
        ("trl", "trl", {}, {}),
        ("llama_factory", "llama-factory", {}, {"documents": 20_000}),
        ("axolotl", "axolotl", {"tokens": 300_000, "max_epochs": 4.0}, {}),
    ],
)
def test_documents_come_in_the_shares_of_tokens_that_were_asked(
    reader: str,
    to: str,
    asked: dict[str, Any],
    arguments: dict[str, Any],
    read: Callable[..., Any],
    export: Callable[..., Path],
    count: Callable[[Mapping[str, list[str]]], dict[str, int]],
) -> None:
    texts = read(reader, file=str(export(to, **asked)), **arguments)
    found = count(texts)
    assert_shares(found, to)
    if to == "axolotl":
        assert sum(found.values()) == pytest.approx(asked["tokens"], rel=0.02)


@pytest.mark.parametrize("streaming", [True, False])
def test_interleave_datasets_gives_the_shares_of_tokens(
    streaming: bool,
    export: Callable[..., Path],
    count: Callable[[Mapping[str, list[str]]], dict[str, int]],
) -> None:
    namespace: dict[str, Any] = {}
    exec(export("interleave").read_text(), namespace)
    rows = namespace["load"](streaming=streaming).take(20_000)
    texts: dict[str, list[str]] = {name: [] for name in ALPHABETS}
    for row in rows:
        kind = next(n for n, letters in ALPHABETS.items() if row["text"][0] in letters)
        texts[kind].append(row["text"])
    assert_shares(count(texts), "interleave")
