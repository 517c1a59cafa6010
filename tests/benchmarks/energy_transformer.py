"""The Energy Transformer: its descent beside its matrix products, its gradient over many tokens, a step of training.

1. 12 steps on 197 tokens of dim 768, batch 1 and 8: the model through `hamux.descend`, a loop written by hand, the
   model through the plain log-sum-exp by autograd, and the bare matrix products of those steps. Each product is timed
   alone, with its second factor as it is or transposed, whichever is faster. Goal: 94 % of the products' speed, no
   slower than the loop or autograd.
2. The gradient of the energy at 197, 785 and 3,137 tokens of dim 192: time, and the compiled program's temporary
   memory. Goal: at 3,137 tokens twice as fast as autograd in a tenth of its memory, at 197 no slower.
3. A step of training by Adam, batch 8 and 64, dim 192, 64 patches, 12 steps: the model's recall, the loop written by
   hand, and `hamux.descend` with each adjoint: time and temporary memory. Goal: no slower than the loop.

    python tests/benchmarks/energy_transformer.py
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from _measure import alternate, record

import hamux
from hamux_zoo import EnergyTransformer, EnergyTransformerConfig
from hamux_zoo.pixels import patchwork


def by_autograd(model: EnergyTransformer) -> EnergyTransformer:
    """The same model, the gradient of whose attention goes through the log-sum-exp."""
    config, ham = model.config, model.ham
    plain = hamux.AttentionSynapse(jr.key(0), config.dim, config.heads, config.head_dim, closed_form=False)
    weights = (ham.synapses["attention"].Wk, ham.synapses["attention"].Wq)
    plain = eqx.tree_at(lambda attention: (attention.Wk, attention.Wq), plain, weights)
    ham = hamux.HAM(ham.neurons, ham.synapses | {"attention": plain}, ham.connections)
    return eqx.tree_at(lambda model: model.ham, model, ham)


def by_hamux(model: EnergyTransformer, xs, adjoint):
    """The states at the end of the model's descent, by the core's loop."""
    config = model.config
    end = hamux.descend(model.ham, xs, steps=config.steps, dt=config.alpha, energies=False, adjoint=adjoint)
    return end.xs


def by_hand(model: EnergyTransformer, xs, keep_all=False):
    """The same by a loop that does nothing else; reverse mode keeps the states alone, or all of a step."""

    def step(xs, _):
        dEdg = model.ham.dEdg(model.ham.activations(xs), xs)
        return {"tokens": xs["tokens"] - model.config.alpha * dEdg["tokens"]}, None

    step = step if keep_all else jax.checkpoint(step, prevent_cse=False)
    return jax.lax.scan(step, xs, length=model.config.steps)[0]


def compiled(function, *arguments):
    """The program of a function on these arguments, to be called without any, and its temporary memory in MB."""
    program = jax.jit(function).lower(*arguments).compile()
    return lambda: jax.block_until_ready(program(*arguments)), program.memory_analysis().temp_size_in_bytes / 1e6


def products(config: EnergyTransformerConfig, batch: int) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shapes of the factors of one step's matrix products; (…, m, k) and (…, k, n)."""
    tokens, dim, heads, size = 1 + config.patches, config.dim, config.heads, config.head_dim
    rows, each = batch * tokens, batch * heads
    return {
        "keys and queries": ((rows, dim), (dim, 2 * heads * size)),
        "scores": ((each, tokens, size), (each, size, tokens)),
        "weights by keys": ((each, tokens, tokens), (each, tokens, size)),
        "weights by queries": ((each, tokens, tokens), (each, tokens, size)),
        "back to tokens": ((rows, 2 * heads * size), (2 * heads * size, dim)),
        "hidden": ((rows, dim), (dim, config.memories)),
        "memories": ((rows, config.memories), (config.memories, dim)),
    }


def descent(batch: int) -> dict:
    config = EnergyTransformerConfig(
        shape=(224, 224, 3), patch=16, dim=768, heads=12, head_dim=64, memories=3072, steps=12
    )
    model = EnergyTransformer(config, key=jr.key(0))
    tokens = jr.normal(jr.key(1), (batch, 1 + config.patches, config.dim))

    def descend(model, tokens):
        return jax.vmap(lambda x: by_hamux(model, {"tokens": x}, hamux.Unrolled(every=1)))(tokens)

    def loop(model, tokens):
        return jax.vmap(lambda x: by_hand(model, {"tokens": x}))(tokens)

    sides = {
        "model": compiled(descend, model, tokens)[0],
        "loop by hand": compiled(loop, model, tokens)[0],
        "autograd": compiled(descend, by_autograd(model), tokens)[0],
    }
    flops = 0
    for name, (left, right) in products(config, batch).items():
        factors = jr.normal(jr.key(2), left), jr.normal(jr.key(3), right)
        transposed = factors[0], factors[1].swapaxes(-1, -2)
        sides[name] = compiled(jnp.matmul, *factors)[0]
        sides[f"{name}, transposed"] = compiled(lambda a, b: a @ b.swapaxes(-1, -2), *transposed)[0]
        flops += 2 * factors[0].size * right[-1] * config.steps
    seconds = alternate(sides, rounds=15)
    bare = sum(min(seconds[name], seconds[f"{name}, transposed"]) for name in products(config, batch)) * config.steps
    share, faster = bare / seconds["model"], seconds["autograd"] / seconds["model"]
    print(
        f"12 steps, batch {batch}: {flops / 1e9:.1f} GFLOP, {1e3 * seconds['model']:.0f} ms, bare products "
        f"{1e3 * bare:.0f} ms: {share:.0%} of their speed; a loop by hand {1e3 * seconds['loop by hand']:.0f} ms; "
        f"autograd {1e3 * seconds['autograd']:.0f} ms, {faster:.2f} x"
    )
    return {"GFLOP": flops / 1e9, "share": share, "faster": faster, "bare_products": bare, "seconds": seconds}


