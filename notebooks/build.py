"""Executes the notebooks and writes them as HTML: ``python -m notebooks.build [NAME…]``.

A notebook is a percent-format script (jupytext), paired with an ``.ipynb`` that holds the outputs.
The study that they read is named by ``REGMIX_STUDY`` (default: ``demo``, which ``make demo``
leaves); RegMix's published tables, which the third reads, by ``REGMIX_DATA``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SECONDS = 1_200
"""That one cell may take."""
SWARM = "train_mixture_1m.csv"
"""Of RegMix's tables, by which their folder is known."""


def names() -> list[str]:
    """Every notebook, in the order of reading."""
    return sorted(path.stem for path in HERE.glob("[0-9]-*.py"))


def lacking(name: str, environment: Mapping[str, str]) -> str | None:
    """What a notebook needs and is not there; None where nothing is."""
    if name.startswith("3-"):
        data = HERE / environment.get("REGMIX_DATA", "regmix_swarm")
        found, told = data / SWARM, "REGMIX_DATA: the folder `data` of github.com/sail-sg/regmix"
    else:
        study = HERE / environment.get("REGMIX_STUDY", "../demo")
        found, told = study / "study.yaml", "a study: `make demo` makes one, REGMIX_STUDY names it"
    return None if found.is_file() else told


def read(name: str) -> Any:
    """A notebook from its script, without outputs; cells have their places as ids."""
    import jupytext

    notebook = jupytext.read(HERE / f"{name}.py")
    for place, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{place}"  # drawn at random otherwise, and another in every file
    return notebook


def execute(name: str) -> Any:
    """A notebook with its outputs, from a kernel of this Python in the folder of notebooks.

    Raises:
        CellExecutionError: a cell failed; with the cell and its traceback.
    """
    from nbclient import NotebookClient
    from traitlets.config import Config

    notebook = read(name)
    with tempfile.TemporaryDirectory(prefix="kernel-") as sockets:
        # Sockets of this user's files: no port that others on the machine could listen to.
        manager = {"transport": "ipc", "ip": str(Path(sockets) / "socket")}
        NotebookClient(
            notebook,
            config=Config(KernelManager=manager),
            kernel_name="python3",
            startup_timeout=SECONDS,
            timeout=SECONDS,
            resources={"metadata": {"path": str(HERE)}},
            record_timing=False,
        ).execute()
    return _shown(notebook)


def _shown(notebook: Any) -> Any:
    """Without the plain text of what is shown otherwise: it names folders of this machine."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if len(output.get("data", {})) > 1:
                output["data"].pop("text/plain", None)
    return notebook


def html(notebook: Any) -> str:
    """A page that needs nothing from elsewhere: no scripts, and no formulas that would need one."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="lab", mathjax_url="", require_js_url="")
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    page, _ = exporter.from_notebook_node(notebook)
    return str(page)


def write(name: str, folder: Path) -> None:
    """Execute a notebook; its ``.ipynb`` and ``.html`` into a folder."""
    import nbformat

    notebook = execute(name)
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    (folder / f"{name}.html").write_text(html(notebook), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("-o", "--output", type=Path, default=HERE.parent / "build" / "notebooks")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in names():
            parser.error(f"no notebook '{name}'; there are: {', '.join(names())}")
    skipped = 0
    for name in options.names or names():
        needed = lacking(name, os.environ)
        if needed is None:
            write(name, options.output)
            print(options.output / f"{name}.html", flush=True)
        else:
            skipped += 1
            print(f"{name}: skipped, needs {needed}", file=sys.stderr)
    if skipped and options.names:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
