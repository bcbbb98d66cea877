"""Checkpoints that processes write together: each writes its own pieces of the tensors.

They are those of torch's DCP, which reads them in any number of processes: safetensors, whose
headers say where in a tensor each piece lies. JSON data and manifest lie beside them as ever.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save as pack_tensors
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from narrows.distributed.exchange import exchange
from narrows.errors import ModelFileError
from narrows.storage import (
    begin_folder,
    check_folder,
    end_folder,
    read_json,
    unfinished,
    write_part,
)

__all__ = ["read_pieces", "write_pieces"]


UNREADABLE = (SafetensorError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)
"""What is raised where the pieces of a tensor do not make one."""


class _Writer(StorageWriter):
    """Writes a file for each process, and the rest of the folder once all of them are there.

    Args:
        path: the folder.
        own: name of this process's file.
        rest: the other files, which the first process writes.
    """

    def __init__(self, path: Path, own: str, rest: Mapping[str, str]) -> None:
        self.path, self.own, self.rest = path, own, rest

    def reset(self, checkpoint_id: Any = None) -> None:
        """Begin anew: there is nothing to forget."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **options: Any) -> None:
        """Begin the folder, in the first process."""
        if is_coordinator:
            begin_folder(self.path)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Return the plan of what this process writes."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Return the plans of all processes."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write what is planned for this process."""
        pieces = {item.index.fqn: cast(Tensor, planner.resolve_data(item)) for item in plan.items}
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in pieces.items()}
        places = {i.index.fqn: {"saved_offsets": list(i.index.offset or ())} for i in plan.items}
        content = pack_tensors(tensors, {"DCP_SHARDING_INFO": json.dumps(places)})
        written = self.own, write_part(self.path, self.own, content)
        done: Future[list[WriteResult]] = Future()
        done.set_result([WriteResult(item.index, 0, written) for item in plan.items])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the rest, and put the folder in its place."""
        sums = {name: write_part(self.path, name, text) for name, text in self.rest.items()}
        sums |= dict(result.storage_data for written in results for result in written)
        end_folder(self.path, sums)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Tell that it is made for one folder, by hand."""
        return False


def write_pieces(
    path: Path, tensors: Mapping[str, Tensor], rest: Mapping[str, str], rank: int, count: int
) -> None:
    """Write a folder in all processes, whole or not at all.

    Args:
        path: the folder; one that is there already is replaced.
        tensors: each whole, or as the piece of it that this process holds.
        rest: the other files.
        rank: number of this process.
        count: how many there are.

    Raises:
        FileError: a process cannot write.
    """
    own = f"state-{rank + 1}-of-{count}.safetensors"
    with nullcontext() if rank else unfinished(path):
        try:
            exchange(partial(save, dict(tensors), storage_writer=_Writer(path, own, rest)))
        except CheckpointException as error:
            first, *_ = error.failures.values()
            raise first[0] from error


def read_pieces(
    path: Path, name: str, empty: Callable[[str, torch.Size, torch.dtype], Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the JSON data and the tensors of a folder that any number of processes wrote.

    Args:
        path: the folder.
        name: of the file with the JSON data.
        empty: returns what a tensor of this name, size and type is read into.

    Raises:
        ModelFileError: the folder or a file is missing or damaged.
    """
    check_folder(path)
    try:
        reader = HuggingFaceStorageReader(str(path))
        found = cast(dict[str, TensorStorageMetadata], reader.read_metadata().state_dict_metadata)
        tensors = {k: empty(k, form.size, form.properties.dtype) for k, form in found.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            load(tensors, storage_reader=reader, no_dist=True)  # each reads for itself
    except (*UNREADABLE, CheckpointException) as error:
        raise ModelFileError(f"{path} holds no tensors that can be read: {error}.") from error
    return read_json(path / name), tensors
