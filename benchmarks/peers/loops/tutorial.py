"""The tutorial's loop (DataLoader, Adam, loss.item()), and the bare eager one.

The bare one has neither loader nor log: rows of one tensor, and a fused optimizer.
"""

from collections.abc import Iterator

import numpy as np
import torch
from nets import Net, shaped
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from workloads import WORKLOADS, Lap, Trained


def train(name: str, X: np.ndarray, epochs: int, threads: int, lap: Lap, variant: str) -> Trained:
    del threads
    net, size = Net(name), WORKLOADS[name].batch_size
    x = shaped(name, torch.from_numpy(X))
    (plain if variant == "plain" else fast)(net, x, epochs, size, lap)
    return Trained(net.size(), {})


def plain(net: Net, x: Tensor, epochs: int, size: int, lap: Lap) -> None:
    loader = DataLoader(TensorDataset(x), batch_size=size, shuffle=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        total = 0.0
        for (batch,) in loader:
            loss = net.loss(net(batch), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        lap()


def fast(net: Net, x: Tensor, epochs: int, size: int, lap: Lap) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    for _ in range(epochs):
        for batch in batches(x, size):
            optimizer.zero_grad()
            net.loss(net(batch), batch).backward()
            optimizer.step()
        lap()


def batches(x: Tensor, size: int) -> Iterator[Tensor]:
    """Yield the rows of x in a random order."""
    for rows in torch.randperm(len(x)).split(size):
        yield x.index_select(0, rows)
