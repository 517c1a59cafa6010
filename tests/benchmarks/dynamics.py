"""Methods of descent on the bundled `dense-hopfield-mnist`, and the memory that gradients through a retrieval take.

- Evaluations of ∂E/∂g, counted by the synapse itself, until the residual is 1e-5, from digits whose lower half is
  covered: the median over digits, and the energy that is reached. Goal: the best method needs at most a fifth of those
  of the explicit step with dt = 0.1.
- Temporary memory of the compiled gradient through 12, 100 and 1,000 steps, for 64 digits. Goal: flat for the implicit
  one; at 100 steps unrolled, less than a quarter of a plain `lax.scan`'s.
- A batch in which one example is slow, beside its examples one by one.
"""

from collections.abc import Callable
from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _measure import record

import hamux
from hamux_zoo import from_pretrained, load_samples

DIGITS, TOL, MAX_STEPS = 20, 1e-5, 5000
METHODS = {
    "Explicit(0.1)": hamux.Explicit(0.1),
    "Explicit(0.5)": hamux.Explicit(0.5),
    "Explicit(1.0)": hamux.Explicit(1.0),
    "Backtracking()": hamux.Backtracking(),
    "Momentum(0.1, 0.9)": hamux.Momentum(0.1, 0.9),
    "Momentum(1.0, 0.5)": hamux.Momentum(1.0, 0.5),
    "Anderson()": hamux.Anderson(),
    "ODE(diffrax.Tsit5())": hamux.ODE(diffrax.Tsit5()),
}

model = from_pretrained("dense-hopfield-mnist")
digits, _ = load_samples("mnist")
known = np.broadcast_to((np.arange(28) < 14).reshape(-1, 1, 1), (28, 28, 1))
clamp = {"pixels": known.ravel()}
starts = jax.vmap(lambda digit: model.start(digit, known)[0])(np.where(known, digits, 0.5).astype(np.float32))


class Tally:
    count = 0

    def add(self) -> None:
        self.count += 1


class Counted(eqx.Module):
    """A synapse that counts its evaluations while the program runs."""

    synapse: Callable
    tally: Tally = eqx.field(static=True)
    curvature: float = eqx.field(static=True, default=1.0)

    def __call__(self, *gs):
        jax.debug.callback(self.tally.add)
        return self.synapse(*gs)


def evaluations() -> dict[str, dict[str, float]]:
    tally = Tally()
    counted = Counted(model.ham.ready().synapses["memory"], tally)
    ham = eqx.tree_at(lambda ham: ham.synapses["memory"], model.ham, counted)
    figures = {}
    for name, method in METHODS.items():
        counts, outs = [], []
        for i in range(DIGITS):
            before = tally.count
            xs = {layer: x[i] for layer, x in starts.items()}
            outs.append(hamux.relax(ham, xs, method=method, clamp=clamp, tol=TOL, max_steps=MAX_STEPS))
            jax.effects_barrier()
            counts.append(tally.count - before)
        figures[name] = {
            "evaluations": float(np.median(counts)),
            "converged": float(np.mean([out.converged for out in outs])),
            "energy": float(np.mean([out.energies[-1] for out in outs])),
            "largest rise": max(float(np.max(np.diff(out.energies))) for out in outs),
        }
    return figures


def scanned(ham: hamux.HAM, xs, steps: int):
    def step(xs, _):
        moved = {name: x - 0.1 * dx for (name, x), dx in zip(xs.items(), gradient(xs).values(), strict=True)}
        return moved | {"pixels": jnp.where(clamp["pixels"], xs["pixels"], moved["pixels"])}, None

    def gradient(xs):
        return ham.dEdg(ham.activations(xs), xs)

    return jax.lax.scan(step, xs, length=steps)[0]


def gradient_megabytes() -> dict[str, dict[int, float]]:
    descend = partial(hamux.descend, dt=0.1, clamp=clamp)
    retrievals = {
        "plain lax.scan": lambda ham, xs, steps: jax.vmap(lambda xs: scanned(ham.unvectorize(), xs, steps))(xs),
        "Unrolled()": lambda ham, xs, steps: descend(ham, xs, steps=steps).xs,
        "Truncated(4)": lambda ham, xs, steps: descend(ham, xs, steps=steps, adjoint=hamux.Truncated(4)).xs,
        "Implicit()": lambda ham, xs, steps: hamux.relax(ham, xs, max_steps=steps, clamp=clamp).xs,
    }
    xs = {name: x[:64] for name, x in starts.items()}
    figures: dict[str, dict[int, float]] = {name: {} for name in retrievals}
    for name, retrieve in retrievals.items():
        for steps in (12, 100, 1000):

            def loss(ham, xs, retrieve=retrieve, steps=steps):
                gs = ham.vectorize().activations(retrieve(ham.vectorize(), xs, steps))
                return jnp.sum(gs["pixels"] ** 2)

            compiled = jax.jit(jax.grad(loss)).lower(model.ham, xs).compile()
            figures[name][steps] = compiled.memory_analysis().temp_size_in_bytes / 1e6
    return figures


def slow_example() -> dict[str, float]:
    """The largest difference, of activations and of steps, between a batch and its examples one by one."""
    xs = {name: x[:DIGITS] for name, x in starts.items()}
    together = hamux.relax(model.ham.vectorize(), xs, clamp=clamp, tol=TOL, max_steps=MAX_STEPS)
    alone = [
        hamux.relax(model.ham, {name: x[i] for name, x in xs.items()}, clamp=clamp, tol=TOL, max_steps=MAX_STEPS)
        for i in range(DIGITS)
    ]
    gs = model.ham.vectorize().activations(together.xs)
    gaps = [np.max(np.abs(model.ham.activations(out.xs)["pixels"] - gs["pixels"][i])) for i, out in enumerate(alone)]
    return {
        "fewest steps": int(np.min(together.steps)),
        "most steps": int(np.max(together.steps)),
        "largest difference of steps": max(abs(int(out.steps) - int(together.steps[i])) for i, out in enumerate(alone)),
        "largest difference of activations": float(max(gaps)),
    }


def main() -> None:
    counted = evaluations()
    explicit = counted["Explicit(0.1)"]["evaluations"]
    for name, figures in counted.items():
        times = explicit / figures["evaluations"]
        print(
            f"{name:25} {figures['evaluations']:6.0f} evaluations, {times:5.1f} times fewer; "
            f"{100 * figures['converged']:3.0f} % converged, E {figures['energy']:9.3f}, "
            f"largest rise {figures['largest rise']:.1e}"
        )
    megabytes = gradient_megabytes()
    for name, by_steps in megabytes.items():
        print(f"{name:15}", ", ".join(f"{steps:4} steps {size:7.1f} MB" for steps, size in by_steps.items()))
    batch = slow_example()
    print(batch)
    record("dynamics", {"evaluations": counted, "megabytes": megabytes, "batch": batch})


if __name__ == "__main__":
    main()
