"""The best step known: forward, backward and Adam by hand in one graph, rows taken inside it.

Losses on logits, a cheap dropout mask, convolutions with the channels last; small steps are
unrolled, eight to a graph.
"""

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import torch
import torch._dynamo.config as tracing
import torch._inductor.config as lowering
from nets import Net, shaped
from torch import Tensor
from workloads import WORKLOADS, Lap, Trained

from narrows.parts.networks import Dropout

UNROLLED = {"W5/32": 8}
SLICE = 4096
BETAS, RATE, EPS = (0.9, 0.999), 1e-3, 1e-8


class Step:
    """A step on the rows of x, to be compiled."""

    def __init__(self, net: Net, x: Tensor, size: int, bf16: bool) -> None:
        self.net, self.x, self.size, self.bf16 = net, x, size, bf16
        self.parameters = list(net.parameters())
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.count, self.total = torch.zeros((), dtype=torch.float64), torch.zeros(())

    def __call__(self, rows: Tensor) -> None:
        """Make a step for each `size` of the rows."""
        for part in rows.split(self.size):
            self.move(self.x.index_select(0, part))

    def move(self, x: Tensor) -> None:
        """Make one step."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            out = self.net(x)
        out = [o.float() for o in out] if isinstance(out, tuple) else out.float()
        loss = self.net.loss(out, x)
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            self.count.add_(1)
            self.total.add_(loss.detach())
            step = (RATE / (1 - BETAS[0] ** self.count)).float()
            root = (1 - BETAS[1] ** self.count).sqrt().float()
            groups = zip(self.parameters, gradients, self.first, self.second, strict=True)
            for p, g, first, second in groups:
                first.lerp_(g, 1 - BETAS[0])
                second.lerp_(g * g, 1 - BETAS[1])
                p.sub_(step * first / (second.sqrt() / root + EPS))


def train(name: str, X: np.ndarray, epochs: int, threads: int, lap: Lap, variant: str) -> Trained:
    del threads
    torch.set_flush_denormal(True)
    net, x = Net(name, logits=True, dropout=Dropout), shaped(name, torch.from_numpy(X))
    if name == "W4":
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    size, unrolled = WORKLOADS[name].batch_size, UNROLLED.get(name, 1)
    step = Step(net, x, size, variant == "bf16")
    graph = torch.compile(step, fullgraph=True, dynamic=False)
    with ExitStack() as stack:
        stack.enter_context(tracing.patch(trace_autograd_ops=True))
        stack.enter_context(lowering.patch(cpp_wrapper=unrolled > 1))
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(size * unrolled):
                (graph if len(rows) == size * unrolled else step)(rows)
            lap()
    return Trained(net.size(), calls(net.eval()))


def calls(net: Net) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return what a net in evaluation mode does with new data, in slices."""

    def sliced(function: Callable[[Tensor], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
        @torch.inference_mode()
        def call(X: np.ndarray) -> np.ndarray:
            parts = torch.from_numpy(X).split(SLICE)
            return torch.cat([function(part) for part in parts]).numpy()

        return call

    if net.kind == "elbo":
        return {"encode": sliced(lambda x: net.encoder(x).chunk(2, 1)[0])}
    return {
        "encode": sliced(net.encoder),
        "reconstruct": sliced(net),
        "score": sliced(lambda x: -(net(x) - x).square().sum(1)),
    }
