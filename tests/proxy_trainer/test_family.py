"""Transformers' modules train sharded as transformers trains them, masks and windows together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from proxy_trainer.data.batch import Batch
from proxy_trainer.models.family import FamilyDecoder
from proxy_trainer.models.folder import load_folder
from proxy_trainer.models.kernels import document_mask, documents
from proxy_trainer.optim import learning_rate
from proxy_trainer.sharded.ranks import Ranks, join
from proxy_trainer.sharded.trainee import Sharded
from regmix import sizes
from regmix.config import ModelConfig, TrainConfig
from regmix.families import TransformersShape
from regmix.sizes import TrainPlan

SECONDS = 180
VOCAB, CONTEXT, BATCH, STEPS, SEPARATOR = 120, 32, 4, 30, 7
_BASE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": CONTEXT,
}  # fmt: skip
_YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "rope_theta": 5e4},
    "llama biased": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "qwen3 tied": {"model_type": "qwen3", "tie_word_embeddings": True, "head_dim": 16},
    "qwen3 windows": {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 5,
                      "max_window_layers": 1},
    # With weights as small as 0.02 a narrow OLMo 2 trains so roughly that rounding grows past 1e-5.
    "olmo2": {"model_type": "olmo2", "num_key_value_heads": 4, "initializer_range": 0.05},
    "olmo3": {"model_type": "olmo3", "sliding_window": 6, "num_hidden_layers": 4},
    "olmo3 yarn": {"model_type": "olmo3", "sliding_window": 6, "initializer_range": 0.05,
                   "rope_parameters": {"full_attention": _YARN,
                                       "sliding_attention": {"rope_type": "default"}}},
}  # fmt: skip


def described(name: str) -> TransformersShape:
    return TransformersShape.from_config({**_BASE, **CONFIGS[name]}, name)


def planned(**settings: object) -> TrainPlan:
    tokens = BATCH * CONTEXT
    model = sizes.shape(ModelConfig(size="50k", context=CONTEXT))
    return sizes.plan(TrainConfig.model_validate(
        {"tokens": STEPS * tokens, "batch_tokens": tokens, "lr": 3e-3, "eval_points": 1, **settings}
    ), model)  # fmt: skip


def batches() -> torch.Tensor:
    """Blocks with a pattern to learn, ``(STEPS, 1, BATCH, CONTEXT + 1)``."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(VOCAB, (STEPS, 1, BATCH, 1), generator=generator)
    stride = torch.randint(1, 4, (STEPS, 1, BATCH, 1), generator=generator)
    return (first + stride * torch.arange(CONTEXT + 1)) % VOCAB


def losses(trainee: Sharded, made: TrainPlan, own: slice = slice(None)) -> list[list[float]]:
    """Loss and gradient norm of every step."""
    data = batches()[:, :, own]
    found = [trainee.step(t, Batch(data[t]), [learning_rate(made, t)]) for t in range(STEPS)]
    return [[step.loss_K.item(), step.norm_K.item()] for step in found]


def made(name: str, seed: int = 0) -> FamilyDecoder:
    decoder = FamilyDecoder(described(name), VOCAB)
    generator = torch.Generator().manual_seed(seed)
    for unit in decoder.units:
        decoder.fill_(unit, generator)
    decoder.complete_()
    return decoder


def plain(name: str, weights: dict[str, Tensor]) -> Any:
    """The model as transformers alone makes it."""
    config = AutoConfig.for_model(
        **described(name).to_config(), vocab_size=VOCAB,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.load_state_dict(weights)
    return model.eval()


def by_transformers(
    name: str, weights: dict[str, Tensor], plan: TrainPlan
) -> tuple[list[list[float]], dict[str, Tensor]]:
    """Losses and norms of training with transformers' logits and torch's AdamW and clipping."""
    model = plain(name, weights)
    trunk = [p for n, p in model.named_parameters() if n.endswith("_proj.weight")]
    others = [p for n, p in model.named_parameters() if not n.endswith("_proj.weight")]
    optimiser = torch.optim.AdamW(
        [{"params": trunk, "weight_decay": plan.weight_decay},
         {"params": others, "weight_decay": 0.0}], betas=(plan.beta1, plan.beta2),
    )  # fmt: skip
    found = []
    for step, batch_BT in enumerate(batches()[:, 0]):
        logits = model(input_ids=batch_BT[:, :-1]).logits.flatten(0, 1)
        loss = F.cross_entropy(logits, batch_BT[:, 1:].flatten())
        loss = loss + plan.z_loss * logits.logsumexp(-1).square().mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(plan, step)
        optimiser.step()
        optimiser.zero_grad()
        found.append([loss.item(), norm.item()])
    return found, model.state_dict()


@pytest.mark.parametrize("name", CONFIGS)
def test_steps_are_those_of_transformers_and_torch(ranks: Ranks, name: str) -> None:
    plan = planned(z_loss=1e-3)
    trainee = Sharded(described(name), VOCAB, plan, 3, ranks, separator=SEPARATOR, rows=3)
    expected, weights = by_transformers(name, trainee.array.member(0), plan)
    found = losses(trainee, plan)
    assert found[-1][0] < found[0][0] - 0.2, "nothing was learnt"
    for (loss, norm), (their_loss, their_norm) in zip(found, expected, strict=True):
        assert loss == pytest.approx(their_loss, abs=1e-5)
        assert norm == pytest.approx(their_norm, rel=1e-3)
    ours = trainee.array.member(0)
    assert ours.keys() == weights.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, weights[key], rtol=0, atol=1e-4)


