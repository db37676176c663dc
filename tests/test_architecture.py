"""The shape of the code: which module may import which, and what an import may load."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "lightgbm", "sklearn")

LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "regmix",
        "regmix.claims",
        "regmix.errors",
        "regmix.floats",
        "regmix.hashing",
        "regmix.layout",
        "regmix.markup",
        "regmix.pages",
        "regmix.plain",
        "regmix.quantities",
    ),
    ("regmix.files", "regmix.keys", "regmix.yaml_io"),
    ("regmix.strict",),
    ("regmix.config", "regmix.direction", "regmix.mixture"),
    (
        "regmix.agreement",
        "regmix.chat",
        "regmix.imports",
        "regmix.link",
        "regmix.manifest",
        "regmix.objective",
        "regmix.observations",
        "regmix.regressors",
        "regmix.places",
        "regmix.polytope",
        "regmix.rescaling",
        "regmix.sizes",
        "regmix.tasks",
    ),
    ("regmix.families", "regmix.noise", "regmix.paired", "regmix.recipe", "regmix.space"),
    (
        "regmix.design",
        "regmix.folder",
        "regmix.foreign",
        "regmix.runs",
        "regmix.surrogate",
        "regmix.transfer",
    ),
    ("regmix.arrays", "regmix.fit", "regmix.outline"),
    ("regmix.records",),
    ("regmix.runlog",),
    ("regmix.assess", "regmix.cost", "regmix.estimate", "regmix.solve", "regmix.acquire"),
    ("regmix.decision", "regmix.results", "regmix.status", "regmix.store"),
    ("regmix.doctor", "regmix.watch"),
    ("regmix.comparison", "regmix.diagnose", "regmix.differences", "regmix.flags", "regmix.pareto"),
    ("regmix.planning",),
    ("regmix.sound",),
    ("regmix.choosing",),
    ("regmix.plot",),
    ("regmix.study",),
    ("regmix.intake",),
    ("regmix.demo", "regmix.export", "regmix.report", "regmix.template"),
    ("regmix.testing",),
    ("regmix.console",),
    ("regmix.cli",),
)
"""From the bottom up; a module imports only what stands below it, or its own package."""


def modules(package: str) -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


REGMIX = modules("regmix")


def imported(nodes: list[ast.stmt], known: dict[str, Path]) -> set[str]:
    """Full names of what some statements import; `from a import b` is `a.b` if that is a module."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where things live"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {f if f in known else str(node.module) for f in full}
    return names


def at_module_level(tree: ast.Module) -> list[ast.stmt]:
    """Statements that run at import: everything but function bodies and type-checking blocks."""
    found: list[ast.stmt] = []
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        found.append(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return found


def module_level_imports(name: str) -> set[str]:
    return imported(at_module_level(ast.parse(REGMIX[name].read_text("utf-8"))), REGMIX)


def all_imports(name: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(REGMIX[name].read_text("utf-8"))))
    return imported([n for n in nodes if isinstance(n, ast.stmt)], REGMIX)


def layer(name: str) -> int:
    """The layer of a module, or of the package that it belongs to."""
    while name:
        for index, names in enumerate(LAYERS):
            if name in names and (name != "regmix" or "." not in name):
                return index
        name = name.rpartition(".")[0]
        if name == "regmix":
            break
    raise AssertionError("a new module: say in LAYERS where it stands")


def family(name: str) -> str:
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize("name", sorted(set(REGMIX) - {"regmix"}))
def test_a_module_imports_only_what_stands_below_it(name: str) -> None:
    own = layer(name)
    for other in all_imports(name) & set(REGMIX):
        assert family(other) == family(name) or layer(other) < own, f"{name} imports {other}"


def test_no_cycle_among_module_level_imports() -> None:
    graph = {name: module_level_imports(name) & set(REGMIX) - {name} for name in REGMIX}
    assert len(list(TopologicalSorter(graph).static_order())) == len(REGMIX)


def trainer(names: set[str]) -> set[str]:
    return {n for n in names if n.split(".")[0] == "proxy_trainer"}


def test_only_bodies_of_commands_and_of_launcher_checks_import_the_trainer() -> None:
    importers = {name for name in REGMIX if trainer(all_imports(name))}
    commands = {name for name in importers if family(name) == "regmix.cli"}
    assert commands
    assert importers - commands == {"regmix.testing.launchers"}
    for name in importers:
        assert not trainer(module_level_imports(name))


def loaded_by(code: str, among: tuple[str, ...] = HEAVY) -> list[str]:
    """Which heavy packages are loaded after some code has run in a process of its own."""
    ask = f"{code}\nimport json, sys\nprint(json.dumps([m for m in {among!r} if m in sys.modules]))"
    found = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded: list[str] = json.loads(found.stdout.splitlines()[-1])
    return loaded


def test_import_regmix_loads_nothing_heavy() -> None:
    assert loaded_by("import regmix") == []


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['regmix', '--help']\n"
        "try:\n    runpy.run_module('regmix.cli', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code\n"
    )
    assert loaded_by(code) == []


@pytest.mark.parametrize("name", ["regmix.study", "regmix.store", "regmix.console"])
def test_study_api_loads_no_torch(name: str) -> None:
    assert not {"torch", "transformers"} & set(loaded_by(f"import {name}"))


@pytest.mark.parametrize("name", ["proxy_trainer.worker", "proxy_trainer.steps"])
def test_workers_and_commands_start_quickly(name: str) -> None:
    """What takes seconds to load, and only some need, waits until it is needed."""
    slow = ("torch.distributed.fsdp", "torch._dynamo", "transformers", "scipy.stats", "lightgbm")
    assert loaded_by(f"import {name}", slow) == []


def test_whoever_starts_workers_loads_no_torch() -> None:
    """On a login node it would take half a minute, and nothing is computed there."""
    code = (
        "import proxy_trainer.steps\n"
        "from proxy_trainer.launch import devices\n"
        "devices._driver = lambda: False\n"
        "devices.visible()"
    )
    assert loaded_by(code) == []


TRAINER = modules("proxy_trainer")
TYPES = {
    "regmix", "regmix.arrays", "regmix.chat", "regmix.claims", "regmix.config", "regmix.direction",
    "regmix.doctor", "regmix.errors", "regmix.families", "regmix.files", "regmix.hashing",
    "regmix.keys",
    "regmix.layout", "regmix.manifest", "regmix.mixture", "regmix.pages",
    "regmix.paired", "regmix.places",
    "regmix.quantities",
    "regmix.recipe", "regmix.records", "regmix.runs", "regmix.sizes", "regmix.strict",
    "regmix.tasks", "regmix.yaml_io",
}  # fmt: skip
ENTRANCES = {
    "proxy_trainer.stages.execute", "proxy_trainer.stages.plan", "proxy_trainer.stages.written",
    "proxy_trainer.steps",
}  # fmt: skip
"""Where a command enters the trainer, with a study in its hand."""


@pytest.mark.parametrize("name", sorted(TRAINER))
def test_the_trainer_knows_types_and_files_of_regmix_alone(name: str) -> None:
    nodes = list(ast.walk(ast.parse(TRAINER[name].read_text("utf-8"))))
    found = imported([n for n in nodes if isinstance(n, ast.stmt)], REGMIX)
    ours = {other for other in found if family(other).startswith("regmix")}
    assert ours <= TYPES | ({"regmix.study", "regmix.estimate"} if name in ENTRANCES else set())
