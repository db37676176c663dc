"""An array of models trains every member as if it were alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from proxy_trainer.data.batch import Batch
from proxy_trainer.loss import cross_entropy
from proxy_trainer.members import Members
from proxy_trainer.models import kernels
from proxy_trainer.models.array import ModelArray
from proxy_trainer.models.gpt import GPT
from proxy_trainer.optim import learning_rate
from regmix.config import ModelConfig, TrainConfig
from regmix.sizes import ModelShape, TrainPlan, plan, shape

VOCAB, CONTEXT, BATCH, STEPS = 200, 32, 4, 50
CPU = torch.device("cpu")
SHAPES = {
    "llama": {},
    "grouped": {"heads": 4, "kv_heads": 2},
    "qwen3 tied": {"qk_norm": True, "tied_embeddings": True},
    "tied": {"tied_embeddings": True},
}


def small(**settings: object) -> ModelShape:
    return shape(ModelConfig.model_validate(
        {"size": "50k", "d_model": 32, "layers": 2, "heads": 2, "context": CONTEXT, **settings}
    ))  # fmt: skip


def planned(**settings: object) -> TrainPlan:
    tokens = BATCH * CONTEXT
    return plan(TrainConfig.model_validate(
        {"tokens": STEPS * tokens, "batch_tokens": tokens, "lr": 3e-3, **settings}
    ), small())  # fmt: skip


def batches(seed: int) -> torch.Tensor:
    """Blocks with a pattern to learn, ``(STEPS, BATCH, CONTEXT + 1)``."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(VOCAB, (STEPS, BATCH, 1), generator=generator)
    stride = torch.randint(1, 4, (STEPS, BATCH, 1), generator=generator)
    return (first + stride * torch.arange(CONTEXT + 1)) % VOCAB


def alone(dims: ModelShape, made: TrainPlan, seed: int, data: torch.Tensor) -> list[float]:
    """The reference: transformers' decoder as plain modules, torch's own loss, AdamW, clipping."""
    model = GPT(dims, VOCAB)
    model.initialise(seed)
    trunk = [p for n, p in model.named_parameters() if n.endswith("_proj.weight")]
    rest = [p for n, p in model.named_parameters() if not n.endswith("_proj.weight")]
    optimiser = torch.optim.AdamW(
        [{"params": trunk}, {"params": rest, "weight_decay": 0.0}],
        betas=(made.beta1, made.beta2), weight_decay=made.weight_decay, foreach=False,
    )  # fmt: skip
    losses = []
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(made, step)
        logits = model(data[step, :, :-1]).flatten(0, 1)
        loss = F.cross_entropy(logits, data[step, :, 1:].flatten())
        total = loss + made.z_loss * logits.logsumexp(-1).square().mean()
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), made.clip)
        optimiser.step()
        losses.append(total.item())
    return losses


def together(
    dims: ModelShape, plans: list[TrainPlan], seeds: list[int], data: list[torch.Tensor]
) -> tuple[torch.Tensor, Members]:
    """Losses of every step and member, ``(STEPS, K)``."""
    members = Members(dims, VOCAB, plans[0], seeds, device=CPU, separator=0)
    losses = []
    for step in range(STEPS):
        rates = [learning_rate(p, step) for p in plans]
        losses.append(members.step(step, Batch(torch.stack([d[step] for d in data])), rates).loss_K)
    return torch.stack(losses), members


@pytest.mark.parametrize("z_loss", [0.0, 1e-3])
@pytest.mark.parametrize("members", [1, 3, 8])
def test_losses_are_those_of_single_models_to_1e_5(members: int, z_loss: float) -> None:
    """Any mix of learning rates, seeds and data; 50 steps of AdamW in single precision."""
    plans = [planned(lr=3e-3 * 0.8**k, z_loss=z_loss) for k in range(members)]
    seeds = [k % 3 for k in range(members)]
    data = [batches(10 + k) for k in range(members)]
    found, _ = together(small(), plans, seeds, data)
    for k in range(members):
        expected = alone(small(), plans[k], seeds[k], data[k])
        assert expected[-1] < expected[0] - 0.1, "nothing was learnt"
        assert found[:, k].tolist() == pytest.approx(expected, abs=1e-5, rel=0)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_trains_as_a_single_model(name: str) -> None:
    dims = small(**SHAPES[name])
    found, _ = together(dims, [planned()] * 2, [4, 5], [batches(0), batches(1)])
    for k in range(2):
        assert found[:, k].tolist() == pytest.approx(
            alone(dims, planned(), 4 + k, batches(k)), abs=1e-5, rel=0
        )


@pytest.mark.parametrize("name", SHAPES)
def test_company_changes_no_bit(name: str) -> None:
    dims = small(**SHAPES[name])
    seeds, data = [0, 1, 0], [batches(k) for k in range(3)]
    plans = [planned(lr=lr) for lr in (1e-3, 3e-3, 9e-3)]
    found, members = together(dims, plans, seeds, data)
    for k in range(3):
        losses, single = together(dims, plans[k : k + 1], seeds[k : k + 1], data[k : k + 1])
        assert torch.equal(losses[:, 0], found[:, k])
        for own, all_of_them in zip(
            single.array.parameters(), members.array.parameters(), strict=True
        ):
            assert torch.equal(own[0], all_of_them[k])