def together(count: int, *arguments: object) -> None:
    """This file as the processes of a sharded model, with arguments for :func:`main`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(count):
        place = {
            "RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1,
        }  # fmt: skip
        processes.append(subprocess.Popen(
            [sys.executable, __file__, *map(str, arguments)],
            env={**os.environ, **{k: str(v) for k, v in place.items()}},
        ))  # fmt: skip
    try:
        assert [p.wait(SECONDS) for p in processes] == [0] * count
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_train_as_one_does(ranks: Ranks, tmp_path: Path, name: str) -> None:
    """With documents apart and activations computed again; losses to 1e-5."""
    plan = planned(document_mask=True, z_loss=1e-3)
    trainee = Sharded(described(name), VOCAB, plan, 3, ranks, separator=SEPARATOR)
    expected = losses(trainee, plan)
    together(2, name, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "losses.json").read_text())
    assert expected[-1][0] < expected[0][0] - 0.2, "nothing was learnt"
    for (loss, norm), (own_loss, own_norm) in zip(found, expected, strict=True):
        assert loss == pytest.approx(own_loss, abs=1e-5)
        assert norm == pytest.approx(own_norm, rel=1e-3)
    weights = load_file(tmp_path / "out" / "weights.safetensors")
    for key, value in trainee.array.member(0).items():
        torch.testing.assert_close(weights[key], value, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["olmo3", "qwen3 tied"])
def test_each_process_takes_its_shards_of_a_folder(tmp_path: Path, name: str) -> None:
    """Three processes do not divide the tensors; bits are kept."""
    folder, out = tmp_path / "folder", tmp_path / "out"
    model = plain(name, made(name, 5).state_dict())
    model.save_pretrained(folder, max_shard_size="10KB")
    together(3, name, out, folder)
    found = load_file(out / "weights.safetensors")
    assert found.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(found[key], value)


@pytest.mark.parametrize("name", CONFIGS)
@settings(deadline=None, max_examples=15)
@given(ends=st.sets(st.integers(0, CONTEXT - 1), max_size=5), seed=st.integers(0, 99))
def test_documents_apart_are_documents_alone(name: str, ends: set[int], seed: int) -> None:
    """Together with windows: positions of a block come to what each document alone comes to."""
    decoder = made(name)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.dim() == 2:
                parameter *= 5  # attention sharp enough to tell
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(SEPARATOR + 1, VOCAB, (1, CONTEXT), generator=generator)
        ids[0, sorted(ends)] = SEPARATOR
        together = decoder.hidden(ids, document_mask(documents(ids, SEPARATOR)))
        starts = [0, *(e + 1 for e in sorted(ends) if e + 1 < CONTEXT), CONTEXT]
        alone = [decoder.hidden(ids[:, a:b]) for a, b in pairwise(starts)]
    torch.testing.assert_close(together, torch.cat(alone, 1), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["olmo3", "qwen3 windows"])
def test_a_window_with_a_mask_is_a_window_without(name: str) -> None:
    decoder = made(name)
    ids = torch.randint(VOCAB, (2, CONTEXT), generator=torch.Generator().manual_seed(1))
    everything = document_mask(torch.zeros_like(ids))
    with torch.no_grad():
        found, expected = decoder.hidden(ids, everything), decoder.hidden(ids)
        decoder.shape = replace(decoder.shape, window=CONTEXT)
        wider = decoder.hidden(ids, everything)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(wider, expected, atol=1e-3), "the window played no part"


@pytest.mark.parametrize("name", CONFIGS)
def test_initial_weights_are_those_the_config_asks_for(name: str) -> None:
    shape = described(name)
    torch.manual_seed(1)
    first = made(name, 7).state_dict()
    torch.manual_seed(2)
    again, other = made(name, 7).state_dict(), made(name, 8).state_dict()
    for key, value in first.items():
        assert torch.equal(value, again[key])
        if value.dim() == 2:
            assert not torch.equal(value, other[key])
            assert value.std().item() == pytest.approx(shape.init_std, rel=5 / value.numel() ** 0.5)
        else:
            assert (value == (0 if key.endswith("bias") else 1)).all(), key
    assert first.keys() == plain(name, first).state_dict().keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_half_precision_trains_like_single_precision(ranks: Ranks, name: str) -> None:
    plan = planned(document_mask=True)
    single, half = (
        Sharded(
            described(name), VOCAB, plan, 1, ranks,
            separator=SEPARATOR, recompute=h, half_precision=h,
        )
        for h in (False, True)
    )  # fmt: skip
    found, expected = losses(half, plan), losses(single, plan)
    assert [x for x, _ in found] == pytest.approx([x for x, _ in expected], rel=1e-2)
    assert all(t.dtype == torch.float32 for t in half.tensors().values())


@pytest.mark.parametrize("name", ["llama", "olmo3"])
def test_recomputing_keeps_less_and_changes_nothing(ranks: Ranks, name: str) -> None:
    plan = planned(document_mask=True)
    found, kept = [], []
    for recompute in (False, True):
        trainee = Sharded(
            described(name), VOCAB, plan, 1, ranks, separator=SEPARATOR, recompute=recompute
        )
        found.append(losses(trainee, plan))
        kept.append(saved_bytes(trainee))
    assert found[0] == found[1]
    assert kept[1] < kept[0] / 3


def saved_bytes(trainee: Sharded) -> int:
    """What a forward pass keeps for its gradients."""
    sizes = []

    def note(x: Tensor) -> Tensor:
        sizes.append(x.nbytes)
        return x

    block_BT = batches()[0, 0]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss, _ = trainee.array.model.loss(block_BT[:, :-1], block_BT[:, 1:], None, 0.0, None)
    loss.backward()
    for parameter in trainee.array.parameters().values():
        parameter.grad = None
    return sum(sizes)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # which the compiler looks at itself
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", ["native", "llama", "olmo3"])
def test_compiled_blocks_train_like_plain_ones(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch, name: str, recompute: bool
) -> None:
    """Traced without a break and guarded as for a GPU, without its code generator."""
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    native = sizes.shape(ModelConfig(size="50k", d_model=32, heads=2, context=CONTEXT))
    wanted = native if name == "native" else described(name)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend, fullgraph=True))
    plan = planned(document_mask=True)
    plain, compiled = (
        Sharded(
            wanted, VOCAB, plan, 1, ranks,
            separator=SEPARATOR, recompute=c and recompute, compiled=c,
        )
        for c in (False, True)
    )  # fmt: skip
    expected = losses(plain, plan)
    assert not graphs
    found = losses(compiled, plan)
    assert graphs, "nothing was compiled"
    assert [x for x, _ in found] == pytest.approx([x for x, _ in expected], abs=1e-5)
    assert compiled.tensors().keys() == plain.tensors().keys()
    assert batches().shape[2] == BATCH


def main(name: str, out: Path, folder: Path | None) -> None:
    """Train one model over all processes, or start it from a folder; the first writes it down."""
    torch.set_num_threads(1)
    ranks = join(hybrid=False, timeout_seconds=60)
    made = planned(document_mask=True, z_loss=1e-3)
    seed = 3 if folder is None else None
    trainee = Sharded(
        described(name), VOCAB, made, seed, ranks, separator=SEPARATOR, recompute=True
    )
    if folder is None:
        found = losses(trainee, made, ranks.rows(BATCH))
    else:
        trainee.array.load(load_folder(folder)[1])
        found = []
    weights = trainee.array.member(0)
    if ranks.first:
        out.mkdir()
        save_file({n: t.clone() for n, t in weights.items()}, out / "weights.safetensors")
        (out / "losses.json").write_text(json.dumps(found))


if __name__ == "__main__":
    paths = [Path(path) for path in sys.argv[2:]]
    main(sys.argv[1], paths[0], paths[1] if len(paths) > 1 else None)
    os._exit(0)  # skips the backends' teardown, which waits for processes that may be gone
