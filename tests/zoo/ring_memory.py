"""Layers in a ring: an architecture in a package of its own, written with public names only."""

import dataclasses
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

import hamux
from hamux_zoo import Clamp, Config, Dynamics, Memory, States


@dataclasses.dataclass(frozen=True, kw_only=True)
class RingConfig(Config):
    """The config of a `Ring`: the units of a hidden layer, their inverse temperature at the start, and the sweeps."""

    shape: tuple[int, ...] = (28, 28, 1)
    hidden: int = 64
    beta: float = 1.0
    sweeps: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "hidden", "sweeps")


class Ring(Memory):
    """An image and two hidden layers of softmax units, joined in a ring.

    E = Σ_l (g_l · x_l − L_l(x_l)) − b · g_image − Σ_l g_next(l) · W_l g_l. The image's units are linear. In each hidden
    layer the units compete to explain the other two layers. A recall sweeps over the layers, and never goes up.
    """

    model_type: ClassVar[str] = "ring"
    config: RingConfig = eqx.field(static=True)
    ham: hamux.HAM

    def __init__(self, config: RingConfig, *, key: PRNGKeyArray) -> None:
        sizes = {"image": math.prod(config.shape), "left": config.hidden, "right": config.hidden}
        neurons = {"image": hamux.Neurons(hamux.lagr_identity, sizes["image"])}
        for name in ("left", "right"):
            neurons[name] = hamux.Neurons(Partial(hamux.lagr_softmax, beta=config.beta), config.hidden)
        synapses: dict[str, eqx.Module] = {"mean": hamux.BiasSynapse(key, sizes["image"])}
        connections: list[tuple[tuple[str, ...], str]] = [(("image",), "mean")]
        pairs = [("image", "left"), ("left", "right"), ("right", "image")]
        for pair, key_pair in zip(pairs, jax.random.split(key, 3), strict=True):
            synapses["_".join(pair)] = hamux.DenseSynapse(key_pair, sizes[pair[0]], sizes[pair[1]])
            connections.append((pair, "_".join(pair)))
        self.config, self.ham = config, hamux.HAM(neurons, synapses, connections)

    def start(
        self,
        x: Float[Array, "..."],
        known: Bool[Array, "..."] | None = None,
        *,
        label: Int[Array, ""] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[States, Clamp]:
        xs = self.ham.init_states() | {"image": jnp.ravel(x)}
        return xs, {} if known is None else {"image": jnp.ravel(known)}

    def decode(self, xs: States) -> Float[Array, "..."]:
        return xs["image"].reshape(self.config.shape)

    @property
    def optimizer(self) -> tuple[str, float]:
        return "adamw", 0.03

    def dynamics(self) -> Dynamics:
        return Dynamics(method=hamux.GaussSeidel(["left", "right", "image"]), steps=self.config.sweeps)
