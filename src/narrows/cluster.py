"""Ray: workers of a cluster, or of this machine, that train a model or apply it to files."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from narrows.bulk import Bulk
from narrows.errors import MissingExtraError, NarrowsError, ParameterError, PeerError

__all__ = ["apply", "connected", "train"]

RETRIES = 10
"""How often workers that died are replaced before a run ends."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing calls home, unless the user lets it
    "RAY_COLOR_PREFIX": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""What is set in the environment before Ray starts, where it is not set already."""


@contextmanager
def connected() -> Iterator[None]:
    """Use the cluster at RAY_ADDRESS, or a Ray of this machine's own that ends with this context.

    A Ray that this process has started before is used, and stays.

    Raises:
        MissingExtraError: Ray is not installed.
        ParameterError: there is no cluster at that address.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray warns of options of its own
            import ray
            import ray.train.torch
    except ImportError as error:
        raise MissingExtraError("Ray needs its own library: pip install 'narrows[ray]'") from error
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    try:
        ray.init(
            address,
            include_dashboard=False,
            logging_level=logging.ERROR,
            logging_config=ray.LoggingConfig(log_level="CRITICAL"),
        )
    except ConnectionError as error:
        raise ParameterError(
            f"There is no Ray cluster at RAY_ADDRESS={address}. Start one with `ray start "
            "--head`, or unset RAY_ADDRESS to use this machine alone."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def train(work: Callable[[int], None], folder: Path, workers: int | None) -> None:
    """Let workers do the same work, as processes that train together; all that die are replaced.

    Each has a GPU where the cluster has any, else a CPU.

    Args:
        work: gets the number of the worker; begun anew, it goes on from what it has saved.
        folder: where Ray may leave notes; all machines must see it.
        workers: how many; None for all that the cluster has room for.

    Raises:
        ParameterError: the cluster has no room for so many.
        NarrowsError: what the work raised.
    """
    import ray
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    gpu = "GPU" in ray.cluster_resources()
    count = _room("GPU" if gpu else "CPU", workers)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"work": work},
        scaling_config=ScalingConfig(num_workers=count, use_gpu=gpu),
        run_config=RunConfig(
            name=".ray",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=RETRIES),
            logging_config=LoggingConfig(log_level="CRITICAL"),
            callbacks=[_judge()],
        ),
    )
    pool = ThreadPoolExecutor(1)  # in the main thread, Ray would take SIGINT for its own
    try:
        pool.submit(trainer.fit).result()
    except ray.train.ControllerError as error:
        raise _cause(error.controller_failure) from error
    except ray.train.WorkerGroupError as error:
        raise _cause(next(iter(error.worker_failures.values()))) from error
    finally:
        pool.shutdown(wait=False)


def apply(
    bulk: Callable[[], Bulk], files: Mapping[Path, Path], workers: int | None
) -> Iterator[tuple[int, bool]]:
    """Let workers, which have a CPU each, apply a model to files; all that die are replaced.

    These are actors of Ray's core and no data set of Ray Data, which names and orders the files
    that it writes by itself, replaces a worker that dies of a file again and again, and waits for
    ever where workers leave no CPU to the tasks that read.

    Args:
        bulk: makes what each worker applies.
        files: where the results of each go.
        workers: how many; None for all that the cluster has room for.

    Yields:
        What `Bulk` returns, file by file.

    Raises:
        ParameterError: the cluster has no room for so many.
        NarrowsError: what a worker raised.
    """
    import ray
    from ray.util import ActorPool

    count = min(_room("CPU", workers), len(files))
    actor = ray.remote(num_cpus=1, max_restarts=RETRIES, max_task_retries=RETRIES)(_Applied)
    pool = ActorPool([actor.remote(bulk) for _ in range(count)])
    try:
        yield from pool.map_unordered(_begin, files.items())
    except ray.exceptions.RayError as error:
        raise _cause(error) from error


class _Applied:
    """What a worker keeps: the model, loaded once."""

    def __init__(self, bulk: Callable[[], Bulk]) -> None:
        self.bulk = bulk()

    def apply(self, source: Path, target: Path) -> tuple[int, bool]:
        """Make the results of a file."""
        return self.bulk(source, target)


def _begin(worker: Any, files: tuple[Path, Path]) -> Any:
    return worker.apply.remote(*files)


def _work(config: dict[str, Callable[[int], None]]) -> None:
    from ray.train import get_context

    config["work"](get_context().get_world_rank())


def _room(kind: str, workers: int | None) -> int:
    """Return how many workers there shall be; each takes one of this kind.

    Raises:
        ParameterError: the cluster has fewer.
    """
    import ray

    found = int(ray.cluster_resources().get(kind, 0))
    if (workers or 1) > found:
        raise ParameterError(
            f"--workers {workers or 1} needs a {kind} for each, and Ray has {found}. Ask for "
            "fewer, or add machines to the cluster."
        )
    return workers or found


def _judge() -> Any:
    """Return what ends a training whose workers live but fail: they would fail again."""
    from ray.train import UserCallback

    class Judge(UserCallback):  # type: ignore[misc]
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Any]) -> None:
            for error in map(_cause, worker_exceptions.values()):
                died = type(error).__module__.startswith("ray.")  # as Ray itself says
                if not (died or isinstance(error, PeerError)):
                    raise error

    return Judge()


def _cause(error: BaseException) -> BaseException:
    """Return what narrows said, if it is behind an error of Ray, else this one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, NarrowsError):
            return seen
        seen = getattr(seen, "_base_exc", None) or getattr(seen, "cause", None) or seen.__cause__
    return error