def gradient(tokens: int) -> dict:
    def plain_and_blocks():
        for closed_form in (False, True):
            attention = hamux.AttentionSynapse(jr.key(0), 192, 4, 48, closed_form=closed_form)
            memory = hamux.HopfieldSynapse(jr.key(1), 192, 768)
            neurons = {"tokens": hamux.Neurons(hamux.lagr_layernorm, (tokens, 192), leak=0.0)}
            connections = [(("tokens",), "attention"), (("tokens",), "memory")]
            yield hamux.HAM(neurons, {"attention": attention, "memory": memory}, connections)

    xs = {"tokens": jr.normal(jr.key(2), (tokens, 192))}
    names = ("autograd", "closed form")
    programs = {
        name: compiled(lambda h, x: h.dEdg(x, x), h, xs) for name, h in zip(names, plain_and_blocks(), strict=True)
    }
    seconds = alternate({name: run for name, (run, _) in programs.items()}, rounds=10)
    megabytes = {name: memory for name, (_, memory) in programs.items()}
    faster, smaller = (side["autograd"] / side["closed form"] for side in (seconds, megabytes))
    print(
        f"gradient at {tokens:5,} tokens: {1e3 * seconds['closed form']:6.1f} ms, {megabytes['closed form']:6.1f} MB; "
        f"autograd {1e3 * seconds['autograd']:6.1f} ms, {megabytes['autograd']:6.1f} MB; {faster:.2f} x as fast, "
        f"memory / {smaller:.1f}"
    )
    return {"faster": faster, "smaller": smaller, "seconds": seconds, "megabytes": megabytes}


def training(batch: int) -> dict:
    config = EnergyTransformerConfig(dim=192, heads=4, head_dim=48, memories=768, steps=12)
    model = EnergyTransformer(config, key=jr.key(0))
    images = jr.uniform(jr.key(1), (batch, *config.shape))
    known = jnp.asarray(patchwork(config.shape, config.patch, 0.5, batch))

    adam = optax.adam(1e-3)

    def step_by(shown):
        def loss(model, images):
            return jnp.mean((jax.vmap(partial(shown, model))(images, known) - images) ** 2)

        def step(model, state, images):
            updates, state = adam.update(jax.grad(loss)(model, images), state)
            return optax.apply_updates(model, updates), state

        return step

    def by_recall(model, image, known):
        return model.decode(model.recall(image, known, energies=False).xs)

    def by_adjoint(adjoint):
        return lambda model, image, known: model.decode(by_hamux(model, model.start(image, known)[0], adjoint))

    def by_loop(keep_all):
        return lambda model, image, known: model.decode(by_hand(model, model.start(image, known)[0], keep_all))

    ways = {
        "autograd, all kept": (step_by(by_loop(True)), by_autograd(model)),
        "loop by hand, all kept": (step_by(by_loop(True)), model),
        "loop by hand": (step_by(by_loop(False)), model),
        "recall": (step_by(by_recall), model),
        "Unrolled()": (step_by(by_adjoint(hamux.Unrolled())), model),
        "Truncated(4)": (step_by(by_adjoint(hamux.Truncated(4))), model),
        "Implicit()": (step_by(by_adjoint(hamux.Implicit())), model),
    }
    programs = {name: compiled(way, model, adam.init(model), images) for name, (way, model) in ways.items()}
    seconds = alternate({name: run for name, (run, _) in programs.items()}, rounds=5)
    megabytes = {name: memory for name, (_, memory) in programs.items()}
    for name in programs:
        time = f"{1e3 * seconds[name]:6.0f} ms {seconds['loop by hand'] / seconds[name]:5.2f} x"
        print(f"training, batch {batch:2}: {name:22} {time} {megabytes[name]:6.0f} MB")
    return {"seconds": seconds, "megabytes": megabytes}


if __name__ == "__main__":
    figures = {
        "descent": {f"batch {batch}": descent(batch) for batch in (1, 8)},
        "gradient": {f"{tokens} tokens": gradient(tokens) for tokens in (197, 785, 3137)},
        "training": {f"batch {batch}": training(batch) for batch in (8, 64)},
    }
    record("energy_transformer", figures)
