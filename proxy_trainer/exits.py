"""Exit codes of the processes that train; whoever started them acts by these alone."""

from __future__ import annotations

import os

OK = 0
"""No run is left."""
BROKEN = 1
"""It could not go on."""
REFUSED = 2
"""It is not fit for this study, or the study is not as it should be."""
BUSY = 3
"""Others train the run."""
DIVERGED = 4
"""The run diverged, and is marked."""
UNFIT = 5
"""Whatever it tried failed, or its device did; another process in its place may do better."""
UNFIT_STARTS = 5
"""Further processes in an unfit one's place, as long as none comes to a step."""
KILLED = 128
"""Plus a signal's number: a process was killed, as shells say it."""
REQUEUE = os.EX_TEMPFAIL
"""Told to end, and checkpoints are left; schedulers read it as: start it again."""
