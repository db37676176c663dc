"""The pages: links lead somewhere, commands parse, files that they show are what they say."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import typer.main
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from regmix import cost, strict
from regmix.chat import ChatData
from regmix.cli import app, main
from regmix.config import StudyConfig, load_study
from regmix.mixture import MixtureFile
from regmix.places import load_places
from regmix.recipe import RecipeConfig
from regmix.tasks import TasksFile

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
COMMANDS: Any = typer.main.get_command(app.app)
UNFINISHED = {"MissingParameter", "BadOptionUsage"}
"""What is said of `regmix propose -n`, which names an option and leaves out the rest."""
BETWEEN = {"|", "&&", "||", ";"}
FRAGMENT = (
    "\nname: shown\ndomains: [{name: web, train: web.jsonl}, {name: code, train: code.jsonl}]\n"
)


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    page: Path
    line: int
    language: str
    file: str
    """Under which name a reader saves it, where the page says so."""
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


@cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8"))


def blocks(page: Path, *languages: str) -> list[Block]:
    found = []
    for token in tokens(page):
        if token.type in ("fence", "code_block"):
            words = [*token.info.split(), "", ""]
            line = token.map[0] + 1 if token.map else 0
            found.append(Block(page, line, words[0], words[1], token.content))
    return [b for b in found if not languages or b.language in languages]


def all_blocks(*languages: str) -> list[Block]:
    return [b for page in PAGES for b in blocks(page, *languages)]


def inline(page: Path, kind: str) -> Iterator[Token]:
    for token in tokens(page):
        yield from (child for child in token.children or () if child.type == kind)


# Links


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@cache
def anchors(page: Path) -> set[str]:
    found: list[str] = []
    for opening, content in zip(tokens(page), tokens(page)[1:], strict=False):
        if opening.type == "heading_open":
            own = slug("".join(c.content for c in content.children or ()))
            found.append(f"{own}-{found.count(own)}" if own in found else own)
    return set(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in inline(page, "link_open"):
        target, _, anchor = str(link.attrs["href"]).partition("#")
        if "://" in target:
            assert target.startswith("https://"), target
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(file), f"{target}#{anchor}: it has {sorted(anchors(file))}"


def test_every_page_stands_in_the_table_of_contents() -> None:
    listed = "\n".join(b.text for b in blocks(ROOT / "docs" / "index.md", "{toctree}")).split()
    assert sorted(w for w in listed if w.isupper()) == sorted(
        p.stem for p in PAGES if p.stem not in ("README", "index")
    )


def test_what_the_code_says_of_pages_is_there() -> None:
    """Addresses that messages are given, and pages that are named in texts."""
    calls, named = 0, set[str]()
    for path in [*(ROOT / "regmix").rglob("*.py"), *(ROOT / "proxy_trainer").rglob("*.py")]:
        source = path.read_text("utf-8")
        named |= set(re.findall(r"docs/(\w+)\.md", source))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "page":
                name, *section = [str(ast.literal_eval(a)) for a in node.args]
                assert set(section) <= anchors(ROOT / "docs" / f"{name}.md"), (path, section)
                calls += 1
    assert calls >= 5
    assert named <= {p.stem for p in PAGES}


# Commands


def command_lines(text: str) -> list[str]:
    """What is typed: after a prompt, or the lines of a block without one."""
    joined = text.replace("\\\n", " ").splitlines()
    typed = [line.strip() for line in joined]
    return [t.removeprefix("$ ") for t in typed if t.startswith(("$ ", "regmix "))]


def calls(line: str) -> Iterator[list[str]]:
    """The words after each `regmix` of a line of shell, without the marks of placeholders."""
    words = [*shlex.split(line.replace(";", " ; "), comments=True), "|"]
    while "regmix" in words:
        words = words[words.index("regmix") + 1 :]
        end = next(i for i, word in enumerate(words) if word in BETWEEN or word == ">")
        given = [word.strip("[]…") for word in words[:end]]
        options = [False, *(word.startswith("-") for word in given)]
        yield [w or "some" for w, value in zip(given, options, strict=False) if w or value]


def mistake(words: list[str], *, whole: bool) -> str:
    """What the command line does not understand in a call, of which nothing is done; or nothing.

    Args:
        whole: whether an argument that is missing is a mistake.
    """
    group, name = COMMANDS, "regmix"
    while words and hasattr(group, "commands") and not words[0].startswith("-"):
        if words[0] not in group.commands:
            return f"no command {words[0]!r} in {name}"
        name, group = f"{name} {words[0]}", group.commands[words[0]]
        words = words[1:]
    if hasattr(group, "commands"):
        context = typer.Context(group, **group.context_settings)
        known = {option for p in group.get_params(context) for option in p.opts}
        return "" if set(words) <= known else f"{name}: {words}, and it has {sorted(known)}"
    try:
        left = group.make_context(name, list(words)).args
    except typer.TyperException as exc:
        left = [str(exc)] if whole or type(exc).__name__ not in UNFINISHED else []
    return f"{name} {words}: {left}" if left else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_that_is_shown_parses(page: Path) -> None:
    lines = [
        line for block in blocks(page, "console", "bash", "") for line in command_lines(block.text)
    ]
    found = [mistake(words, whole=True) for line in lines for words in calls(line)]
    assert [text for text in found if text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_that_is_mentioned_exists(page: Path) -> None:
    shown = [code.content for code in inline(page, "code_inline")]
    named = [text for text in shown if text.startswith("regmix ") and "COMMAND" not in text]
    found = [mistake(words, whole=False) for text in named for words in calls(text)]
    assert [text for text in found if text] == []


def test_there_are_commands_to_check_and_wrong_ones_are_found() -> None:
    shown = [line for b in all_blocks("console") for line in command_lines(b.text)]
    assert sum(len(list(calls(line))) for line in shown) > 60
    assert list(calls("until regmix status S --json | jq; do x; done; regmix fit S")) == [
        ["status", "S", "--json"], ["fit", "S"]
    ]  # fmt: skip
    for wrong in (["fitt", "S"], ["fit", "S", "--wrong"], ["fit"], ["propose", "S", "-n", "x"]):
        assert mistake(wrong, whole=True)


# Files that are shown


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=str)
def test_yaml_is_what_it_says(block: Block, tmp_path: Path) -> None:
    """A study, a part of one, a recipe, tasks, a mixture, paths or conversations."""
    path = tmp_path / "shown.yaml"
    path.write_text(block.text)
    shown = yaml.safe_load(block.text)
    keys = set(shown)
    if shown.get("kind") == "paths":
        assert load_places(path).domains
    elif shown.get("kind") == "mixture":
        assert MixtureFile.load(path).mixture
    elif keys == {"tasks"}:
        assert strict.load(path, TasksFile).tasks
    elif "stages" in keys:
        assert strict.load(path, RecipeConfig).stages
    elif keys <= set(ChatData.model_fields):
        assert strict.load(path, ChatData).sources
    elif {"name", "domains"} <= keys:
        assert load_study(path).domains
    else:
        assert keys <= set(StudyConfig.model_fields), f"what is {sorted(keys)}?"
        path.write_text(block.text + FRAGMENT)
        assert strict.load(path, StudyConfig).domains


@pytest.mark.parametrize("block", all_blocks("python"), ids=str)
def test_python_compiles(block: Block) -> None:
    assert compile(block.text, str(block), "exec").co_code


@pytest.mark.parametrize("block", all_blocks("toml"), ids=str)
def test_toml_is_toml(block: Block) -> None:
    assert tomllib.loads(block.text)


def test_plug_ins_that_are_shown_pass_their_suites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    shown = [b for b in blocks(ROOT / "docs" / "EXTENDING.md", "python") if b.file]
    for block in shown:
        (tmp_path / block.file).write_text(block.text)
    monkeypatch.syspath_prepend(str(tmp_path))
    tests = [b.file for b in shown if "/test_" in b.file]
    assert len(tests) == 2
    for file in tests:
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        (function,) = [f for name, f in vars(module).items() if name.startswith("test_")]
        (mark,) = function.pytestmark
        for one in mark.args[1]:
            function(one)


def test_the_dearest_swarm_costs_what_the_page_says() -> None:
    flops = cost.REGMIX_MODEL.flops_per_token(cost.REGMIX_VOCABULARY)
    total = cost.REGMIX_RUNS * cost.REGMIX_TOKENS * flops
    assert f"| {total:.1e} |".replace("+", "") in (ROOT / "docs" / "COSTS.md").read_text("utf-8")


# The reference


@cache
def generated() -> ModuleType:
    path = ROOT / "docs" / "generated.py"
    spec = importlib.util.spec_from_file_location("generated", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_command_and_every_key() -> None:
    text = generated().cli()
    for name, command in generated().commands():
        assert f"## `regmix {name}`" in text
        for parameter in command.params:
            assert all(f"`{option}`" in text for option in parameter.opts if option[0] == "-")
    for model, part in ((StudyConfig, "config"), (RecipeConfig, "recipe"), (TasksFile, "tasks")):
        schema = model.model_json_schema()
        found = generated().PARTS[part]() + generated().PARTS["config"]()
        for about in (schema, *schema["$defs"].values()):
            assert all(f"| `{key}` |" in found for key in about["properties"])


def test_pages_ask_for_all_that_is_generated() -> None:
    asked = {m for p in PAGES for m in re.findall(r"<!-- generated: (\w+) -->", p.read_text())}
    assert asked == set(generated().PARTS)


# The tutorial


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(ROOT / "docs" / "TUTORIAL.md"):
        if block.file:
            Path(block.file).write_text(block.text)
            continue
        for line in command_lines(block.text):
            program, *words = shlex.split(line)
            if program == "python":
                subprocess.run([sys.executable, *words], check=True)
                continue
            monkeypatch.setattr(sys, "argv", [program, *words])
            with pytest.raises(SystemExit) as end:
                main()
            assert not end.value.code, line
    weights = MixtureFile.load(Path("mystudy/mixes/best.yaml")).mixture.as_dict()
    assert weights["code"] >= 0.2 - 1e-6
    assert sum(weights.values()) == pytest.approx(1)
    assert Path("mystudy/report/index.html").stat().st_size > 100_000
    assert Path("mystudy/recipes/first/model/config.json").is_file()
    assert "MIXTURE" in Path("mixture.py").read_text()
