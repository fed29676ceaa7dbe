"""The steps of an audit, the same in every channel: check, load, train, probe, attack, measure, draw, conclude, report.

Each training and each attack within them goes on from its own checkpoint when a killed run is taken up again.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from latentprint import checks
from latentprint.auditing.channel import Audit
from latentprint.config import config_hash
from latentprint.engine.device import peak_memory
from latentprint.engine.loop import is_main, say
from latentprint.engine.run import RunDir, check_out, manifest, now
from latentprint.engine.settings import RunConfig, settled
from latentprint.findings import Row
from latentprint.probes import announce
from latentprint.report.build import concluded
from latentprint.report.schema import SCHEMA, misfit

A = TypeVar("A", bound=Audit[Any])


def run_steps(kind: type[A], config: RunConfig, out: Path, resume: bool = False,
              before_verdict: Callable[[A], None] | None = None) -> dict[str, Any]:
    """Audit and write ``out``; returns what report.json holds.

    Args:
        kind: the channel's `Audit`.
        before_verdict: sees the results, and may add to their section, before the verdict is written.

    Raises:
        UserError: settings, files or data that cannot be used; nothing is half-written before they are checked.
        RunFailed: training broke down.
    """
    began = time.perf_counter()
    config, device = settled(config, **kind.settings(config))
    if is_main():
        check_out(out, resume)
    audit = kind(config, device)
    for warning in audit.warnings:
        say(warning)
    run = RunDir.open(out, config.model_dump(mode="json"), resume, writes=is_main())
    run.describe(**manifest(config.seed, str(device), precision=config.precision, config_hash=config_hash(config),
                            command=["latentprint", *sys.argv[1:]],
                            data={name: hashlib.sha256(part.images.contiguous().numpy().data).hexdigest()
                                  for name, part in audit.sets().items()}))
    audit.train(run)
    probes = announce(audit.probe())
    audit.attack(run)
    section = audit.section = audit.results() | {"probes": checks.probes(probes)}
    framing, found = audit.framer.reported(audit.reconstructions, run.path if is_main() else None)
    section |= framing
    audit.warnings += [*found, *audit.flags()]
    if is_main():
        section |= audit.figures(run.path)
    if before_verdict is not None:
        before_verdict(audit)
    section |= concluded(section)
    section["seconds"] = time.perf_counter() - began
    run.describe(end=now(), peak_memory_gib=peak_memory(device),
                 hashes={name: checks.weights_hash(network) for name, network in audit.networks().items()})
    report = {"schema": SCHEMA, "channels": {audit.name: section}, "manifest": run.facts,
              "warnings": list(dict.fromkeys(audit.warnings))}
    run.write_json("report.json", report)
    if is_main() and (fault := misfit((run.path / "report.json").read_text())):
        say(f"{fault}; this is a fault of latentprint, and the report is written all the same")
    run.close()
    return report


def check_steps(kind: type[A], config: RunConfig, out: Path | None = None) -> list[Row]:
    """What an audit finds before anything is trained; all is well when no row has ``ok`` False.

    Args:
        out: a folder for the picture of framing, made where a recogniser is framed; None: there is none.

    Raises:
        UserError: what would stop the audit itself.
    """
    config, device = settled(config, **kind.settings(config))
    audit = kind(config, device)
    probes = audit.probe() if audit.comes_trained else ()
    return [*(Row("data", name, f"{part.n_classes} classes, {len(part)} images of {part.size} pixels: {part.source}")
              for name, part in audit.sets().items()),
            *(Row("data", "warning", warning, None) for warning in audit.warnings),
            Row("victim", "comes trained", "yes" if audit.comes_trained else "no: it is trained by the audit"),
            *(Row("victim", flag.name, flag.message, False, flag.mend) for flag in probes if flag),
            *audit.framer.check(None, None if out is None else out / "framing.png")]