def test_a_member_that_diverges_is_frozen_and_the_others_do_not_notice() -> None:
    plans = [planned(lr=lr, clip=1e9, warmup_share=0.0) for lr in (1e-3, 1e12, 2e-3)]
    data = [batches(k) for k in range(3)]
    found, members = together(small(), plans, [0, 0, 0], data)
    broken = members.broken_K.tolist()
    assert broken[0] == broken[2] == 0
    assert 2 <= broken[1] < 20
    assert not found[broken[1] - 1 :, 1].isfinite().any()
    for k in (0, 2):
        losses, single = together(small(), plans[k : k + 1], [0], data[k : k + 1])
        assert torch.equal(losses[:, 0], found[:, k])
        assert torch.equal(single.array.embed[0], members.array.embed[k])


def test_a_poisoned_batch_freezes_a_member_where_it_was() -> None:
    members = Members(small(), VOCAB, planned(), [0, 1], device=CPU, separator=0)
    data = torch.stack([batches(0)[0], batches(1)[0]])
    members.step(0, Batch(data), [1e-3, 1e-3])
    with torch.no_grad():
        members.array.norm[1, 0, 3] = torch.nan
    before = {n: p.detach().clone() for n, p in members.array.named_parameters()}
    loss = members.step(1, Batch(data), [1e-3, 1e-3]).loss_K
    assert loss.isfinite().tolist() == [True, False]
    assert members.broken_K.tolist() == [0, 2]
    for name, parameter in members.array.named_parameters():
        assert torch.equal(parameter[1].nan_to_num(), before[name][1].nan_to_num())
        assert not torch.equal(parameter[0], before[name][0])
    assert members.checkpoint(1, 2, 0.0).tensors["optimiser.step"] == 1


def test_the_same_seed_has_the_same_initial_weights_in_every_place() -> None:
    array = ModelArray.initialised(small(), VOCAB, [7, 8, 7])
    single = GPT(small(), VOCAB)
    single.initialise(7)
    for name, value in single.state_dict().items():
        assert torch.equal(array.member(0)[name], value)
        assert torch.equal(array.member(2)[name], value)
        if value.dim() == 2:
            assert not torch.equal(array.member(1)[name], value)


@pytest.mark.parametrize("name", SHAPES)
def test_a_member_taken_out_and_put_in_again_is_the_same(name: str) -> None:
    array = ModelArray.initialised(small(**SHAPES[name]), VOCAB, [1, 2])
    with torch.no_grad():
        for parameter in array.parameters():
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    other = ModelArray(small(**SHAPES[name]), VOCAB, 1)
    other.load_member(0, array.member(1))
    for own, source in zip(other.parameters(), array.parameters(), strict=True):
        assert torch.equal(own[0], source[1])


def test_spikes_are_left_out_and_counted() -> None:
    """A batch of noise after 200 of a pattern; only the member that has it leaves it out."""
    made = replace(planned(lr=3e-3, clip=1e9), skip_sigma=6.0, steps=300)
    members = Members(small(), VOCAB, made, [0, 1], device=CPU, separator=0)
    generator = torch.Generator().manual_seed(0)
    pattern = (torch.arange(CONTEXT + 1) * 3).expand(2, BATCH, -1)
    for step in range(200):
        members.step(step, Batch((pattern + step % 5) % VOCAB), [1e-2, 1e-2])
    assert members.skipped_K.tolist() == [0, 0]
    noise = pattern.clone()
    noise[1] = torch.randint(VOCAB, noise[1].shape, generator=generator)
    before = members.array.embed.detach().clone()
    members.step(200, Batch(noise), [1e-2, 1e-2])
    assert members.skipped_K.tolist() == [0, 1]
    assert torch.equal(members.array.embed[1], before[1])
    assert not torch.equal(members.array.embed[0], before[0])


