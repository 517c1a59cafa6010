"""The hierarchical associative memory: a hypergraph of neuron layers and hypersynapses with one scalar energy."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol, TypeVar, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ._binding import Bound, Code, Module, bind
from ._checks import untraced
from ._neurons import Neurons
from ._precision import widened
from ._synapses import ready_synapse

States = Mapping[str, Float[Array, "..."]]

_Result = TypeVar("_Result")


class HAM(Module):
    """E(g, x) = Σ_l leak_l · (g_l·x_l − L_l(x_l)) + Σ_c E_c(g_l1, g_l2, …), the energy of one example.

    - `neurons`: layers by name.
    - `synapses`: hypersynapses by name, Modules that map g's to a scalar.
    - `connections`: `((layer, layer, …), synapse)`, the layers in the order of the synapse's arguments. A synapse may
      serve several connections, and a layer may stand twice in one.

    States `xs` and activations `gs` are dicts by layer. They may be in half precision; energies are then in float32. A
    HAM is a pytree of arrays: `jax.jit`, `jax.grad` and `jax.vmap` take it as an argument. `jax.jit` takes its methods,
    too, and compiles the arrays as constants.

    Krotov, "Hierarchical Associative Memory", 2021; Hoover et al., "A Universal Abstraction for Hierarchical Hopfield
    Networks", 2022.

    **Raises** ValueError when it is made for an unknown layer or synapse, a wrong number of g's, activations that do
    not fit a synapse, an energy that is no scalar, or a synapse with a leaf that is no array; and when it is called for
    states with a missing or an unknown layer or of a wrong shape.
    """

    neurons: dict[str, Neurons]
    synapses: dict[str, Callable[..., Array]]
    connections: tuple[tuple[tuple[str, ...], str], ...] = eqx.field(static=True)

    def __init__(
        self,
        neurons: Mapping[str, Neurons],
        synapses: Mapping[str, Callable[..., Array]],
        connections: Sequence[tuple[Sequence[str], str]],
    ):
        # Sorted, as `jax.tree.map` and `jax.jit` return every dict: the order is the same before and after.
        self.neurons = dict(sorted(neurons.items()))
        self.synapses = {name: bind(synapse, f'synapse "{name}"') for name, synapse in sorted(synapses.items())}
        for connection in connections:
            if len(connection) != 2 or isinstance(connection[0], str):
                raise ValueError(f"connection {connection!r} is not of the form ((layer, layer, …), synapse)")
        self.connections = tuple((tuple(layers), synapse) for layers, synapse in connections)
        if not self.neurons:
            raise ValueError("a HAM has at least one layer of neurons")
        for layers, synapse in self.connections:
            self._check_connection(layers, synapse)

    def _check_connection(self, layers: tuple[str, ...], name: str) -> None:
        connection = f"connection ({', '.join(map(repr, layers))}) via {name!r}".replace("'", '"')
        for layer in layers:
            if layer not in self.neurons:
                raise ValueError(f'{connection} names a neuron layer "{layer}"; this HAM has {_names(self.neurons)}')
        if name not in self.synapses:
            raise ValueError(f'{connection} names a synapse "{name}"; this HAM has {_names(self.synapses)}')
        synapse = self.synapses[name]
        try:
            inspect.signature(synapse).bind(*layers)
        except TypeError as error:
            raise ValueError(f"{connection} gives {len(layers)} g's to {type(synapse).__name__}: {error}") from None
        floats = [
            leaf.dtype for leaf in jax.tree.leaves(synapse) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        ]
        dtype = jnp.result_type(*floats) if floats else float
        try:
            energy = jax.eval_shape(lambda: synapse(*(jnp.zeros(self.neurons[layer].shape, dtype) for layer in layers)))
        except (ValueError, TypeError) as error:
            shapes = ", ".join(f'"{layer}" {self.neurons[layer].shape}' for layer in layers)
            raise ValueError(f"{connection} does not fit its layers {shapes}: {error}") from error
        if getattr(energy, "shape", None) != ():
            found = getattr(energy, "shape", type(energy).__name__)
            raise ValueError(f"{connection} gives an energy of shape {found}; it must be one scalar")

    def kinds(self) -> dict[str, dict[str, str]]:
        """Returns the kind of each layer's Lagrangian, `["neurons"][name]`, and of each synapse, `["synapses"][name]`.

        A kind is "tanh" for `lagr_tanh`, however it is wrapped, and the name of its class for a Module.
        """
        return {
            "neurons": {name: _kind(layer.lagrangian) for name, layer in self.neurons.items()},
            "synapses": {name: _kind(synapse) for name, synapse in self.synapses.items()},
        }

    def __str__(self) -> str:
        """Lists the layers with their shapes and Lagrangians, and the connections with the layers that they join."""
        kinds = self.kinds()
        layers = [(name, str(layer.shape), kinds["neurons"][name]) for name, layer in self.neurons.items()]
        joined = [(name, kinds["synapses"][name], " – ".join(names)) for names, name in self.connections]
        widths = [max(map(len, column)) for column in zip(*layers, *joined, strict=True)]
        rows = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [*layers, *joined]]
        parameters = sum(map(jnp.size, jax.tree.leaves(self)))
        title = f"HAM: {self.n_neurons} layers, {self.n_connections} connections, {parameters:,} parameters"
        return "\n  ".join([title, *("  ".join(row).rstrip() for row in rows)])

    def _repr_pretty_(self, printer: "_Printer", cycle: bool) -> None:
        printer.text(str(self))

    def _repr_html_(self) -> str | None:
        """Shows the HAM in a notebook, by treescope; without treescope the notebook shows the text."""
        try:
            import treescope
        except ModuleNotFoundError:
            return None
        html: str = treescope.render_to_html(self)
        return html

    @property
    def n_neurons(self) -> int:
        return len(self.neurons)

    @property
    def n_synapses(self) -> int:
        return len(self.synapses)

    @property
    def n_connections(self) -> int:
        return len(self.connections)

    def init_states(self, bs: int | None = None, *, key: PRNGKeyArray | None = None) -> dict[str, Array]:
        """Returns a state of every layer: zeros, or standard normal numbers from `key`; `bs` adds a batch axis."""
        if key is None:
            return {name: layer.init(bs) for name, layer in self.neurons.items()}
        keys = jr.split(key, len(self.neurons))
        return {name: layer.init(bs, key=k) for k, (name, layer) in zip(keys, self.neurons.items(), strict=True)}

    def activations(self, xs: States) -> dict[str, Array]:
        """Returns g_l = ∂L_l/∂x_l of every layer."""
        self._check_layers("state", xs)
        return {name: layer.activations(xs[name]) for name, layer in self.neurons.items()}

    def neuron_energies(self, gs: States, xs: States) -> dict[str, Float[Array, ""]]:
        """Returns leak_l · (g_l·x_l − L_l(x_l)) by layer."""
        self._check_layers("activation", gs)
        self._check_layers("state", xs)
        return {name: layer.energy(gs[name], xs[name]) for name, layer in self.neurons.items()}

    def connection_energies(self, gs: States) -> list[Float[Array, ""]]:
        """Returns E_c of every connection, in the order of `connections`."""
        self._check_layers("activation", gs)
        return [widened(self.synapses[name](*(gs[layer] for layer in layers))) for layers, name in self.connections]

    def energy_tree(self, gs: States, xs: States) -> PyTree[Float[Array, ""]]:
        """Returns the parts of the energy, `{"neurons": {layer: …}, "connections": […]}`; they sum to `energy`."""
        return {"neurons": self.neuron_energies(gs, xs), "connections": self.connection_energies(gs)}

    def energy(self, gs: States, xs: States) -> Float[Array, ""]:
        """Returns the energy of the whole HAM."""
        return _total(self.energy_tree(gs, xs))

    @overload
    def dEdg(self, gs: States, xs: States, return_energy: Literal[False] = False) -> dict[str, Array]: ...
    @overload
    def dEdg(self, gs: States, xs: States, return_energy: Literal[True]) -> tuple[Array, dict[str, Array]]: ...
    def dEdg(
        self, gs: States, xs: States, return_energy: bool = False
    ) -> dict[str, Array] | tuple[Array, dict[str, Array]]:
        """Returns ∂E/∂g of every layer, leak_l · x_l + Σ_c ∂E_c/∂g_l; with `return_energy`, `(energy, dEdg)`."""
        untraced("return_energy", return_energy)
        tree, gradient = self._energy_tree_and_dEdg(gs, xs)
        return (_total(tree), gradient) if return_energy else gradient

    def _energy_tree_and_dEdg(self, gs: States, xs: States) -> tuple[PyTree[Array], dict[str, Array]]:
        """Returns the parts of the energy and its gradient, from one evaluation of the synapses."""

        def connections(gs: States) -> tuple[Array, list[Array]]:
            energies = self.connection_energies(gs)
            return functools.reduce(jnp.add, energies), energies

        synaptic, energies = jax.grad(connections, has_aux=True)(dict(gs)) if self.connections else ({}, [])
        tree = {"neurons": self.neuron_energies(gs, xs), "connections": energies}
        own = {name: layer.leak * xs[name] for name, layer in self.neurons.items()}
        return tree, {name: own[name] + synaptic[name] if synaptic else own[name] for name in own}

    def ready(self) -> "HAM":
        """Returns the same HAM with the work of its synapses done that does not depend on the states."""
        synapses = {name: ready_synapse(synapse) for name, synapse in self.synapses.items()}
        if all(synapses[name] is synapse for name, synapse in self.synapses.items()):
            return self
        ready: HAM = eqx.tree_at(lambda ham: ham.synapses, self, synapses)
        return ready

    def vectorize(self) -> "VectorizedHAM":
        """Returns the HAM with a leading batch axis on every state, activation and energy."""
        return VectorizedHAM(self)

    def unvectorize(self) -> "HAM":
        return self

    def _check_layers(self, what: str, values: States, batched: bool = False) -> None:
        if values.keys() != self.neurons.keys():
            missing = _names(self.neurons.keys() - values.keys())
            unknown = _names(values.keys() - self.neurons.keys())
            raise ValueError(
                f"{what}s for {_names(values)}: missing {missing}, unknown {unknown}; "
                f"this HAM has {_names(self.neurons)}"
            )
        for name, layer in self.neurons.items():
            if not eqx.is_array_like(values[name]):
                raise ValueError(f'the {what} of "{name}" is {values[name]!r:.60}; expected an array')
            shape, dtype = jnp.shape(values[name]), jnp.result_type(values[name])
            if shape[batched:] != layer.shape or len(shape) < batched:
                expected = f"(batch, *{layer.shape})" if batched else layer.shape
                hint = "one state for each example" if batched else "for a batch use ham.vectorize() or jax.vmap"
                raise ValueError(f'the {what} of "{name}" has shape {shape}, expected {expected}; {hint}')
            if not jnp.issubdtype(dtype, jnp.floating):
                raise ValueError(f'the {what} of "{name}" is of dtype {dtype}, expected floats')
        if batched and len(batches := {jnp.shape(value)[0] for value in values.values()}) > 1:
            raise ValueError(f"the {what}s are of batches of {sorted(batches)}; one size is expected")


class VectorizedHAM(Module):
    """A HAM whose states, activations and energies have a leading batch axis."""

    _ham: HAM

    @property
    def neurons(self) -> dict[str, Neurons]:
        return self._ham.neurons

    @property
    def synapses(self) -> dict[str, Callable[..., Array]]:
        return self._ham.synapses

    @property
    def connections(self) -> tuple[tuple[tuple[str, ...], str], ...]:
        return self._ham.connections

    @property
    def n_neurons(self) -> int:
        return self._ham.n_neurons

    @property
    def n_synapses(self) -> int:
        return self._ham.n_synapses

    @property
    def n_connections(self) -> int:
        return self._ham.n_connections

    def init_states(self, bs: int | None = None, *, key: PRNGKeyArray | None = None) -> dict[str, Array]:
        return self._ham.init_states(bs, key=key)

    def activations(self, xs: States) -> dict[str, Array]:
        return self._vmap(self._ham.activations, state=xs)

    def neuron_energies(self, gs: States, xs: States) -> dict[str, Float[Array, " batch"]]:
        return self._vmap(self._ham.neuron_energies, activation=gs, state=xs)

    def connection_energies(self, gs: States) -> list[Float[Array, " batch"]]:
        return self._vmap(self._ham.connection_energies, activation=gs)

    def energy_tree(self, gs: States, xs: States) -> PyTree[Float[Array, " batch"]]:
        return self._vmap(self._ham.energy_tree, activation=gs, state=xs)

    def energy(self, gs: States, xs: States) -> Float[Array, " batch"]:
        return self._vmap(self._ham.energy, activation=gs, state=xs)

    @overload
    def dEdg(self, gs: States, xs: States, return_energy: Literal[False] = False) -> dict[str, Array]: ...
    @overload
    def dEdg(self, gs: States, xs: States, return_energy: Literal[True]) -> tuple[Array, dict[str, Array]]: ...
    def dEdg(
        self, gs: States, xs: States, return_energy: bool = False
    ) -> dict[str, Array] | tuple[Array, dict[str, Array]]:
        untraced("return_energy", return_energy)
        energies, gradients = self._vmap(
            lambda gs, xs: self._ham.dEdg(gs, xs, return_energy=True), activation=gs, state=xs
        )
        return (energies, gradients) if return_energy else gradients

    def _vmap(self, method: Callable[..., _Result], **values: States) -> _Result:
        for what, each in values.items():
            self._ham._check_layers(what, each, batched=True)
        result: _Result = jax.vmap(method)(*values.values())
        return result

    def vectorize(self) -> "VectorizedHAM":
        return self

    def unvectorize(self) -> HAM:
        return self._ham


class _Printer(Protocol):
    """What IPython gives to `_repr_pretty_`."""

    def text(self, text: str) -> None: ...


def _total(tree: PyTree[Array]) -> Float[Array, ""]:
    total: Array = functools.reduce(jnp.add, jax.tree.leaves(tree))
    return total


def _kind(part: object) -> str:
    """The name of a function or of a Module's class."""
    while isinstance(part, Bound | Code):
        part = part.function
    name: str = getattr(part, "__name__", type(part).__name__)
    return name.removeprefix("lagr_").removeprefix("_")


def _names(names: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in sorted(names)) + "]"
