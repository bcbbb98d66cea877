"""What Hamiltonian steps of flat and of curved space are proven with."""

import pytest
import torch

from narrows.parts.hamiltonian import SWIFT, Leapfrog


@pytest.fixture
def steps():
    """Leapfrog steps of codes of three units in double precision, each unit's size another one."""

    def leapfrog(count, size=0.3, root=1.4):
        made = Leapfrog(3, count, 1.0).double()
        with torch.no_grad():
            made.size.copy_(torch.tensor([0.8, 1.0, 1.2]).mul(size).logit() / SWIFT)
            made.heat.fill_(root - 1).log_()
        return made

    return leapfrog


@pytest.fixture
def energy():
    """A potential that couples three units, and once more its value."""

    def potential(z):
        mix = torch.tensor([[1.0, 0.5, -0.3], [0.0, 2.0, 0.7], [0.4, 0.0, 1.5]], dtype=z.dtype)
        value = (z @ mix).cosh().log().sum(1)
        return value, value

    return potential
