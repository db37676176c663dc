"""Turn the docstrings of Python source into reference pages, from the syntax tree alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from proxy_trainer.corpus.base import Work
from proxy_trainer.corpus.files import PROSE_BOUNDARIES, cut

MIN_PAGE_CHARACTERS = 240

_Function = ast.FunctionDef | ast.AsyncFunctionDef
# numpy and scipy attach the docstrings of compiled functions with calls of this name.
_ATTACHING_CALLS = frozenset({"add_newdoc", "add_docstr"})


def pages(work: Work, path: Path) -> Iterator[str]:
    """Yield one reference page for each documented public object of a Python file."""
    tree = work.parse(path)
    if tree is None:
        return
    module = public_module_name(path, work.shard.root)
    for page in (*_module_page(tree, module), *_object_pages(tree, module), *_attached(tree)):
        if len(page) >= MIN_PAGE_CHARACTERS:
            yield from cut(page, PROSE_BOUNDARIES)


def public_module_name(path: Path, root: Path | None) -> str:
    """Return the dotted name a reader would import from: private parts of the path are left out.

    `scipy/stats/_stats_py.py` gives `scipy.stats`.
    """
    parts = path.with_suffix("").parts
    if root is not None and root in path.parents:
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
    return ".".join(part for part in parts if not part.startswith("_"))


def _module_page(tree: ast.Module, module: str) -> Iterator[str]:
    doc = ast.get_docstring(tree)
    if doc:
        yield f"Module {module}\n\n{doc}"


def _object_pages(tree: ast.Module, module: str) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, _Function) and not node.name.startswith("_"):
            doc = ast.get_docstring(node)
            if doc:
                yield f"{module}.{node.name}({_signature(node)})\n\n{doc}"
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield _class_page(node, module)


def _class_page(node: ast.ClassDef, module: str) -> str:
    parts = [f"class {module}.{node.name}"]
    doc = ast.get_docstring(node)
    if doc:
        parts.append(doc)
    for member in node.body:
        if isinstance(member, _Function) and not member.name.startswith("_"):
            member_doc = ast.get_docstring(member)
            if member_doc:
                parts.append(f"{node.name}.{member.name}({_signature(member)})\n{member_doc}")
    return "\n\n".join(parts) if len(parts) > 1 else ""


def _attached(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        call = node.value if isinstance(node, ast.Expr) else None
        if not isinstance(call, ast.Call) or _called_name(call) not in _ATTACHING_CALLS:
            continue
        strings = [
            arg.value
            for arg in call.args
            if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
        ]
        if len(strings) >= 2:
            yield f"{'.'.join(strings[:-1])}\n\n{strings[-1].strip()}"


def _called_name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def _signature(node: _Function) -> str:
    return ast.unparse(node.args)
