"""Other trainers' own code reads what is exported, and gets the shares that were asked.

Their packages stand in an environment of their own (`tests/services/trainers.py`).
"""

from __future__ import annotations

import gzip
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
import zstandard

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
SHARED = Path(__file__).parents[3] / "shared" / "data" / "corpus"
ALPHABETS = {"lower": "abcdefghij", "upper": "ABCDEFGHIJ", "digits": "0123456789"}
"""So that a text's domain can be told from any part of it."""
DOCUMENTS = {"lower": 24000, "upper": 12000, "digits": 20000}
WORDS = {"lower": 6, "upper": 30, "digits": 12}
"""Words of a document, on average: shares of documents are far from shares of tokens."""
MIXTURE = Mixture.of({"lower": 0.2, "upper": 0.5, "digits": 0.3})
BLOCK = 16
SEEDS = (0, 1, 2)
"""Of trainers that draw documents: their draws together are some 150,000."""


def _texts(domain: str) -> list[str]:
    rng = random.Random(domain)

    def word() -> str:
        return "".join(rng.choices(ALPHABETS[domain], k=rng.randint(2, 6)))

    def length() -> int:
        return rng.randint(WORDS[domain] * 3 // 4, WORDS[domain] * 5 // 4)

    return [" ".join(word() for _ in range(length())) for _ in range(DOCUMENTS[domain])]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of three domains, built and laid out for OLMo-core and Megatron.

    Its folder has signs that a shell and a pattern would take for something else.
    """
    root = tmp_path_factory.mktemp("corpus") / "it's[1]"
    root.mkdir()
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


def assert_shares(
    found: Mapping[str, float], who: str, within: float = 0.01, mixture: Mixture = MIXTURE
) -> None:
    """The mixture's shares, each up to ``within`` of itself; prints both (for `pytest -rP`)."""
    total = sum(found.values())
    shares = {name: found[name] / total for name in mixture.domains}
    read = " ".join(f"{share:.4f}" for share in shares.values())
    asked = " ".join(f"{weight:.4f}" for weight in mixture.weights)
    worst = max(abs(share / mixture[name] - 1) for name, share in shares.items())
    print(f"{who:<16} asked {asked}   read {read}   of {total:,}, {worst:.2%} off at most")
    assert shares == pytest.approx(mixture.as_dict(), rel=within)


def flat_shards(study: Study, split: str = "train") -> dict[str, str]:
    """One OLMo-core file of every domain: flat ids."""
    folder = study.layout.exported("olmo-core").parent
    return {name: str(folder / name / f"{split}-00000.npy") for name in ALPHABETS}


def mapping_of_folders(root: Path, *, valid: bool = False) -> Path:
    """A mapping file of one folder a domain and split, which the trainer's own writer fills."""
    path = root / "paths.yaml"
    held_out = {n: (str(root / "held out" / n),) if valid else () for n in ALPHABETS}
    places = {n: Place((str(root / "data" / n),), held_out[n]) for n in ALPHABETS}
    Places(places, str(path)).save(path)
    return path


def mapping_of_copies(study: Study, root: Path) -> Path:
    """A mapping file of copies under plain names, with the text in the field ``body``."""
    path = root / "copies.yaml"
    places = {}
    for name in ALPHABETS:
        lines = (study.layout.root / f"{name}.jsonl").read_text().splitlines()
        copy = root / f"{name}.jsonl"
        bodies = [json.dumps({"body": json.loads(line)["text"]}) + "\n" for line in lines]
        copy.write_text("".join(bodies))
        places[name] = Place((str(copy),), text_field="body")
    Places(places, str(path)).save(path)
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


def test_olmo_core_builds_a_mixture_that_lies_on_its_cap(
    corpus: Study, read: Callable[..., Any], export: Callable[..., Path]
) -> None:
    """Beyond it by a rounding, within the tolerance of the space: whole tokens are one short."""
    available, tokens = manifest_of(corpus).available_tokens(), 3_000_000
    cap = max(w * tokens / available[n] for n, w in MIXTURE.as_dict().items()) * (1 - 1e-10)
    path = export("olmo-core", tokens=tokens, max_epochs=cap)
    found = read(
        "olmo_core", file=str(path), tokens=tokens, dtype="uint16", sequence=BLOCK, batch=BLOCK * 10
    )
    assert_shares(found, "olmo-core, at cap", within=0.001)


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


@pytest.mark.parametrize("held_out", [True, False])
def test_litgpt_streams_the_mixture_and_validates(
    held_out: bool,
    corpus: Study,
    tmp_path: Path,
    read: Callable[..., Any],
    export: Callable[..., Path],
) -> None:
    path = export("litgpt", mapping_of_folders(tmp_path, valid=held_out))
    shards = {"path": flat_shards(corpus)}
    if held_out:
        shards["valid"] = flat_shards(corpus, "valid")
    found = read("litgpt", file=str(path), shards=shards, block=BLOCK, blocks=60_000)
    assert_shares(found["train"], "litgpt")
    assert set(found["valid"]) == set(MIXTURE.domains)


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
    found = read("torchtitan", file=str(path), tokenizer=tokenizer, block=BLOCK, rows=50_000)
    assert_shares(found, "torchtitan")


@pytest.mark.parametrize(
    ("reader", "to", "arguments", "copied"),
    [
        ("trl", "trl", {}, False),
        ("trl", "trl", {}, True),
        ("llama_factory", "llama-factory", {"seeds": SEEDS}, True),
        ("axolotl", "axolotl", {}, False),
    ],
)
def test_documents_come_in_the_shares_of_tokens_that_were_asked(
    reader: str,
    to: str,
    arguments: dict[str, Any],
    copied: bool,
    corpus: Study,
    tmp_path: Path,
    read: Callable[..., Any],
    export: Callable[..., Path],
    count: Callable[[Mapping[str, list[str]]], dict[str, int]],
) -> None:
    paths = mapping_of_copies(corpus, tmp_path) if copied else None
    tokens = 1_000_000
    file = export(to, paths, **({"tokens": tokens, "max_epochs": 4.0} if to == "axolotl" else {}))
    found = count(read(reader, file=str(file), **arguments))
    assert_shares(found, to)
    if to == "axolotl":
        assert sum(found.values()) == pytest.approx(tokens, rel=0.01)


@pytest.mark.parametrize("streaming", [True, False])
def test_interleave_datasets_gives_the_shares_of_tokens(
    streaming: bool,
    export: Callable[..., Path],
    count: Callable[[Mapping[str, list[str]]], dict[str, int]],
) -> None:
    namespace: dict[str, Any] = {}
    exec(export("interleave").read_text(), namespace)
    texts: dict[str, list[str]] = {name: [] for name in ALPHABETS}
    for seed in SEEDS:
        namespace["SEED"] = seed
        for row in namespace["load"](streaming=streaming):
            kind = next(n for n, letters in ALPHABETS.items() if row["text"][0] in letters)
            texts[kind].append(row["text"])
    assert_shares(count(texts), "interleave")


@pytest.mark.parametrize("streaming", [True, False])
def test_a_plain_text_file_is_one_row(streaming: bool, tmp_path: Path) -> None:
    whole = ["one\n\ntwo\n", "three", "four\nfive"]
    names = ["a.txt", "b[1].md", "c.txt.gz"]
    for name, text in zip(names, whole, strict=True):
        raw = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    place = Place(tuple(str(tmp_path / name) for name in names), (), 10, 3)
    request = exports.Request("m", (exports.Stage(0, {"a": 1.0}),), {"a": place}, ())
    namespace: dict[str, Any] = {}
    exec(exports.exporter("interleave").write(request).text, namespace)
    rows = namespace["load"](streaming=streaming)
    assert [row["text"] for row in rows] == whole


REAL = Mixture.of({"books": 0.45, "knowledge": 0.4, "math": 0.15})


def test_interleave_datasets_gives_the_shares_of_real_text(tmp_path: Path) -> None:
    """Domains of the corpus with a thousand documents and more, packed, mixed with many seeds."""
    if not SHARED.is_dir():
        pytest.skip(f"real text is not there: {SHARED}")
    files = {n: SHARED / "train" / f"{n}.jsonl.zst" for n in REAL.domains}
    listed = "".join(
        f"  - {{name: {n}, train: {f}, valid: {SHARED}/valid/{f.name}}}\n" for n, f in files.items()
    )
    (tmp_path / "study.yaml").write_text(
        f"name: real\ndomains:\n{listed}data: {{tokenizer: {{vocab_size: 2000}}}}\n"
    )
    study = Study.open(tmp_path)
    build.build(study.layout, study.config)
    mix = study.layout.mixture("asked")
    MixtureFile("asked", REAL).save(mix)
    form = exports.exporter("interleave")
    found = exports.locate(form, tmp_path, None, text_places)
    exports.export(mix, "interleave", tmp_path / "m.py", found.places, exports.Asked())
    tokenizer = tokenizers.load(study.layout.tokenizer)
    tokens = {}
    for name, file in files.items():
        lines = zstandard.decompress(file.read_bytes()).decode().split("\n")
        texts = [json.loads(line)["text"] for line in lines if line]
        encoded = tokenizer.encode_batch(texts)
        tokens.update({t: (name, len(e.ids) + 1) for t, e in zip(texts, encoded, strict=True)})
    namespace: dict[str, Any] = {}
    exec((tmp_path / "m.py").read_text(), namespace)
    drawn: Counter[str] = Counter()
    for seed in range(25):
        namespace["SEED"] = seed
        for batch in namespace["load"](streaming=False).iter(batch_size=1000):
            for text in batch["text"]:
                name, count = tokens[text]
                drawn[name] += count
    assert_shares(drawn, "interleave, real", mixture=REAL)
