"""How long do evaluations take? Ours and lm-evaluation-harness on the same models and questions.

    python -m benchmarks.evals DATA [--questions 228] [--rounds 3] [--whole]

DATA holds ``eval/mmlu_{dev,test}.jsonl.zst`` and ``corpus/{train,valid}``. Eight native models are
asked together by us and folder by folder by the harness's ``hf`` model, and so is one Llama of
transformers: MMLU in the cloze form with five shots, on questions that fit the context whole, and
bits per byte of a domain's documents that do. Accuracies have to be the same and log-probabilities
within 1e-4, or the command fails: those beyond -100 within a millionth, as float32 holds them no
better, and of the harness's padded batches, which change its own figures, the difference is only
told. Each is a process of its own with one thread, from files to
figures; of several rounds, which take turns, the median counts. ``--whole`` adds how long all of
MMLU takes with a 1M proxy of the default context.

Weights are random, drawn far from uniform predictions: what figures are is not in question here.
``--models FOLDER…`` takes others, of one native shape, and their context; where that holds no five
shots, ``--shots`` says how many there are.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.swarms import RESULTS

VOCABULARY, FACTOR = 4096, 4
"""Of the tokenizer; and by which initial weights are multiplied."""
TOLERANCE, RELATIVE = 1e-4, 1e-6
BAR = 3.0
"""How much faster than the harness eight models are to be asked."""
TASK = """\
tasks:
  - name: mmlu
    files: [TEST]
    shot_files: [DEV]
    shots: SHOTS
    fields: {subject: subject}
    header: "The following are multiple choice questions (with answers) about {subject}:\\n\\n"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--questions", type=int, default=228, help="of MMLU, of all subjects alike")
    parser.add_argument("--documents", type=int, default=60, help="of each domain")
    parser.add_argument("--domains", nargs="+", default=["math", "code"])
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--size", default="1m")
    parser.add_argument("--llama", default="4m", help="size of transformers' model")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="of the harness")
    parser.add_argument("--models", type=Path, nargs="+", default=[])
    parser.add_argument("--shots", type=int, choices=range(6), default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole", action="store_true")
    args = parser.parse_args()
    if args.models:
        config = json.loads((args.models[0] / "config.json").read_text(encoding="utf-8"))
        args.context = config["max_position_embeddings"]
    with tempfile.TemporaryDirectory() as place:
        rows = compared(args, Path(place))
        if args.whole:
            rows += whole(args, Path(place))
    table = pd.DataFrame(rows)
    table["cores"], table["machine"] = len(os.sched_getaffinity(0)), platform.machine()
    print(table.to_string(index=False))
    RESULTS.mkdir(exist_ok=True)
    what = "evals-models" if args.models else "evals"
    table.to_csv(RESULTS / f"{what}-{platform.machine()}.csv", index=False)


def compared(args: argparse.Namespace, place: Path) -> list[dict[str, Any]]:
    """A row for each tool on each task and kind of model."""
    apart(prepare, args, place)
    native = [str(p) for p in args.models] or sorted(map(str, place.glob("native-*")))
    rows = []
    for models, folders in (("native", native), ("transformers", [str(place / "llama")])):
        for task in ("mmlu", "domains"):
            tools: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
                "ours": (ours, (task,)),
                "lm-eval on ours": (harness, (task, 0)),
                **{f"lm-eval, batch {b}": (harness, (task, b)) for b in args.batch},
            }
            rows += raced(tools, folders, place, args.rounds, f"{task}, {models}")
    return rows


@dataclass(frozen=True)
class Difference:
    """The largest between two tools' figures."""

    apart: float
    of_allowed: float
    """Of the largest that the tolerance allows."""


NONE = Difference(0.0, 0.0)


