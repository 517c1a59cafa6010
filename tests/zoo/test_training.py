"""The training loop through its public functions: what learns, what stays, what is refused."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from hamux_zoo import DenseHopfield, DenseHopfieldConfig, finetune, load_samples, train
from hamux_zoo._data import Images
from hamux_zoo._evaluation import evaluate
from hamux_zoo._log import Log
from hamux_zoo._recipe import _OPTIMIZERS, Recipe
from hamux_zoo._tasks import loss_of

CONFIG = DenseHopfieldConfig(memories=8, classes=10, energy="polynomial", beta=2.0)


@pytest.fixture(scope="module", autouse=True)
def in_float32():
    """As it is in use; mathematics is tested in float64 elsewhere."""
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope="module")
def digits():
    return load_samples("mnist")


@pytest.fixture(scope="module")
def model():
    return DenseHopfield(CONFIG, key=jr.key(1))


def pull(model, batch, *, key):
    """Memories drawn to the mean image: compiled in a moment."""
    error = jnp.mean(jnp.square(model.memories - jnp.mean(batch.images, axis=0)[None]))
    return error, {"brightness": jnp.mean(batch.images)}


def quick(model, data, **options):
    return finetune(
        model, data, **{"task": pull, "steps": 6, "batch_size": 16, "quiet": True, "validation": 0, **options}
    )


def changed(before, after):
    """The parameters that are not the same to the bit."""
    old, new = (
        {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(m)}
        for m in (before, after)
    )
    return {name for name in old if not np.array_equal(old[name], new[name])}


@pytest.mark.slow
def test_the_tasks_of_a_memory_are_learned_and_one_seed_gives_one_model(digits, tmp_path):
    options = {
        "config": {"memories": 50, "energy": "polynomial", "beta": 2.0},
        "task": {"classify": 1.0, "reconstruct": 10.0, "denoise": 10.0},
        "steps": 30,
        "batch_size": 60,
        "every": 15,
        "validation": 0.2,
        "quiet": True,
    }
    model = train(DenseHopfield, digits, **options, workdir=tmp_path / "run")
    first, *_, last = Log(tmp_path / "run/log.jsonl").lines()
    for name in ("loss", "reconstruction_mse", "denoising_mse"):
        assert last[name] < first[name]
    assert last["validation_accuracy"] > 0.7
    assert evaluate(model, digits)["test_error"] < 20
    best = DenseHopfield.from_pretrained(tmp_path / "run/best")
    assert best.config == model.config == dataclasses.replace(CONFIG, memories=50)
    assert eqx.tree_equal(DenseHopfield.from_pretrained(tmp_path / "run/model"), model)
    assert eqx.tree_equal(train(DenseHopfield, digits, **options), model)
    for picture in ("curves.png", "samples.png"):
        assert (tmp_path / "run" / picture).stat().st_size > 5000


@pytest.mark.parametrize("energy", ["exponential", "log-sum-exp"])
def test_every_energy_of_fixed_steps_is_trained(digits, energy):
    config = {"memories": 8, "energy": energy}
    task = {"classify": 1.0, "reconstruct": 10.0}
    trained = train(DenseHopfield, digits, config=config, task=task, steps=2, batch_size=4, validation=0, quiet=True)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained))


def test_only_what_is_selected_is_trained_and_takes_optimiser_memory(model, digits):
    everything = set(changed(model, jax.tree.map(lambda leaf: leaf + 1, model)))
    memories, labels = (f".ham.synapses['memory'].xi[{i}]" for i in (0, 1))
    assert {memories, labels} < everything

    def of_both(model, batch, *, key):
        loss, metrics = pull(model, batch, key=key)
        return loss + sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(model)), metrics

    def trained(trainable):
        return changed(model, quick(model, digits, task=of_both, trainable=trainable))

    assert trained("all") == everything
    assert trained("head") == trained(lambda model: model.ham.synapses["memory"].xi[1]) == {labels}
    assert trained("ham.synapses") == {memories, labels}
    for trainable, sizes in (("head", [80, 80]), ("all", 2 * [leaf.size for leaf in jax.tree.leaves(model)])):
        weights, _ = a_recipe(trainable=trainable).part(model)
        state = a_recipe(optimizer="adamw", learning_rate=None, trainable=trainable).transformation().init(weights)
        assert sorted(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim) == sorted(n for n in sizes if n > 1)


@pytest.mark.slow
def test_an_augmentation_may_be_for_one_task(model, digits):
    task = {"classify": 1.0, "reconstruct": 1.0}
    batch = digits.take(slice(16))
    plain, moved, both = (
        loss_of(task, model, names)(model, batch, key=jr.key(0)) for names in ((), ("classify:crop",), ("crop",))
    )
    assert plain[1]["reconstruction_mse"] == moved[1]["reconstruction_mse"] != both[1]["reconstruction_mse"]
    assert plain[0] != moved[0] != both[0]


def a_recipe(**fields):
    usual = {field.name: None for field in dataclasses.fields(Recipe)} | {
        "task": "classify",
        "steps": 10,
        "batch_size": 4,
        "optimizer": "adamw",
        "warmup": 1,
        "weight_decay": 0.0,
        "accumulate": 1,
        "precision": "float32",
        "trainable": "all",
        "augment": (),
        "validation": 0.0,
        "every": 1,
        "seed": 0,
        "overfit_one_batch": False,
    }
    return Recipe(**{**usual, **fields})


def test_the_head_is_made_for_the_datas_classes_and_the_user_is_told(model, digits, capsys):
    three = Images(digits.images[:60], digits.labels[:60] % 3)
    smaller = finetune(model, three, steps=2, batch_size=8, validation=0)
    assert smaller.config.classes == 3
    assert smaller.classify(digits.images[0]).shape == (3,)
    assert "the head is replaced: it was for 10 classes, the data have 3" in capsys.readouterr().out
    unlabelled = dataclasses.replace(CONFIG, classes=0)
    assert finetune(DenseHopfield(unlabelled, key=jr.key(0)), three, steps=1, quiet=True).config.classes == 3


def test_a_batch_in_pieces_an_average_and_a_limit_on_the_gradient(model, digits):
    sgd = {"optimizer": optax.sgd(1.0)}
    whole = quick(model, digits, **sgd)
    pieces = quick(model, digits, accumulate=4, **sgd)
    # The pull of a piece is towards its own mean: quadratic in it, so gradients average exactly.
    np.testing.assert_allclose(pieces.memories, whole.memories, rtol=1e-6)
    one = quick(model, digits, steps=1, **sgd)
    ten = quick(model, digits, steps=1, ema=0.9, **sgd)
    # The first average keeps a tenth of the first weights.
    np.testing.assert_allclose(ten.memories, 0.1 * model.memories + 0.9 * one.memories, atol=1e-6)
    clipped = quick(model, digits, steps=1, clip=1e-3, **sgd)
    moved = [np.asarray(a - b) for a, b in zip(jax.tree.leaves(clipped), jax.tree.leaves(model), strict=True)]
    assert np.sqrt(sum(np.sum(np.square(part)) for part in moved)) == pytest.approx(1e-3, rel=1e-3)


def test_the_rate_warms_up_and_falls_along_a_cosine(model, digits):

    def slope(model, batch, *, key):
        return jnp.sum(model.memories), {}

    # Rates 0, 0.05, 0.1 by momenta of 1, 1 + 0.9, 1 + 0.9 · 1.9.
    # Memories are (ξ + 1)/2: the slope by ξ is ½, and so is what they move when ξ moves by 1.
    options = {"task": slope, "optimizer": "sgd", "learning_rate": 0.1, "warmup": 2}
    at = [quick(model, digits, steps=steps, **options).memories.mean() - model.memories.mean() for steps in (1, 3)]
    assert at[0] == 0
    assert at[1] == pytest.approx(-0.25 * (0.05 * 1.9 + 0.1 * 2.71), rel=1e-4)


@pytest.mark.slow
def test_bfloat16_computes_in_halves_and_keeps_floats(model, digits, tmp_path):
    seen = []

    def spy(model, batch, *, key):
        seen.append((model.memories.dtype, batch.images.dtype, batch.labels.dtype))
        return pull(model, batch, key=key)

    trained = quick(model, digits, task=spy, precision="bf16")
    assert seen[0] == (jnp.bfloat16, jnp.bfloat16, jnp.int32)
    assert trained.memories.dtype == jnp.float32
    task = {"classify": 1.0, "reconstruct": 10.0}
    options = {"task": task, "steps": 4, "batch_size": 50}
    quick(model, digits, **options, workdir=tmp_path / "float32")
    quick(model, digits, **options, precision="bf16", workdir=tmp_path / "bf16")
    full, half = (Log(tmp_path / name / "log.jsonl").lines()[-1] for name in ("float32", "bf16"))
    assert half["loss"] == pytest.approx(full["loss"], rel=0.02)
    assert half["loss"] != full["loss"]


def test_overfitting_one_batch(model, digits, tmp_path):
    quick(model, digits, task="classify", overfit_one_batch=True, steps=30, augment=["crop"], workdir=tmp_path / "run")
    lines = Log(tmp_path / "run/log.jsonl").lines()
    assert lines[-1]["loss"] < 0.1 * lines[0]["loss"]
    assert lines[-1]["accuracy"] == 1
    assert "validation_loss" not in lines[-1]


def test_one_batch_to_overfit_has_several_classes_where_the_data_are_sorted_by_class(model, digits, tmp_path):
    order = np.argsort(digits.labels)

    def spread(model, batch, *, key):
        return model.beta, {"spread": jnp.std(batch.labels.astype(jnp.float32))}

    options = {"task": spread, "overfit_one_batch": True, "batch_size": 400, "every": 1, "workdir": tmp_path / "run"}
    quick(model, digits._replace(images=digits.images[order], labels=digits.labels[order]), **options)
    spreads = {line["spread"] for line in Log(tmp_path / "run/log.jsonl").lines()}
    assert len(spreads) == 1
    assert spreads.pop() > 1


def test_what_cannot_learn_is_said(model, digits, capsys):
    far = DenseHopfield(dataclasses.replace(CONFIG, energy="epanechnikov"), key=jr.key(0))
    with pytest.raises(ValueError, match="epanechnikov energy has no step size"):
        quick(far, digits, task="reconstruct")
    quick(model, digits, task=lambda model, batch, *, key: (jnp.float32(1), {}), quiet=False)
    assert "the gradient is 0: these images teach the trained parameters nothing" in capsys.readouterr().out


def test_a_memory_of_images_alone_gets_no_label_neurons(digits):
    trained = train(
        DenseHopfield, digits, config={"memories": 4}, task="reconstruct", steps=1, batch_size=4, quiet=True
    )
    assert trained.config.classes == 0


def test_a_memory_in_halves_is_trained_too(model, digits, tmp_path):
    halves = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model)
    trained = quick(halves, digits, workdir=tmp_path / "run")
    assert trained.memories.dtype == jnp.float32


def test_a_loss_that_is_not_finite_stops_the_run(model, digits, tmp_path):
    def diverges(model, batch, *, key):
        """Every step makes the memories a million times larger, until they are beyond float32."""
        return -jnp.sum(model.memories**2) * 1e6, {}

    with pytest.raises(FloatingPointError) as error:
        quick(model, digits, task=diverges, steps=12, every=2, optimizer=optax.sgd(1.0), workdir=tmp_path / "run")
    step = int(str(error.value).split(":")[0].removeprefix("step "))
    assert 3 < step < 12
    kept = max(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir())
    assert step - 3 < kept < step
    assert f"the last good checkpoint is that of step {kept}" in str(error.value)
    assert f"the best model is {tmp_path / 'run/best'}" in str(error.value)
    assert "try, in a new folder, clip=1.0" in str(error.value)
    with pytest.raises(FloatingPointError, match=r"step 1: .*no checkpoint yet.*a learning rate below 0.5"):
        quick(model, digits, task=lambda m, b, *, key: (jnp.nan * m.beta, {}), optimizer="adamw", learning_rate=0.5)


@pytest.mark.slow
def test_a_folder_belongs_to_one_run(model, digits, tmp_path):
    folder = tmp_path / "run"
    first = quick(model, digits, workdir=folder)
    again = quick(model, digits, workdir=folder)  # finished: nothing is left to do
    assert eqx.tree_equal(first, again)
    with pytest.raises(ValueError, match=r"holds another run \(.*steps was 6 and is 7.*overwrite"):
        quick(model, digits, workdir=folder, steps=7)
    with pytest.raises(ValueError, match=r"another run \(checksum was"):
        quick(model, digits._replace(images=digits.images[::-1].copy()), workdir=folder)
    with pytest.raises(ValueError, match="holds a run; take another folder"):
        quick(model, digits, workdir=folder, resume=False)
    quick(model, digits, workdir=folder, steps=2, overwrite=True)
    assert json.loads((folder / "run.json").read_text())["steps"] == 2
    assert Log(folder / "log.jsonl").lines()[-1]["step"] == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("do not delete")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        quick(model, digits, workdir=tmp_path / "mine")
    quick(model, digits, workdir=tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine/thesis.txt").exists()


def test_too_little_space_is_said_before_the_first_step(model, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"checkpoints take 0.2 MB, 0.0 MB are free; make room.*run'$"):
        quick(model, digits, workdir=tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "segment"}, 'unknown task "segment"; there are'),
        ({"task": {"classify": 0.0}}, "weight 0.0; expected a number > 0"),
        ({"steps": 0}, "steps is 0; it is a whole number of at least 1"),
        ({"batch_size": 6, "accumulate": 4}, "does not part into 4 equal pieces"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; it is greater than 0"),
        ({"optimizer": "lion"}, 'unknown optimizer "lion"; there are'),
        ({"optimizer": optax.sgd(0.1), "learning_rate": 0.1}, "brings its own"),
        ({"ema": 1.5}, "ema is 1.5; it is greater than 0 and less than 1"),
        ({"validation": 1.0}, "validation is 1.0"),
        ({"validation": 0.001}, "cannot be parted into 0.001 held out"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"augment": ["mixup"]}, r"unknown augmentations \['mixup'\]; there are"),
        ({"trainable": "ham.neuron"}, r"trainable='ham.neuron' selects none of the parameters \['ham"),
        ({"trainable": lambda model: model.memories}, "selects none of the parameters"),
        ({"log": "wandb"}, 'unknown log "wandb"; there are'),
        ({"optimizer": optax.sgd(0.1), "weight_decay": 0.1}, "weight_decay is 0.1, .* brings its own"),
        ({"augment": ["reconstruct:flip"], "task": "classify"}, r"unknown augmentations \['reconstruct:flip'\]"),
        ({"task": lambda model, batch, *, key: jnp.sum(model.memories)}, r"gave a .*; expected \(loss, metrics"),
        ({"task": lambda model, batch, *, key: (model.memories, {})}, r"\['loss'\] .* expected scalars"),
        ({"task": lambda model, batch, *, key: (model.beta, {"step": 1.0})}, r"metrics \['step'\] need other names"),
    ],
)
def test_what_does_not_fit_is_refused(model, digits, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        quick(model, digits, workdir=tmp_path / "run", **options)


def test_data_that_cannot_be_classified_are_refused(model, digits):
    for labels, message in (
        (None, "have no labels to classify by"),
        (np.zeros(300, int), "all images are of one class"),
    ):
        with pytest.raises(ValueError, match=message):
            quick(model, Images(digits.images, labels), task="classify")
    with pytest.raises(TypeError, match="stepz"):
        finetune(model, digits, stepz=3)
    with pytest.raises(ValueError, match="unknown config keys"):
        train(DenseHopfield, digits, config={"memory": 3})


@pytest.mark.parametrize("log", ["tensorboard", "trackio"])
def test_trackers_get_the_numbers(model, digits, tmp_path, log, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    quick(model, digits, workdir=tmp_path / "run", log=log)
    folder = {"tensorboard": tmp_path / "run/tensorboard", "trackio": tmp_path / "trackio"}[log]
    written = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    assert b"brightness" in written


def test_muon_takes_an_attentions_weights_as_one_matrix():
    gradient = jr.normal(jr.key(0), (2, 3, 10))
    muon = _OPTIMIZERS["muon"][0](lambda step: 0.1, 0.0)

    def update(gradient):
        with jax.numpy_dtype_promotion("standard"):
            return muon.update({"W": gradient}, muon.init({"W": gradient}), {"W": gradient})[0]["W"]

    whole = update(gradient.reshape(6, 10))
    np.testing.assert_allclose(update(gradient).reshape(6, 10), whole, rtol=1e-5)
    lengths = np.linalg.svd(whole, compute_uv=False)
    assert lengths.max() < 1.6 * lengths.min()
