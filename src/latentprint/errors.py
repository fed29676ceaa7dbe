"""The two ways a run ends early, told apart so that the command line can answer each properly."""

from __future__ import annotations


class UserError(Exception):
    """Something the user gave is wrong. One sentence naming the key or file and what was expected; exit code 2."""


class RunFailed(Exception):
    """The run itself broke down (too many non-finite steps, disk full). The last good checkpoint stays; exit code 3."""
