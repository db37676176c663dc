"""What other trainers make of our files, told in JSON; run by the environment of `trainers.py`.

    python trainer_readers.py READER JSON-ARGUMENTS

Every reader calls the trainer's own code on an exported file and says what it found.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml


def _bare(name: str) -> None:
    """Make a package's modules importable without what its `__init__` imports."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, name
    module = types.ModuleType(name)
    module.__path__ = list(spec.submodule_search_locations or ())
    sys.modules[name] = module


def _module(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("exported", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["exported"] = module
    spec.loader.exec_module(module)
    return module


def olmo_core(file: str, tokens: int, dtype: str, sequence: int, batch: int) -> dict[str, Any]:
    """Tokens that the mixture takes of each source; or why it is refused."""
    from olmo_core.data.source_mixture import SourceMixtureDatasetConfig, SourceMixtureList
    from olmo_core.exceptions import OLMoConfigurationError

    sources = SourceMixtureList.from_yaml(file)
    config = SourceMixtureDatasetConfig(
        sources, requested_tokens=tokens, global_batch_size=batch, render_tables=False, quiet=True
    )
    try:
        built = config.build(npdtype=getattr(np, dtype), sequence_length=sequence)
    except OLMoConfigurationError as exc:
        return {"refused": str(exc)}
    return {s.name: sum(p.tokens for p in s.path_tokens) for s in built.sources}


def olmo_core_shards(tokens: dict[str, int], dtype: str) -> dict[str, list[int]]:
    """All ids of each shard, by its path."""
    from olmo_core.data.utils import load_array_slice

    kind = getattr(np, dtype)
    return {path: load_array_slice(path, 0, n, kind).tolist() for path, n in tokens.items()}


def megatron_blends(lists: dict[str, list[str]], samples: int) -> dict[str, dict[str, int]]:
    """Samples that are drawn from each prefix, by split."""
    return {split: _blend(words, samples) for split, words in lists.items()}


def _blend(words: list[str], samples: int) -> dict[str, int]:
    from megatron.core.datasets import helpers
    from megatron.core.datasets.utils import get_blend_from_list, normalize

    blend = get_blend_from_list(words)
    assert blend is not None
    prefixes, weights = blend
    assert weights is not None
    which, index = np.zeros(samples, dtype=np.int16), np.zeros(samples, dtype=np.int64)
    helpers.build_blending_indices(
        which, index, np.array(normalize(weights)), len(prefixes), samples, False
    )
    return {prefix: int((which == i).sum()) for i, prefix in enumerate(prefixes)}


def megatron_shards(prefixes: list[str]) -> dict[str, Any]:
    """Every document of each prefix, and what its index says of them."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    opened = {prefix: IndexedDataset(prefix) for prefix in prefixes}
    return {
        prefix: {
            "documents": [data[i].tolist() for i in range(len(data))],
            "bounds": data.document_indices.tolist(),
            "lengths": data.sequence_lengths.tolist(),
            "dtype": np.dtype(data.index.dtype).name,
        }
        for prefix, data in opened.items()
    }


def litgpt(file: str, shards: dict[str, str], block: int, blocks: int) -> dict[str, int]:
    """Blocks of each domain that the exported data module gives.

    Args:
        shards: flat uint16 ids by domain; written as litdata's own chunks where the file says.
    """
    import torch
    from litdata.streaming import Cache, TokensLoader

    module = _module(file)
    owner = {}
    for entry in module.MIXTURE:
        ids = np.fromfile(shards[entry["name"]], dtype="<u2").astype(np.int32)
        rows = ids[: len(ids) // (block + 1) * (block + 1)].reshape(-1, block + 1)
        owner.update({row.tobytes(): entry["name"] for row in rows})
        loader = TokensLoader(block_size=block + 1)
        cache = Cache(entry["path"], chunk_bytes="256KB", item_loader=loader)
        for i, row in enumerate(rows):
            cache._add_item(i, torch.from_numpy(row.copy()))
        cache.done()
        cache.merge(1)
    mixture = module.Mixture(num_workers=0)
    mixture.connect(batch_size=1, max_seq_length=block)
    found: Counter[str] = Counter()
    for row in mixture.dataset():
        found[owner[np.asarray(row, dtype=np.int32).tobytes()]] += 1
        if found.total() == blocks:
            break
    return dict(found)


def streaming(file: str, shards: dict[str, str], block: int, rows: int) -> dict[str, int]:
    """Rows of each stream in one epoch."""
    _bare("streaming")
    from streaming.base import MDSWriter, Stream, StreamingDataset

    streams = yaml.safe_load(Path(file).read_text())["train_loader"]["dataset"]["streams"]
    for name, stream in streams.items():
        ids = np.fromfile(shards[name], dtype="<u2")
        columns = {"domain": "str", "tokens": "bytes"}
        with MDSWriter(out=stream["local"], columns=columns, size_limit=2**20) as writer:
            for i in range(len(ids) // block):
                row = ids[i * block : (i + 1) * block]
                writer.write({"domain": name, "tokens": row.tobytes()})
    data = StreamingDataset(
        streams=[Stream(**s) for s in streams.values()], epoch_size=rows, batch_size=1, shuffle=True
    )
    return dict(Counter(sample["domain"] for sample in data))


def torchtitan(file: str, tokenizer: str, block: int, rows: int) -> dict[str, int]:
    """Rows of each domain; a row's domain is that of its text."""
    from tokenizers import Tokenizer
    from torchtitan.components.tokenizer import BaseTokenizer
    from torchtitan.hf_datasets.text_datasets import InterleavedHuggingFaceTextDataLoader

    inner = Tokenizer.from_file(tokenizer)

    class Ours(BaseTokenizer):
        def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
            return [*inner.encode(text).ids, 0]

        def decode(self, ids: list[int]) -> str:
            return str(inner.decode(ids))

        def get_vocab_size(self) -> int:
            return int(inner.get_vocab_size())

    loader = InterleavedHuggingFaceTextDataLoader(
        _module(file).dataloader,
        dp_world_size=1, dp_rank=0, tokenizer=Ours(), seq_len=block, local_batch_size=1,
    )  # fmt: skip
    found: Counter[str] = Counter()
    for inputs, _ in loader:
        found[domain_of(inner.decode(inputs["input"][0].tolist()))] += 1
        if found.total() == rows:
            break
    return dict(found)


def trl(file: str) -> dict[str, list[str]]:
    """The texts that are kept, by domain."""
    from trl.scripts.utils import DatasetMixtureConfig, get_dataset

    config = DatasetMixtureConfig(**yaml.safe_load(Path(file).read_text()))
    return _by_domain(row["text"] for row in get_dataset(config)["train"])


def llama_factory(file: str, documents: int) -> dict[str, list[str]]:
    """The first documents of the merged stream, by domain."""
    os.environ["DISABLE_VERSION_CHECK"] = "1"  # of transformers, which is not used here
    _bare("llamafactory.data")
    from datasets import load_dataset
    from llamafactory.data.data_utils import merge_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams.data_args import DataArguments

    given = yaml.safe_load(Path(file).read_text())
    assert given.pop("stage") == "pt"
    arguments = DataArguments(**given)
    folder = os.path.join(os.path.dirname(file), arguments.dataset_dir)
    parts = []
    for found in get_dataset_list(arguments.dataset, folder):
        part = load_dataset(
            "json",
            data_files=os.path.join(folder, found.dataset_name),
            split=found.split,
            streaming=arguments.streaming,
        )
        parts.append(part.select_columns([found.prompt]))
    merged = merge_dataset(parts, arguments, seed=0)
    return _by_domain(row["text"] for row in merged.take(documents))


def axolotl(file: str) -> dict[str, list[str]]:
    """The texts that are loaded, by domain."""
    _bare("axolotl.utils.data")
    numba = types.ModuleType("numba")  # compiles a sampler that is imported and not used here
    numba.njit = lambda function: function  # type: ignore[attr-defined]
    sys.modules["numba"] = numba
    from axolotl.utils.data.shared import load_dataset_with_config
    from axolotl.utils.dict import DictDefault
    from axolotl.utils.schemas.datasets import SFTDataset
    from datasets import concatenate_datasets

    entries = yaml.safe_load(Path(file).read_text())["datasets"]
    for entry in entries:
        SFTDataset.model_validate(entry)
    loaded = [load_dataset_with_config(DictDefault(e), use_auth_token=False) for e in entries]
    return _by_domain(row["text"] for row in concatenate_datasets(loaded))


def domain_of(text: str) -> str:
    """Which of the tests' domains a text is of: each has an alphabet of its own."""
    kinds = {"digits": str.isdigit, "upper": str.isupper, "lower": str.islower}
    counts = {name: sum(map(test, text)) for name, test in kinds.items()}
    return max(counts, key=lambda name: counts[name])


def _by_domain(texts: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        found.setdefault(domain_of(text), []).append(text)
    return found


READERS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        olmo_core, olmo_core_shards, megatron_blends, megatron_shards, litgpt, streaming,
        torchtitan, trl, llama_factory, axolotl,
    )
}  # fmt: skip


if __name__ == "__main__":
    answer = READERS[sys.argv[1]](**json.loads(sys.argv[2]))
    print("\n" + json.dumps(answer))
