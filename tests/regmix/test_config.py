"""study.yaml: whatever is wrong is refused with file, line, key, value and the valid choices."""

from __future__ import annotations

from pathlib import Path

import pytest

from regmix.config import (
    StudyConfig,
    check_name,
    load_study,
    name_from,
)
from regmix.errors import UserError

BASE = """\
name: s
domains:
  - name: web
    train: web.jsonl
  - name: code
    train:
      - path: code
        text_field: content
"""


def study(folder: Path, text: str) -> StudyConfig:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return load_study(path)


def test_a_whole_study(tmp_path: Path) -> None:
    config = study(
        tmp_path,
        BASE
        + """\
  - {name: books/old, train: [a.txt, {hub: x/y, hub_args: {name: en}}], tags: [old], group: b}
proxy: {model: {size: 100k}, train: {lr: 1e-3, tokens: 1000000}}
swarm: {runs: 7, concentration: [0.5, 4], replicates: 1, baselines: false}
space: {bounds: {web: [0, 0.5]}, groups: {g: {domains: [web, code], lower: 0.1}},
        max_epochs: 4, budget_tokens: 1000}
objective: {weights: {bpb/web: 1}, directions: {x: higher}}
""",
    )
    assert config.domain_names == ("web", "code", "books/old")
    assert config.domains[0].train[0].path == "web.jsonl"
    assert config.domains[1].train[0].text_field == "content"
    assert config.domains[2].train[1].hub == "x/y"
    assert config.proxy.train.lr == 1e-3
    assert config.swarm.concentration == (0.5, 4.0)
    assert config.space.groups["g"].domains == ("web", "code")
    assert config.objective.weights == {"bpb/web": 1.0}
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("sed: 1", r":9: sed: unknown key 'sed'; did you mean 'seed'\?"),
        ("launch: {stall_minutes: 1}",
         r":9: launch: stall_minutes: 1 \(60 seconds\) is shorter than claim_seconds: 120"),
        ("swarm:\n  runs: 3\n  replicatess: 2",
         r":11: swarm\.replicatess: unknown key 'replicatess'; did you mean 'replicates'\?"),
        ("proxy:\n  model: {d_modle: 3}",
         r":10: proxy\.model\.d_modle: unknown key 'd_modle'; did you mean 'd_model'"),
        ("proxy: {train: {learning_rate: 1}}", r":9: .*unknown key 'learning_rate'"),
        ("space:\n  groups:\n    g:\n      domain: [web]",
         r":12: space\.groups\.g\.domain: .*'domains'"),
        ("space:\n  bounds:\n    wbe: [0, 1]",
         r":10: space\.bounds: unknown domain 'wbe'; .*'web'.*code"),
        ("space:\n  groups:\n    g: {domains: [web, cod]}",
         r":11: space\.groups\.g\.domains: unknown domain 'cod'; did you mean 'code'"),
        ("seed: abc", r":9: seed: .*valid integer.*'abc'"),
        ("seed: 1.5", r":9: seed: .*valid integer.*1\.5"),
        ("seed: '1'", r":9: seed: .*valid integer.*'1'"),
        ("seed: true", r":9: seed: .*valid integer.*True"),
        ("seed: -1", r":9: seed: .*greater than or equal to 0.*-1"),
        ("swarm: {runs: 0}", r":9: swarm\.runs: .*greater than 0.*0"),
        ("swarm: {concentration: [3, 1]}", r":9: swarm: .*concentration"),
        ("swarm: [1]", r":9: swarm: Input should be a mapping \(found \[1\]\)"),
        ("proxy:\n  train:\n    schedule: cosin",
         r":11: proxy\.train\.schedule: unknown value 'cosin'; did you mean 'cosine'\? "
         r"Valid: constant, cosine, linear, wsd"),
        ("proxy: {train: {schedule: 5}}",
         r":9: proxy\.train\.schedule: unknown value '5'\. Valid: constant, cosine, linear, wsd"),
        ("proxy: {train: {lr: .inf}}", r":9: proxy\.train\.lr: .*finite"),
        ("proxy: {train: {lr: .nan}}", r":9: proxy\.train\.lr: "),
        ("space: {bounds: {web: [0.1]}}",
         r":9: space\.bounds\.web: List should have 2 items \(found \[0\.1\]\)"),
        ("space: {bounds: {web: []}}", r":9: space\.bounds\.web: List should have 2 items"),
        ("space: {bounds: {web: [0, 0.5, 1]}}",
         r":9: space\.bounds\.web: List should have at most 2 items, not 3"),
        ("space: {bounds: {web: 0.5}}",
         r":9: space\.bounds\.web: Input should be a list \(found 0\.5\)"),
        ("space: {bounds: [1]}", r":9: space\.bounds: Input should be a mapping \(found \[1\]"),
        ("launch: {members: 0}",
         r":9: launch\.members: Input should be 'auto' or greater than 0 \(found 0\)"),
        ("launch: {members: all}",
         r":9: launch\.members: Input should be 'auto' or a valid integer \(found 'all'\)"),
        ("launch: {slurm: {parameters: {x: [1]}}}",
         r":9: launch\.slurm\.parameters\.x: Input should be a valid string or a valid integer or "
         r"a valid boolean \(found \[1\]\)"),
        ("space: {bounds: {web: [0.1, 1.5]}}", r":9: space\.bounds\.web.*1\.5"),
        ("space: {bounds: {web: [0.8, 0.2]}}", r":9: space\.bounds\.web: .*0\.8.*0\.2"),
        ("space: {groups: {g: {domains: [web], lower: 0.8, upper: 0.2}}}",
         r":9: space\.groups\.g: .*0\.8.*0\.2"),
        ("space: {max_epochs: 4}", r":9: space: max_epochs needs budget_tokens"),
        ("objective: {weights: {x: 0}}", r":9: objective\.weights\.x: .*greater than 0"),
        ("objective: {directions: {x: down}}",
         r":9: objective\.directions\.x: unknown value 'down'.*higher, lower"),
        ("fit: {folds: 1}", r":9: fit\.folds: .*greater than or equal to 2"),
        ("seed: 1\nseed: 2", r":10: 'seed' is named twice \(first in line 9\)"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_place(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"(?s)study\.yaml{message}"):
        study(tmp_path, BASE + more + "\n")


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ("  - {name: web, train: a}\n  - {name: web, train: b}",
         r":4: domains\.1: domain 'web' is named twice"),
        ("  - {name: web, train: a}\n  - {name: code, train: {path: a, text_feild: x}}",
         r":4: .*unknown key 'text_feild'; did you mean 'text_field'"),
        ("  - {name: web, train: a}\n  - {name: code, text_feild: x}",
         r":4: .*unknown key 'text_feild'"),
        ("  - {name: web, train: {path: a, hub: b}}", r":3: .*give either 'path' or 'hub'"),
        ("  - {name: web, train: {}}", r":3: .*give either 'path' or 'hub'"),
        ("  - {name: web, train: 5}", r":3: domains\.0\.train"),
        ("  - {train: a}", r":3: domains\.0\.name: Field required"),
        ("  - {name: 'a b', train: a}", r":3: domains\.0\.name: a name has .*no spaces.*'a b'"),
        ("  - {name: ../up, train: a}", r":3: domains\.0\.name: a name has"),
        ("  - {name: 5, train: a}", r":3: domains\.0\.name: .*valid string.*5"),
        ("  []", r":2: domains: .*at least 1 item"),
        ("  web: a", r":2: domains: Input should be a list \(found {'web': 'a'}\)"),
    ],
)  # fmt: skip
def test_a_faulty_domain_is_named_with_its_place(
    tmp_path: Path, domains: str, message: str
) -> None:
    with pytest.raises(UserError, match=rf"study\.yaml{message}"):
        study(tmp_path, f"name: s\ndomains:\n{domains}\n")


def test_a_missing_name_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"study\.yaml: name: Field required"):
        study(tmp_path, "domains:\n  - {name: web, train: a}\n")


@pytest.mark.parametrize(
    ("folder", "name"),
    [("my demo", "my-demo"), (".hidden", "hidden"), ("...", "study"), ("a+b", "a-b")],
)
def test_a_folder_gives_a_valid_name(folder: str, name: str) -> None:
    assert name_from(Path("/x") / folder) == name
    check_name(name, "here")


def test_a_name_that_is_none_is_refused() -> None:
    for bad in ("", "a b", ".a", "/a", "a\\b", "x" * 201, "a\n"):
        with pytest.raises(UserError, match=r"(?s)here: domain .*: a name has"):
            check_name(bad, "here")
