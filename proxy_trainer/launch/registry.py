"""The names of launchers and where they live; plug-ins register the entry point group below."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from proxy_trainer.launch.base import Launcher
from regmix.errors import UserError, unknown_name

GROUP = "regmix.launchers"
"""Entry point group: ``name = "package.module:Class"``."""

BUILT_IN = {
    "local": "proxy_trainer.launch.local:LocalLauncher",
    "slurm": "proxy_trainer.launch.slurm:Slurm",
    "ray": "proxy_trainer.launch.ray:Ray",
}


def names() -> tuple[str, ...]:
    """Every launcher that can be asked for by name, plug-ins last."""
    return (*BUILT_IN, *(e.name for e in entry_points(group=GROUP) if e.name not in BUILT_IN))


def launcher(name: str, settings: Any = None, where: str = "launch.launcher") -> Launcher:
    """A launcher by name.

    Args:
        settings: the study's section of that name under ``launch:``, if it has one.
        where: the name stands, for the message.

    Raises:
        UserError: there is none of that name, or its plug-in cannot be loaded.
    """
    kind = _class(name, where)
    made: Launcher = kind() if settings is None else kind(settings)
    return made


def _class(name: str, where: str) -> Any:
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)
    matching = [e for e in entry_points(group=GROUP) if e.name == name]
    if not matching:
        raise unknown_name("launcher", name, names(), where)
    try:
        return matching[0].load()
    except (ImportError, AttributeError) as exc:
        raise UserError(
            f"{where}: launcher '{name}' cannot be loaded ({matching[0].value}: {exc})"
        ) from exc