def differences(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Difference:
    """Of all models and items."""
    gap = NONE
    for a, b in zip(ours, theirs, strict=True):
        size = np.abs(np.asarray(b))
        off = np.abs(np.asarray(a) - np.asarray(b))
        allowed = np.maximum(TOLERANCE, RELATIVE * size)
        gap = Difference(
            max(gap.apart, float(off.max())), max(gap.of_allowed, float((off / allowed).max()))
        )
    return gap


def raced(
    tools: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]],
    folders: Sequence[str],
    place: Path,
    rounds: int,
    what: str,
) -> list[dict[str, Any]]:
    """Median seconds of tools that take turns, and how far their figures are from ours.

    Raises:
        SystemExit: accuracies differ, or log-probabilities by more than the tolerance.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    figures: dict[str, dict[str, list[list[float]]]] = {}
    for _ in range(rounds):
        for name, (work, more) in tools.items():
            spent, figures[name] = apart(work, place, folders, *more)
            seconds[name].append(spent)
    medians = {name: statistics.median(spent) for name, spent in seconds.items()}
    rows = []
    for name, median in medians.items():
        gaps = {kind: differences(figures["ours"][kind], of) for kind, of in figures[name].items()}
        padded = name.startswith("lm-eval, batch") and not name.endswith(" 1")
        allowed = 1.0 if not padded else math.inf
        if gaps.get("accuracy", NONE).apart or gaps["logprob"].of_allowed > allowed:
            raise SystemExit(f"{what}: {name} finds something else than ours: {gaps}")
        rows.append(
            {
                "what": what,
                "models": len(folders),
                "items": len(figures[name]["logprob"][0]),
                "tool": name,
                "seconds": round(median, 2),
                "of_ours": round(median / medians["ours"], 2),
                "largest_difference": f"{gaps['logprob'].apart:.1e}",
                "of_allowed": round(gaps["logprob"].of_allowed, 2),
            }
        )
        print(rows[-1], flush=True)
    best = min(m for name, m in medians.items() if name.startswith("lm-eval, "))
    if len(folders) > 1:
        word = "reached" if best / medians["ours"] >= BAR else "MISSED"
        print(f"{what}: {best / medians['ours']:.1f} times, the bar of {BAR:g} is {word}")
    return rows


def whole(args: argparse.Namespace, place: Path) -> list[dict[str, Any]]:
    """All of MMLU on 1M proxies of the default context, by both cores."""
    rows = []
    for members in (1, args.members):
        spent, asked = apart(everything, args.data, place, members, threads=2)
        rows.append(
            {
                "what": "all of mmlu, 1m, context 256", "models": members, "items": asked,
                "tool": "ours, 2 threads", "seconds": round(spent, 1),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def apart(work: Callable[..., Any], *arguments: Any, threads: int = 1) -> Any:
    """Some work in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1, _alone, (threads,)) as pool:
        return pool.apply(work, arguments)


def _alone(threads: int) -> None:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    os.environ |= {**dict.fromkeys(names, str(threads)), "HF_HUB_OFFLINE": "1"}
    import torch

    torch.set_num_threads(threads)


def prepare(args: argparse.Namespace, place: Path) -> None:
    """A tokenizer, models, and the questions and documents that fit their context."""
    import torch

    from proxy_trainer.data import tokenizer as tokenizers
    from proxy_trainer.data.sources import json_lines
    from proxy_trainer.models import hf
    from proxy_trainer.models.array import ModelArray
    from proxy_trainer.models.losses import without_weights
    from regmix.config import ModelConfig
    from regmix.sizes import shape

    def texts(split: str, domain: str) -> list[str]:
        path = args.data / "corpus" / split / f"{domain}.jsonl.zst"
        return [str(row["text"]) for _, row in json_lines(path) if isinstance(row, dict)]

    path = place / "tokenizer.json"
    if args.models:
        path.write_bytes((args.models[0] / "tokenizer.json").read_bytes())
    else:
        taught = (text for domain in args.domains for text in texts("train", domain)[:400])
        tokenizers.save(tokenizers.train_bpe(taught, VOCABULARY), path)
        own = shape(ModelConfig(size=args.size, context=args.context))
        array = ModelArray.initialised(own, VOCABULARY, range(args.members))
        for member in range(args.members):
            state = {n: w * (FACTOR if w.dim() > 1 else 1) for n, w in array.member(member).items()}
            hf.save(state, own, place / f"native-{member}", path, 0)
    tokenizer = tokenizers.load(path)
    native = shape(ModelConfig(size=args.llama, context=args.context))
    # Of another epsilon than ours it is a Llama that transformers' own modules compute.
    llama = replace(hf.described(native), norm_eps=1e-6)
    decoder = without_weights(llama, tokenizers.vocab_size(tokenizer))
    for number, unit in enumerate(decoder.units):
        decoder.fill_(unit, torch.Generator().manual_seed(number))
    decoder.complete_()
    state = {n: w * (FACTOR if w.dim() > 1 else 1) for n, w in decoder.state_dict().items()}
    hf.save(state, llama, place / "llama", path, tokenizers.end_of_document(tokenizer, path))
    _questions(args, place)
    for domain in args.domains:
        encoded = [(t, len(tokenizer.encode(t).ids)) for t in texts("valid", domain)]
        kept = [t for t, size in encoded if 0 < size < args.context][: args.documents]
        _write(place / f"{domain}.jsonl", [{"text": text} for text in kept])
    _tasks(place, args.shots, args.domains)