def test_masked_documents_do_not_see_each_other() -> None:
    """The hidden states of a document in a block are those of the document alone."""
    made = replace(planned(), document_mask=True)
    members = Members(small(), VOCAB, made, [0], device=CPU, separator=0)
    ids = torch.arange(1, CONTEXT + 1) * 7 % (VOCAB - 1) + 1
    ids[9] = 0  # ends the first document

    def masked(row: torch.Tensor) -> torch.Tensor:
        ids = row.expand(1, 1, -1)
        return members.array.hidden(ids, members._mask(Batch(F.pad(ids, (0, 1)))))

    with torch.no_grad():
        whole = masked(ids)
        open_ = members.array.hidden(ids.expand(1, 1, -1))
        first = members.array.hidden(ids[:10].expand(1, 1, -1))
        other = ids.clone()
        other[:9] = 5
        changed = masked(other)
    torch.testing.assert_close(whole[0, :10], first[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole[0, 10:], changed[0, 10:], rtol=1e-4, atol=1e-5)
    assert (whole[0, 10:] - open_[0, 10:]).abs().max() > 1e-3


def test_half_precision_autocast_trains_like_single_precision() -> None:
    """What a GPU's path does, on the CPU: reductions and weights stay in single precision."""
    array = ModelArray.initialised(small(), VOCAB, [0, 1])
    ids = torch.stack([batches(0)[0], batches(1)[0]])

    def gradient(half: bool) -> tuple[torch.Tensor, torch.Tensor]:
        array.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            hidden = array.hidden(ids[..., :-1])
            loss, _ = cross_entropy(hidden, array.unembed_KDV, ids[..., 1:].flatten(1))
        assert loss.dtype == torch.float32
        loss.sum().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in array.parameters())
        return loss.detach(), array.layers[0].qkv.grad.clone()  # type: ignore[union-attr, operator]

    (single, exact), (half, rough) = gradient(False), gradient(True)
    torch.testing.assert_close(half, single, rtol=1e-2, atol=0)
    assert F.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.99


def test_the_general_way_compiles_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU runs: plain operations, with no break for a compiler; the same figures."""
    from proxy_trainer.models import array as array_module
    from proxy_trainer.models import kernels

    made = ModelArray.initialised(small(), VOCAB, [0, 1])
    ids = torch.stack([batches(0)[0], batches(1)[0]])[..., :-1]
    with torch.no_grad():
        expected = made.hidden(ids)
        for module in (array_module, kernels):
            monkeypatch.setattr(module, "on_cpu", lambda _: False)
        general = made.hidden(ids)
        compiled = torch.compile(made.hidden, fullgraph=True, dynamic=False, backend="eager")(ids)
    torch.testing.assert_close(general, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(compiled, general)


def test_a_device_rate_is_read_at_every_step() -> None:
    """As on a GPU, where the rate is a tensor: the same steps as with numbers."""
    found = []
    for on_device in (False, True):
        members = Members(small(), VOCAB, planned(), [0, 1], device=CPU, separator=0)
        if on_device:
            members._optimiser._rates_on_device = True
        for step in range(5):
            batch = torch.stack([batches(0)[step], batches(1)[step]])
            loss = members.step(step, Batch(batch), [1e-3 * step, 2e-3]).loss_K
        found.append(loss)
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_batch_in_parts_is_the_same_step(rows: int) -> None:
    """Gradients of the parts add up, the last part shorter."""
    losses = []
    for each in (None, rows):
        members = Members(small(), VOCAB, planned(), [0, 1], device=CPU, separator=0, rows=each)
        for step in range(10):
            batch = torch.stack([batches(0)[step], batches(1)[step]])
            loss, norm, _ = members.step(step, Batch(batch), [3e-3, 1e-3])
        losses.append(torch.stack([loss, norm]))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)


def test_tokens_that_do_not_count_are_not_learnt() -> None:
    """Their targets can be anything; the loss is the mean over those that count."""
    random = torch.Generator().manual_seed(0)
    tokens = torch.stack([batches(0)[0], batches(1)[0]])
    counts = (torch.rand(tokens[..., 1:].shape, generator=random) < 0.4).float()
    other = tokens.clone()
    # The last token of a block is a target alone, never read.
    counts[..., -1] = 0
    other[..., -1] = (other[..., -1] + 1) % VOCAB
    found = []
    for given, rows in ((tokens, None), (other, None), (tokens, 3)):
        members = Members(small(), VOCAB, planned(), [0, 1], device=CPU, separator=0, rows=rows)
        nats = members.array.hidden(tokens[..., :-1]) @ members.array.unembed_KDV
        nats_KN = F.cross_entropy(nats.mT, tokens[..., 1:].flatten(1), reduction="none")
        stepped = members.step(0, Batch(given, counts), [1e-3, 1e-3])
        mean_K = (nats_KN * counts.flatten(1)).sum(1) / counts.sum((1, 2))
        torch.testing.assert_close(stepped.loss_K, mean_K, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            stepped.nats_KB, (nats_KN.view_as(counts) * counts).sum(2), rtol=1e-5, atol=1e-5
        )
        found.append((stepped.norm_K, members.array.embed.detach().clone()))
    for norm, embed in found[1:]:
        torch.testing.assert_close(norm, found[0][0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(embed, found[0][1], rtol=1e-4, atol=1e-6)


def test_documents_can_be_given_as_they_are() -> None:
    """The same step as by separators, where those say the same."""
    tokens = torch.stack([batches(0)[0], batches(1)[0]])
    separator = int(tokens[0, 0, 5])
    losses = []
    for made, documents in (
        (replace(planned(), document_mask=True), None),
        (planned(), kernels.documents(tokens[..., :-1], separator)),
        (planned(), None),
    ):
        members = Members(small(), VOCAB, made, [0, 1], device=CPU, separator=separator)
        losses.append(members.step(0, Batch(tokens, None, documents), [1e-3, 1e-3]).loss_K)
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
