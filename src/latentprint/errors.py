"""The two ways a run ends early, told apart so that the command line can answer each properly."""

from __future__ import annotations

import re


class UserError(Exception):
    """Something the user gave is wrong. One sentence naming the key or file and what was expected; exit code 2."""


class RunFailed(Exception):
    """The run itself broke down (too many non-finite steps, disk full). The last good checkpoint stays; exit code 3."""


#: Longest message of another library that goes into a sentence of ours, in characters.
WIDTH = 300


def useful_line(error: BaseException) -> str:
    """The part of an exception's message that says what is wrong, on one line; its type's name when it says nothing.

    TorchScript prints a traceback and the reason last, ONNX Runtime a code and the reason over several lines; most
    others say it first.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if reasons := [line for line in lines[1:] if re.match(r"[\w.]*(Error|Exception)\b[^:]*: *\S", line)]:
        found = reasons[-1].partition(": ")[2]
    elif lines[0].startswith("[ONNXRuntimeError]"):
        said = [line for line in lines if not line.startswith("Please ")]
        found = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(said))
    else:
        found = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    found = f"{type(error).__name__}: {found}" if isinstance(error, KeyError) else found
    return found if len(found) <= WIDTH else f"{found[: WIDTH - 1]}…"
