"""Run what a study still lacks, on this machine or on many, and write its tables."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml
from joblib import Parallel, delayed, parallel_config

from latentprint.engine.loop import progress
from latentprint.engine.state import write_text
from latentprint.errors import RunFailed, UserError
from latentprint.study.analyse import write_outputs
from latentprint.study.definition import Study, study_of
from latentprint.study.tasks import Task, check, run_task, tasks_of

Executor = Literal["loky", "dask", "ray"]
DEFINITION = "study.yaml"
#: What decides what a run is, beside its arm and seed.
RUNS = ("name", "command", "preset", "settings", "per_seed", "start", "uses")
#: Seconds between looks at what is finished.
LOOK = 0.5


def run_study(study: Study, out: Path, executor: Executor = "loky", workers: int | None = None, resume: bool = False,
              address: str | None = None) -> dict[str, Any]:
    """Run all that is missing and write the tables; returns the summary. `tasks.complaint` tells which runs broke.

    Args:
        workers: processes; None: one a core. address: of a dask scheduler or ray head; None: a cluster on this machine.

    Raises:
        UserError: wrong settings, a folder of another study, or an executor that is not installed.
        RunFailed: a worker process was killed.
    """
    check(study, out)
    open_folder(study, out, resume)
    first, arms = tasks_of(study, out)
    total = workers or os.cpu_count() or 1
    with backend(executor, total, address), watched([*first, *arms], study.name):
        try:
            _run([task for task in first if not task.done])
            ready = {task.seed for task in first if task.reported} if first else set(range(study.seeds))
            _run([task for task in arms if task.seed in ready and not task.done])  # they need their seed's first run
        except BrokenProcessPool as error:
            write_outputs(study, out)
            left = sum(not task.ended for task in (*first, *arms))
            raise RunFailed(f"study {study.name}: a worker process was killed, often for lack of memory, and {left} "
                            "runs have not ended; use fewer --workers, and --resume") from error
    return write_outputs(study, out)


def _run(tasks: Sequence[Task]) -> None:
    if tasks:
        Parallel()(delayed(run_task)(task) for task in tasks)


def open_folder(study: Study, out: Path, resume: bool) -> None:
    """Create ``out``, or take it up again; what is measured and drawn may have changed since, and arms been added.

    Raises:
        UserError: it holds a study already (without ``resume``), or another one.
    """
    kept, told = out / DEFINITION, study.model_dump(mode="json")
    if kept.is_file():
        if not resume:
            raise UserError(f"--out {out} holds a study already; --resume goes on with it")
        known = read_study(out).model_dump(mode="json")
        odd = [key for key in RUNS if known[key] != told[key]]
        odd += [f"arms.{arm}" for arm, own in known["arms"].items() if told["arms"].get(arm, own) != own]
        if odd:
            raise UserError(f"--out {out} is another study: '{odd[0]}' differs; choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(kept, yaml.safe_dump(told, sort_keys=False))
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror or error})") from None


def read_study(out: Path) -> Study:
    """The study of a folder.

    Raises:
        UserError: there is none.
    """
    if not (out / DEFINITION).is_file():
        raise UserError(f"{out} holds no study: no {DEFINITION}")
    return study_of(yaml.safe_load((out / DEFINITION).read_text()), str(out / DEFINITION))


@contextmanager
def backend(executor: Executor, workers: int, address: str | None) -> Iterator[None]:
    """Where joblib runs.

    Raises:
        UserError: dask or ray is not installed.
    """
    if executor == "loky":
        with parallel_config("loky", n_jobs=workers):
            yield
        return
    try:
        opened = {"dask": _dask, "ray": _ray}[executor](workers, address)
    except ImportError:
        raise UserError(f"--executor {executor} needs {executor}; pip install 'latentprint[{executor}]'") from None
    try:
        with parallel_config(executor, n_jobs=workers):
            yield
    finally:
        opened()


def _dask(workers: int, address: str | None) -> Callable[[], None]:
    from dask.distributed import Client, LocalCluster

    cluster = None if address else LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
    client = Client(address or cluster)

    def close() -> None:
        client.close()
        if cluster is not None:
            cluster.close()

    return close


def _ray(workers: int, address: str | None) -> Callable[[], None]:
    import ray
    from ray.util.joblib import register_ray

    ray.init(address=address, num_cpus=None if address else workers, include_dashboard=False, log_to_driver=False,
             ignore_reinit_error=True)
    register_ray()
    return ray.shutdown


@contextmanager
def watched(tasks: Sequence[Task], name: str) -> Iterator[None]:
    """A progress bar over runs that have ended, wherever they run."""
    bar, over = progress(), threading.Event()
    with bar:
        line = bar.add_task(name, total=len(tasks), completed=sum(task.ended for task in tasks))

        def look() -> None:
            while not over.wait(LOOK):
                bar.update(line, completed=sum(task.ended for task in tasks))

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            bar.update(line, completed=sum(task.ended for task in tasks))
