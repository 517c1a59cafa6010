"""Hypersynapses of windows, over one to three spatial axes, channels last: convolution, pooling, local memories.

The windows of a layer are cut out as patches, tap by tap, and a convolution is patches times a matrix. `lax.conv` would
be slower: inside a compiled loop on a CPU XLA runs it on one thread (`tests/benchmarks/convolution.py`).
"""

import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ._binding import Module, bind
from ._checks import positive, sizes, whole
from ._facts import Number, either, holds
from ._lagrangians import lagr_relu
from ._precision import accumulator, log_sum_exp, widened

Sizes = int | Sequence[int]
Padding = str | Sequence[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Windows:
    """Where windows lie.

    Along each axis as many windows as fit lie in the padded layer, `stride` apart; their taps are `dilation` apart.
    `padding` is "SAME" (⌈size / stride⌉ windows), "VALID" (no padding) or, for each axis, how much comes before and
    after. **Raises** ValueError for a number < 1, for more or fewer than one for each axis, and for negative padding.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str | tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sizes, strides: Sizes, padding: Padding, dilation: Sizes) -> "Windows":
        """Takes an int for all axes; in `shape` it means two axes."""
        shape = sizes("window", shape) * (2 if np.ndim(shape) == 0 else 1)
        if not 1 <= len(shape) <= 3:
            raise ValueError(f"a window of shape {shape}; expected one to three spatial axes")
        steps = {
            name: sizes(name, step) * (len(shape) if np.ndim(step) == 0 else 1)
            for name, step in (("strides", strides), ("dilation", dilation))
        }
        for name, numbers in ({"window": shape} | steps).items():
            if len(numbers) != len(shape):
                raise ValueError(f"{name} is {numbers} for a window of shape {shape}; expected one number an axis")
            for number in numbers:
                whole(name, number, "at least 1 along every axis")
        if isinstance(padding, str):
            fits = padding in ("SAME", "VALID")
        else:
            padding = tuple((operator.index(before), operator.index(after)) for before, after in padding)
            fits = len(padding) == len(shape) and min(itertools.chain(*padding)) >= 0
        if not fits:
            raise ValueError(
                f'padding is {padding!r}; it is "SAME", "VALID" or {len(shape)} pairs (before, after) of numbers ≥ 0'
            )
        return cls(shape, steps["strides"], padding, steps["dilation"])

    @property
    def extent(self) -> tuple[int, ...]:
        """The distance from the first tap to the last, both included."""
        return tuple((taps - 1) * step + 1 for taps, step in zip(self.shape, self.dilation, strict=True))

    def pads(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        if not isinstance(self.padding, str):
            return list(self.padding)
        return list(jax.lax.padtype_to_pads(sizes, self.extent, self.strides, self.padding))

    def counts(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The number of windows along each axis. **Raises** ValueError where none fits."""
        padded = [before + size + after for size, (before, after) in zip(sizes, self.pads(sizes), strict=True)]
        if any(extent > size for extent, size in zip(self.extent, padded, strict=True)):
            raise ValueError(f"a window of extent {self.extent} is larger than its layer, {tuple(padded)} with padding")
        return tuple((p - e) // s + 1 for p, e, s in zip(padded, self.extent, self.strides, strict=True))

    def cut(self, g: Float[Array, "*sizes channels"]) -> Float[Array, "*counts taps channels"]:
        """Returns the windows of a layer, 0 where they reach beyond it, their taps in the order of `arranged`."""
        *places, channels = g.shape
        counts, blocks = self.counts(places), self._blocks(places)
        steps = [stride // block or 1 for stride, block in zip(self.strides, blocks, strict=True)]
        per_window = [side // block for side, block in zip(self.shape, blocks, strict=True)]
        last = [(count - 1) * step + 1 for count, step in zip(counts, steps, strict=True)]
        needed = [n + (taps - 1) * apart for n, taps, apart in zip(last, per_window, self.dilation, strict=True)]
        padded = jnp.pad(g, [*self.pads(places), (0, 0)])
        whole = padded[tuple(slice(n * block) for n, block in zip(needed, blocks, strict=True))]
        # Space to depth: the pixels of a block are beside one another, and its windows are slices without a stride.
        deep = _blocks_first(whole, [*zip(needed, blocks, strict=True)]).reshape(*needed, -1, channels)
        taps = []
        for tap in itertools.product(*map(range, per_window)):
            start = [i * apart for i, apart in zip(tap, self.dilation, strict=True)]
            end = [i + n for i, n in zip(start, last, strict=True)]
            taps.append(jax.lax.slice(deep, (*start, 0, 0), (*end, *deep.shape[-2:]), (*steps, 1, 1)))
        return jnp.concatenate(taps, axis=-2)

    def arranged(self, filters: Float[Array, "*window n"], sizes: Sequence[int]) -> Float[Array, "taps n"]:
        """Returns the taps of filters in the order in which `cut` returns those of a layer of `sizes`."""
        blocks = self._blocks(sizes)
        pairs = [(side // block, block) for side, block in zip(self.shape, blocks, strict=True)]
        return _blocks_first(filters, pairs).reshape(-1, filters.shape[-1])

    def _blocks(self, sizes: Sequence[int]) -> list[int]:
        """The sides of blocks of which windows, and the distances between them, are made."""
        counts = self.counts(sizes)
        fit = [
            side if count == 1 else stride for side, count, stride in zip(self.shape, counts, self.strides, strict=True)
        ]
        whole = all(side % block == 0 for side, block in zip(self.shape, fit, strict=True))
        return fit if whole and self.shape == self.extent else [1] * len(fit)

    def inside(self, sizes: Sequence[int]) -> Bool[Array, "*counts taps 1"]:
        """Returns which taps lie in the layer."""
        return self.cut(jnp.ones((*sizes, 1))) > 0


def _blocks_first(layer: Float[Array, "*sizes n"], pairs: Sequence[tuple[int, int]]) -> Array:
    """Cuts each axis into (blocks, places in a block) and returns all blocks' axes before those of the places."""
    axes = len(pairs)
    order = (*range(0, 2 * axes, 2), *range(1, 2 * axes, 2), 2 * axes)
    return layer.reshape(*itertools.chain(*pairs), layer.shape[-1]).transpose(order)


class ConvSynapse(Module):
    """E = −Σ g2 · (W ⋆ g1 + b): layer 2 sees the convolution of layer 1, layer 1 the transposed one of layer 2.

    g1 is `(*sizes, channels_in)` with one to three spatial axes. g2 is `(*counts, channels_out)` with as many places as
    `window_strides`, `padding` and `dilation` make; the HAM refuses another size and names the right one. `W` is
    `(channels_out, channels_in / groups, *filter_shape)`, applied without flipping; `b` is None unless `use_bias`.
    `padding` is "SAME", "VALID", or a pair (before, after) for each axis. An int holds for every axis; as
    `filter_shape` it means two axes. Krotov, "Hierarchical Associative Memory", 2021.

    **Raises** ValueError for numbers < 1 or not one for each axis, and for channels that do not divide into `groups`.
    """

    W: Float[Array, "channels_out channels_in_a_group *window"]
    b: Float[Array, " channels_out"] | None
    windows: Windows = eqx.field(static=True)
    groups: int = eqx.field(static=True)
    multilinear: ClassVar[bool] = True

    def __init__(
        self,
        key: PRNGKeyArray,
        channels_out: int,
        channels_in: int,
        filter_shape: Sizes,
        window_strides: Sizes = 1,
        padding: Padding = "SAME",
        dilation: Sizes = 1,
        groups: int = 1,
        use_bias: bool = False,
    ):
        groups = whole("groups", groups, "at least one group of channels")
        channels_out = whole("channels_out", channels_out, "at least one")
        channels_in = whole("channels_in", channels_in, "at least one")
        if channels_in % groups or channels_out % groups:
            raise ValueError(f"{channels_in} and {channels_out} channels do not divide into {groups} equal groups")
        self.windows = Windows.of(filter_shape, window_strides, padding, dilation)
        self.groups = groups
        self.W = 0.02 * jr.normal(key, (channels_out, channels_in // groups, *self.windows.shape))
        self.b = jnp.zeros(channels_out) if use_bias else None

    def __call__(
        self, g1: Float[Array, "*sizes channels_in"], g2: Float[Array, "*counts channels_out"]
    ) -> Float[Array, ""]:
        patches = self._patches(g1)
        expected = (*patches.shape[1:-1], len(self.W))
        if g2.shape != expected:
            raise ValueError(f"ConvSynapse makes {expected} of g1 {g1.shape}, got g2 of shape {g2.shape}")
        # This order keeps the patches for both gradients; Σ g2 · (patches @ filters) would cut them out twice.
        outputs = rearrange(g2, "... (group o) -> group ... o", group=self.groups)
        energy = -jnp.sum(widened(patches) * _product(outputs, self._filters(g1).swapaxes(-1, -2)))
        if self.b is None:
            return energy
        return energy - jnp.sum(widened(g2).reshape(-1, len(self.b)).sum(0) * widened(self.b))

    def of(self, g1: Float[Array, "*sizes channels_in"]) -> Float[Array, "*counts channels_out"]:
        """Returns W ⋆ g1 + b."""
        outputs = rearrange(_product(self._patches(g1), self._filters(g1)), "group ... o -> ... (group o)")
        return outputs if self.b is None else outputs + jnp.broadcast_to(widened(self.b), outputs.shape)

    def _patches(self, g: Float[Array, "*sizes channels_in"]) -> Float[Array, "groups *counts patch"]:
        _check_layer(self, g, self.W.shape[1] * self.groups)
        return rearrange(self.windows.cut(g), "... tap (group i) -> group ... (tap i)", group=self.groups)

    def _filters(self, g: Float[Array, "*sizes channels_in"]) -> Float[Array, "groups patch channels_out_a_group"]:
        taps = self.windows.arranged(rearrange(self.W, "o i ... -> ... (i o)"), g.shape[:-1])
        return rearrange(taps, "tap (i group o) -> group (tap i) o", group=self.groups, i=self.W.shape[1])


class ConvHopfieldSynapse(Module):
    """E = −L(W ⋆ g + b): a layer of hidden neurons at every place, its memories the filters, integrated out.

    `lagrangian` is that of the hidden neurons `(*counts, memories)`, as in `HopfieldSynapse`; the rest is as in
    `ConvSynapse`. Where L is convex E is concave in g.
    """

    convolution: ConvSynapse
    lagrangian: Callable[..., Array]

    def __init__(
        self,
        key: PRNGKeyArray,
        memories: int,
        channels: int,
        filter_shape: Sizes,
        window_strides: Sizes = 1,
        padding: Padding = "SAME",
        dilation: Sizes = 1,
        groups: int = 1,
        use_bias: bool = False,
        lagrangian: Callable[..., Array] = lagr_relu,
    ):
        self.convolution = ConvSynapse(
            key, memories, channels, filter_shape, window_strides, padding, dilation, groups, use_bias
        )
        self.lagrangian = bind(lagrangian, "the hidden neurons' Lagrangian")

    @property
    def curvature(self) -> Number:
        return either(holds(self.lagrangian, "convex"), 0.0, math.inf)

    def __call__(self, g: Float[Array, "*sizes channels"]) -> Float[Array, ""]:
        return -self.lagrangian(self.convolution.of(g))


class PoolSynapse(Module):
    """Joins a layer to its pooled layer, channel by channel; g2 is `(*counts, channels)`, one place for each window.

    - `"average"`: E = −Σ g2 · (mean of the window).
    - `"max"`: E = −Σ g2 · L(window), with L = (1/β) log Σ exp(β g1) over the window, the Lagrangian of `lagr_softmax`.
      The smooth maximum, for β → ∞ the maximum, drives layer 2; of layer 1 what is largest in its window is driven.

    A window that reaches beyond the layer holds only what lies in it. `window_strides` are `window_shape` unless given.
    `beta` is a parameter, None for the average. Krotov, "Hierarchical Associative Memory", 2021.

    **Raises** ValueError for another `pool`, a β that is not > 0, padding as large as the window, which would hold
    nothing, and as `ConvSynapse`.
    """

    beta: Float[Array, ""] | None
    windows: Windows = eqx.field(static=True)
    pool: Literal["average", "max"] = eqx.field(static=True)

    @property
    def multilinear(self) -> bool:
        return self.pool == "average"

    def __init__(
        self,
        window_shape: Sizes,
        window_strides: Sizes | None = None,
        padding: Padding = "VALID",
        pool: Literal["average", "max"] = "average",
        beta: float | Array = 1.0,
    ):
        if pool not in ("average", "max"):
            raise ValueError(f'pool is {pool!r}; it is "average" or "max"')
        strides = window_shape if window_strides is None else window_strides
        self.windows = windows = Windows.of(window_shape, strides, padding, 1)
        if not isinstance(windows.padding, str) and any(
            max(pads) >= size for pads, size in zip(windows.padding, windows.shape, strict=True)
        ):
            raise ValueError(f"padding is {windows.padding}; a window of {windows.shape} could hold nothing else")
        self.pool = pool
        self.beta = jnp.asarray(1.0 * positive("beta", beta)) if pool == "max" else None

    def __call__(self, g1: Float[Array, "*sizes channels"], g2: Float[Array, "*counts channels"]) -> Float[Array, ""]:
        _check_layer(self, g1)
        windows = widened(self.windows.cut(g1))
        expected = (*windows.shape[:-2], windows.shape[-1])
        if g2.shape != expected:
            raise ValueError(f"PoolSynapse makes {expected} of g1 {g1.shape}, got g2 of shape {g2.shape}")
        inside = jnp.broadcast_to(self.windows.inside(g1.shape[:-1]), windows.shape)
        if self.beta is None:
            pooled = jnp.mean(windows, axis=-2, where=inside)
        else:
            pooled = log_sum_exp(windows, widened(self.beta), axis=-2, where=inside)
        return -jnp.sum(pooled * widened(g2))


def _check_layer(synapse: ConvSynapse | PoolSynapse, g: Array, channels: int | None = None) -> None:
    axes = len(synapse.windows.shape)
    if g.ndim != axes + 1 or channels not in (None, g.shape[-1]):
        expected = ", ".join([*("depth", "height", "width")[-axes:], str(channels or "channels")])
        raise ValueError(f"{type(synapse).__name__} got g1 of shape {g.shape}, expected ({expected})")


def _product(rows: Float[Array, "groups *counts a"], matrix: Float[Array, "groups a b"]) -> Array:
    """Multiplies rows by the matrix of their group."""
    if len(matrix) == 1:
        return jnp.matmul(rows, matrix[0], preferred_element_type=accumulator(rows, matrix))
    return jnp.einsum("g...a,gab->g...b", rows, matrix, preferred_element_type=accumulator(rows, matrix))
