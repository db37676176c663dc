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


def litgpt(
    file: str, shards: dict[str, dict[str, str]], block: int, blocks: int
) -> dict[str, dict[str, int]]:
    """Blocks of each domain that training and validation are given, as litgpt sets both up.

    Args:
        shards: flat uint16 ids by domain, of "path" and "valid"; written as litdata's own chunks
            where the file says.
        blocks: how many of the training loader's are counted.
    """
    import lightning
    import torch
    from litgpt.args import TrainArgs
    from litgpt.pretrain import get_dataloaders, validate
    from torch.utils.data import DataLoader

    module = _module(file)
    owner: dict[bytes, tuple[str, str]] = {}
    for entry in module.MIXTURE:
        for split in shards:
            if entry[split] is not None:
                rows = _litdata(entry[split], shards[split][entry["name"]], block)
                owner.update({row.tobytes(): (split, entry["name"]) for row in rows})
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    given = get_dataloaders(
        fabric, module.Mixture(num_workers=0), None, TrainArgs(micro_batch_size=50), block
    )
    assert all(isinstance(loader, DataLoader) for loader in given), given
    train, valid = fabric.setup_dataloaders(*given)
    found: dict[str, Counter[str]] = {"train": Counter(), "valid": Counter()}
    for name, loader in (("train", train), ("valid", valid)):
        for batch in loader:
            for row in batch.numpy().astype(np.int32):
                split, domain = owner[row.tobytes()]
                assert name == "train" or split == "valid" or "valid" not in shards
                found[name][domain] += 1
            if found[name].total() >= blocks:
                break

    class Uniform(torch.nn.Module):
        """Every token is as likely: the loss is the logarithm of how many there are."""

        max_seq_length = block

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*ids.shape, 2**16)

    loss = validate(fabric, Uniform(), valid, max_iters=2, verbose=False)
    assert abs(loss.item() - np.log(2**16)) < 1e-3, loss
    return {name: dict(counts) for name, counts in found.items()}


def _litdata(folder: str, flat: str, block: int) -> Any:
    """Write ids as litdata's chunks; the blocks that it will give of them."""
    import torch
    from litdata.streaming import Cache, TokensLoader

    ids = np.fromfile(flat, dtype="<u2").astype(np.int32)
    rows = ids[: len(ids) // (block + 1) * (block + 1)].reshape(-1, block + 1)
    loader = TokensLoader(block_size=block + 1)
    cache = Cache(folder, chunk_bytes="256KB", item_loader=loader)
    for i, row in enumerate(rows):
        cache._add_item(i, torch.from_numpy(row.copy()))
    cache.done()
    cache.merge(1)
    return rows


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
    """The texts that are kept, by domain; the file is parsed as TRL's scripts parse theirs."""
    from trl import SFTConfig, TrlParser
    from trl.scripts.utils import DatasetMixtureConfig, get_dataset

    parser = TrlParser((DatasetMixtureConfig, SFTConfig))
    config, training = parser.parse_args_and_config(["--config", file, "--bf16", "false"])
    return _by_domain(row[training.dataset_text_field] for row in get_dataset(config)["train"])


def llama_factory(file: str, seeds: list[int]) -> dict[str, list[str]]:
    """The documents of the merged data, by domain, as its own loader loads and merges them.

    Args:
        seeds: of training, which merges by them; the documents of all are told.
    """
    os.environ["DISABLE_VERSION_CHECK"] = "1"  # of transformers, which is not used here
    _bare("llamafactory.data")
    from llamafactory.data.loader import _get_merged_dataset
    from llamafactory.hparams.data_args import DataArguments
    from llamafactory.hparams.model_args import ModelArguments
    from transformers import Seq2SeqTrainingArguments

    os.chdir(os.path.dirname(file))  # `dataset_dir` is relative
    given = yaml.safe_load(Path(file).read_text())
    stage = given.pop("stage")
    arguments = DataArguments(**given)
    model = ModelArguments(model_name_or_path="none")
    texts = []
    for seed in seeds:
        training = Seq2SeqTrainingArguments(output_dir="out", seed=seed, use_cpu=True)
        merged = _get_merged_dataset(arguments.dataset, model, arguments, training, stage)
        assert merged is not None
        for batch in merged.iter(batch_size=1000):
            texts.extend(prompt[0]["content"] for prompt in batch["_prompt"])
    return _by_domain(texts)


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
