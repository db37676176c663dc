"""The two kinds of failure a person can meet, and help for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RegmixError(Exception):
    """Something failed while doing what was asked; the command line exits with 1."""

    exit_code = 1


class UserError(RegmixError):
    """What was asked cannot be done as asked (a file, a key, a value); exits with 2."""

    exit_code = 2


class StudyFault(RegmixError):
    """Whichever run was tried would meet it: a full disk, say."""


class StudyRefused(StudyFault, UserError):
    """As :class:`StudyFault`, and for the person to mend: the data, or the version of the code."""


def unknown_name(kind: str, name: object, valid: Iterable[str], where: str = "") -> UserError:
    """An error for a name that is not among the valid ones, with the nearest of them.

    Args:
        kind: what the name stands for, e.g. ``"domain"``.
        name: the name that was given.
        valid: the names that would have been accepted.
        where: file and key in which it was found, if known.
    """
    choices = sorted(str(v) for v in valid)
    near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    shown = ", ".join(choices[:20]) + (f", … ({len(choices)} in all)" if len(choices) > 20 else "")
    place = f"{where}: " if where else ""
    return UserError(f"{place}unknown {kind} '{name}'{hint} Valid: {shown or '(none)'}")