def _questions(args: argparse.Namespace, place: Path) -> None:
    """Questions that fit with all their shots, of all subjects alike, and those shots."""
    from proxy_trainer.data import tokenizer as tokenizers
    from proxy_trainer.data.sources import json_lines
    from proxy_trainer.evals import kept_tasks, prompts
    from proxy_trainer.evals.multiple_choice import MultipleChoice

    data = args.data.resolve() / "eval"
    test, dev = (str(data / f"mmlu_{split}.jsonl.zst") for split in ("test", "dev"))
    (place / "all.yaml").write_text(_task(test, dev, args.shots))
    [task] = kept_tasks.read(["all.yaml"], folder=place, data=None, where="DATA")
    assert isinstance(task, MultipleChoice)
    asked = prompts.encode(task, tokenizers.load(place / "tokenizer.json"), args.context)
    fitting = [p.index for p in asked.all if p.shots == args.shots and not p.cut]
    rows = [row for _, row in json_lines(args.data / "eval" / "mmlu_test.jsonl.zst")]
    by_subject: dict[str, list[Any]] = {}
    for index in fitting:
        by_subject.setdefault(task.questions[index].subject, []).append(rows[index])
    each = max(2, args.questions // len(by_subject))
    kept = {subject: own[:each] for subject, own in by_subject.items() if len(own) >= 2}
    print(f"{len(fitting):,} of {len(rows):,} questions fit; {sum(map(len, kept.values()))} are "
          f"asked, of {len(kept)} subjects", flush=True)  # fmt: skip
    _write(place / "test.jsonl", [row for own in kept.values() for row in own])
    dev = [row for _, row in json_lines(args.data / "eval" / "mmlu_dev.jsonl.zst")]
    _write(place / "dev.jsonl", dev)
    (place / "subjects.json").write_text(json.dumps(sorted(kept)))


def _task(test: str, dev: str, shots: int) -> str:
    shown = TASK.replace("TEST", test).replace("DEV", dev).replace("SHOTS", str(shots))
    return shown if shots else shown.replace(f"    shot_files: [{dev}]\n", "")


def _tasks(place: Path, shots: int, domains: Sequence[str]) -> None:
    from proxy_trainer.evals.harness import SHIPPED

    (place / "mmlu.yaml").write_text(_task("test.jsonl", "dev.jsonl", shots))
    sources = "".join(f"      {domain}: [{domain}.jsonl]\n" for domain in domains)
    head = "tasks:\n  - kind: texts\n    name: domains\n    sources:\n"
    (place / "domains.yaml").write_text(head + sources)
    include = place / "include"
    include.mkdir()
    for path in SHIPPED.glob("*.py"):
        (include / path.name).write_bytes(path.read_bytes())
    head, _, members = (SHIPPED / "mmlu_rc.yaml").read_text().partition("\ntask:\n")
    subjects = json.loads((place / "subjects.json").read_text())
    kept = [m for m in members.splitlines() if m.split("task: ")[1].split(",")[0] in subjects]
    head = head.replace("mmlu_test.jsonl.zst", "test.jsonl").replace(
        "group: mmlu_rc", "group: mmlu"
    )
    head = head.replace("mmlu_dev.jsonl.zst", "dev.jsonl")
    head = head.replace("num_fewshot: 5", f"num_fewshot: {shots}")
    (include / "mmlu.yaml").write_text(head + "\ntask:\n" + "\n".join(kept) + "\n")
    text = (SHIPPED / "domain_bpb.yaml").read_text()
    for domain in domains:
        own = text.replace("task: domain_bpb", f"task: domains_{domain}")
        own = own.replace("valid.jsonl", f"{domain}.jsonl")
        (include / f"{domain}.yaml").write_text(own)
    (include / "domains.yaml").write_text(
        "group: domains\naggregate_metric_list: [{metric: bpb, weight_by_size: false}]\n"
        "task: [" + ", ".join(f"domains_{domain}" for domain in domains) + "]\n"
    )


def _write(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def ours(place: Path, folders: Sequence[str], task: str) -> tuple[float, dict[str, Any]]:
    """From files to figures by our own tasks, all models together."""
    from proxy_trainer.data import tokenizer as tokenizers
    from proxy_trainer.evals import kept_tasks, models
    from proxy_trainer.models.folder import load_folder

    began = time.perf_counter()
    [asked] = kept_tasks.read([f"{task}.yaml"], folder=place, data=None, where="here")
    tokenizer = tokenizers.load(place / "tokenizer.json")
    loaded = models.load([load_folder(Path(f))[1] for f in folders], tokenizer)
    found = asked.ask(loaded)
    spent = time.perf_counter() - began
    figures: dict[str, Any] = {"logprob": [], "accuracy": []}
    for result in found:
        if isinstance(result, Exception):
            raise result
        table = result.items
        if task == "mmlu":
            table = table.sort_values("subject", kind="stable")
            figures["logprob"].append(table["logprob"].tolist())
            names = ("mmlu/acc", "mmlu/acc_norm")
            figures["accuracy"].append([result.metrics[name] for name in names])
        else:
            table = table.sort_values("source", kind="stable")
            figures["logprob"].append((-table["nats"] / table["tokens"]).tolist())
    return spent, figures if task == "mmlu" else {"logprob": figures["logprob"]}


def harness(
    place: Path, folders: Sequence[str], task: str, batch: int
) -> tuple[float, dict[str, Any]]:
    """From files to figures by lm-evaluation-harness: on our models, or by its own, one by one.

    Args:
        batch: of its own; 0 for ours.
    """
    from proxy_trainer.data import tokenizer as tokenizers
    from proxy_trainer.evals import models
    from proxy_trainer.evals.harness import Harness
    from proxy_trainer.evals.harness_lm import MemberLM, Together
    from proxy_trainer.models.folder import load_folder
    from regmix.tasks import HarnessTask

    began = time.perf_counter()
    described = HarnessTask(kind="lm-eval", name=task, include="include", data=".")
    asked = Harness.read(described, place)
    tokenizer = tokenizers.load(place / "tokenizer.json")
    if batch:
        from lm_eval.models.huggingface import HFLM

        lms: list[Any] = [
            HFLM(pretrained=f, dtype="float32", batch_size=batch, device="cpu") for f in folders
        ]
    else:
        loaded = models.load([load_folder(Path(f))[1] for f in folders], tokenizer)
        together = Together(loaded, None)
        lms = [MemberLM(together, k) for k in range(len(folders))]
    found = [asked._loaded.evaluated(lm) for lm in lms]
    spent = time.perf_counter() - began
    return spent, _harness_figures(found, task, tokenizer)


def _harness_figures(found: Sequence[Any], task: str, tokenizer: Any) -> dict[str, Any]:
    logprob, accuracy = [], []
    for one in found:
        rows = [row for _, own in sorted(one["samples"].items()) for row in own]
        if task == "mmlu":
            logprob.append([[said[0] for [said] in row["resps"]] for row in rows])
            names = ("acc,none", "acc_norm,none")
            accuracy.append([one["results"]["mmlu"][name] for name in names])
        else:
            sizes = [len(tokenizer.encode(row["doc"]["text"]).ids) for row in rows]
            said = [row["resps"][0][0] for row in rows]
            logprob.append([s / size for s, size in zip(said, sizes, strict=True)])
    return {"logprob": logprob, "accuracy": accuracy} if task == "mmlu" else {"logprob": logprob}


def everything(data: Path, place: Path, members: int) -> tuple[float, int]:
    """All of MMLU; seconds from files to figures, and questions."""
    from proxy_trainer.data import tokenizer as tokenizers
    from proxy_trainer.evals import kept_tasks
    from proxy_trainer.evals.models import Models
    from proxy_trainer.models.array import ModelArray
    from regmix.config import ModelConfig
    from regmix.sizes import shape

    began = time.perf_counter()
    [task] = kept_tasks.read(["mmlu"], folder=Path(), data=data / "eval", where="DATA")
    tokenizer = tokenizers.load(place / "tokenizer.json")
    words = tokenizers.vocab_size(tokenizer)
    array = ModelArray.initialised(shape(ModelConfig(size="1m")), words, range(members))
    found = task.ask(Models.of_array(array, tokenizer, 0))
    spent = time.perf_counter() - began
    first = found[0]
    if isinstance(first, Exception):
        raise first
    return spent, first.counts["asked"]


if __name__ == "__main__":
    main()
