"""Steps that never raise the energy: the longest of which that is proved, or else tried."""

import functools
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._certificate import Certificate, Setting, blocks, clear, convexity, relative_smoothness
from .._facts import Truth, either, least, settled
from .._ham import HAM
from ._backtracking import Backtracking
from ._explicit import Explicit
from ._gauss_seidel import GaussSeidel
from ._method import Method, Problem, Step


class Certified(Method[tuple[Any, ...]]):
    """The method that `relax` takes when none is given: its steps never raise the energy, but for rounding.

    It is `Explicit` with the largest dt that `certify` certifies; else `GaussSeidel`, where that is certified; else
    `Backtracking`, which takes any HAM. This depends on parameters, clamps and time constants. Where these are known,
    so is the choice, before anything is compiled. Where jax traces them the program holds every method that may be
    certified, and chooses among them as it runs: a traced run takes the same steps as an eager one. The masks of a
    batch count as one, however the batch is made. Where a Lagrangian is not convex, −∂E/∂g need not point downhill, and
    a retrieval may stay where it starts.
    """

    methods: tuple[Method[Any], ...]
    conditions: tuple[Bool[Array, ""], ...]  # of every method but the last
    evaluates: ClassVar[bool] = True

    def __init__(self) -> None:
        self.methods = (Backtracking(),)
        self.conditions = ()

    def certify(self, ham: HAM, setting: Setting) -> Certificate:
        chosen = self.prepare(ham, setting)
        if isinstance(chosen, Certified):
            names = " or ".join(type(method).__name__ for method in chosen.methods)
            return Certificate(True, None, (f"the program chooses {names} by what is being traced",))
        certificate = chosen.certify(ham, setting)
        reasons = (f"it is {type(chosen).__name__}", *certificate.reasons)
        return Certificate(True, None, reasons)

    def prepare(self, ham: HAM, setting: Setting) -> Method[Any]:
        setting = _of_batch(setting)
        max_dt, curved = relative_smoothness(ham, setting)
        explicit, exact = clear(curved), clear(blocks(ham, setting) + convexity(ham, setting))
        # Any dt will do where no energy curves: one as long as the fastest layer asks for.
        finite = settled(max_dt < float("inf"))
        dt = either(explicit, either(finite, max_dt, least(list(setting.tau.values()))), 1.0)
        choices: list[tuple[Truth, Method[Any]]] = []
        for holds, method in ((explicit, Explicit(dt)), (exact, GaussSeidel())):
            if holds is not False:
                choices.append((holds, method))
            if holds is True:
                break
        else:
            choices.append((True, Backtracking()))
        methods = tuple(method for _, method in choices)
        if len(methods) == 1:
            return methods[0]
        conditions = tuple(jnp.asarray(holds) for holds, _ in choices[:-1])
        undecided: Certified = eqx.tree_at(
            lambda method: (method.methods, method.conditions),
            self,
            (methods, conditions),
            is_leaf=lambda node: node == (),
        )
        return undecided

    def init(self, problem: Problem, xs: dict[str, Array]) -> tuple[Any, ...]:
        return tuple(method.init(problem, xs) for method in self.methods)

    def step(self, problem: Problem, xs: dict[str, Array], state: tuple[Any, ...]) -> Step[tuple[Any, ...]]:
        def by(i: int) -> Step[tuple[Any, ...]]:
            after = self.methods[i].step(problem, xs, state[i])
            states = (*state[:i], after.state, *state[i + 1 :])
            point = problem.evaluate(after.xs) if after.point is None else after.point
            return Step(point.xs, states, jnp.asarray(after.accepted), jnp.asarray(after.stuck), point)

        def by_first_from(i: int) -> Step[tuple[Any, ...]]:
            if i == len(self.conditions):
                return by(i)
            step: Step[tuple[Any, ...]] = jax.lax.cond(
                self.conditions[i], functools.partial(by, i), functools.partial(by_first_from, i + 1)
            )
            return step

        return by_first_from(0)


def _of_batch(setting: Setting) -> Setting:
    """Returns the setting with the masks of a batch taken as one.

    A layer counts as whole, and as not split, if it is so in every example. Then a choice by masks stays a branch of
    the program. With a batch axis, every method would run for every example.
    """
    whole = {name: truth if isinstance(truth, bool) else _for_all(truth) for name, truth in setting.whole.items()}
    split = {name: truth if isinstance(truth, bool) else ~_for_all(~truth) for name, truth in setting.split.items()}
    return setting._replace(whole=whole, split=split)


@jax.custom_batching.custom_vmap
def _for_all(truth: Bool[Array, ""]) -> Bool[Array, ""]:
    """Returns whether it holds for all examples of a batch."""
    return truth


@_for_all.def_vmap
def _(size: int, batched: list[bool], truth: Bool[Array, " size"]) -> tuple[Bool[Array, ""], bool]:
    return _for_all(jnp.all(truth, axis=0)), False
