"""An architecture of the tests' own: units in a ring, in the one file that an architecture needs."""

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

import hamux
from hamux_zoo import ZooModel


@dataclasses.dataclass(frozen=True)
class RingConfig:
    shape: tuple[int, ...] = (2, 2, 1)
    classes: int = 0


class Ring(ZooModel):
    """Units in a ring."""

    model_type: ClassVar[str] = "ring"
    config: RingConfig = eqx.field(static=True)
    ham: hamux.HAM

    def __init__(self, config, *, key):
        self.config = config
        neurons = {"ring": hamux.Neurons(hamux.lagr_tanh, config.shape)}
        size = config.shape[-1]
        self.ham = hamux.HAM(neurons, {"next": hamux.DenseSynapse(key, size, size)}, [(("ring", "ring"), "next")])

    def encode(self, x):
        return {"ring": x}

    def decode(self, xs):
        return xs["ring"]

    def rehearse(self, x, known, *, key):
        return hamux.descend(self.ham, {"ring": x.astype(jnp.float32)}, steps=2).xs["ring"][None], None
