"""What a training that was interrupted goes on from."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from stack.errors import InputError
from stack.server import settings
from torch import Tensor, nn


class Checkpoints:
    """checkpoints/epoch-0001.npz and so on: weights, the optimizer's averages, metrics. Arrays, which run no code.

    SageMaker keeps the folder in S3 where the job has a CheckpointConfig, and brings it back after a spot interruption.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, chosen: dict):
        self.network, self.optimizer, self.chosen = network, optimizer, chosen
        self.folder = settings.base_dir() / "checkpoints"

    def save(self, epoch: int, metrics: dict) -> None:
        """In one step: a checkpoint that was interrupted is none. The one before stays, older ones go."""
        arrays = {f"network/{name}": value.cpu() for name, value in self.network.state_dict().items()}
        for number, averages in self.optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer/{number}/{name}": value.cpu() for name, value in averages.items()}
        about = json.dumps({"epoch": epoch, "metrics": metrics, "hyperparameters": self.chosen})
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / ".partial"
        with open(partial, "wb") as stream:
            np.savez(stream, about=about, **arrays)
        os.replace(partial, self._file(epoch))
        self._file(epoch - 2).unlink(missing_ok=True)

    def resume(self) -> tuple[int, dict]:
        """Goes back to the last checkpoint that can be read; its epoch and metrics, 0 and none where there is none."""
        for file in sorted(self.folder.glob("epoch-*.npz"), reverse=True):
            try:
                with np.load(file, allow_pickle=False) as arrays:
                    about = json.loads(str(arrays["about"]))
                    epoch, metrics, others = (about[n] for n in ("epoch", "metrics", "hyperparameters"))
                    state = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "about"}
            except Exception as error:  # cut off, or of somebody else: zip, npy and JSON each have their own
                print(
                    f"train: checkpoint {file.name} cannot be read ({type(error).__name__}); it is passed over"
                )
                continue
            self._check(file, others)
            self._restore(state)
            print(f"train: goes on from {file.name}, after epoch {epoch} of {self.chosen['epochs']}")
            return epoch, metrics
        return 0, {}

    def _file(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:05}.npz"

    def _check(self, file: Path, others: dict) -> None:
        if differing := [name for name, value in self.chosen.items() if others.get(name) != value]:
            name = differing[0]
            raise InputError(
                f"checkpoint {file.name} is of a training with {name}={others.get(name)}, and this one has "
                f"{name}={self.chosen[name]}: give each its own CheckpointConfig.S3Uri, or empty {self.folder}"
            )

    def _restore(self, state: dict[str, Tensor]) -> None:
        parts = {name: {} for name in ("network", "optimizer")}
        for name, value in state.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = value
        self.network.load_state_dict(parts["network"])
        averages: dict[int, dict] = {}
        for name, value in parts["optimizer"].items():
            number, _, kind = name.partition("/")
            averages.setdefault(int(number), {})[kind] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": averages, "param_groups": groups})
