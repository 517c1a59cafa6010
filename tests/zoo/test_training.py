"""The training loop through its public functions: what learns, what stays, what is refused."""

import dataclasses
import json

import datasets
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from PIL import Image

import hamux
from hamux_zoo import (
    Config,
    DenseHopfield,
    DenseHopfieldConfig,
    Dynamics,
    Generator,
    Memory,
    Recipe,
    Rehearsal,
    evaluate,
    finetune,
    load_samples,
    train,
)
from hamux_zoo.data import Images, Source
from hamux_zoo.training._log import Log
from hamux_zoo.training._recipe import OPTIMIZERS
from hamux_zoo.training._steps import part
from hamux_zoo.training._tasks import classify, loss_of, reconstruct

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
    error = jnp.mean(jnp.square(model.memories() - jnp.mean(batch.images, axis=0)[None]))
    return error, {"brightness": jnp.mean(batch.images)}


def quick(model, data, *, workdir=None, resume=True, overwrite=False, log=None, draw=None, quiet=True, **recipe):
    made = Recipe(**{"task": pull, "probe": False, "steps": 6, "batch_size": 16, "validation": 0, **recipe})
    return finetune(
        model, data, made, workdir=workdir, resume=resume, overwrite=overwrite, log=log, draw=draw, quiet=quiet
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
    config = {"memories": 50, "energy": "polynomial", "beta": 2.0}
    task = {"classify": 1.0, "reconstruct": 10.0, "denoise": 10.0}
    recipe = Recipe(task=task, steps=30, batch_size=60, every=15, validation=0.2)
    drawn = []
    draw = lambda *given: drawn.append(given)  # noqa: E731
    model = train(DenseHopfield, digits, recipe, config=config, workdir=tmp_path / "run", draw=draw, quiet=True)
    first, *_, last = Log(tmp_path / "run/log.jsonl").lines()
    for name in ("loss", "reconstruction_mse", "denoising_mse"):
        assert last[name] < first[name]
    assert last["validation_accuracy"] > 0.7
    assert evaluate(model, digits)["test_error"] < 20
    best = DenseHopfield.from_pretrained(tmp_path / "run/best")
    assert best.config == dataclasses.replace(model.config, unfamiliar=None) == dataclasses.replace(CONFIG, memories=50)
    assert eqx.tree_equal(DenseHopfield.from_pretrained(tmp_path / "run/model"), model)
    again = train(DenseHopfield, digits, recipe, config=config, quiet=True)
    assert eqx.tree_equal(jax.tree.leaves(again), jax.tree.leaves(model))
    assert [(folder, lines[-1]["step"]) for folder, lines, _, _ in drawn] == [
        (tmp_path / "run", step) for step in (15, 30)
    ]
    _, _, rows, titles = drawn[-1]
    assert rows.keys() == {
        "image",
        *(f"{task}: {row}" for task in ("reconstruct", "denoise") for row in ("given", "recalled")),
    }
    assert {row.shape for row in rows.values()} == {(8, 28, 28, 1)}
    assert len(titles) == 8


@pytest.mark.parametrize("energy", ["exponential", "log-sum-exp", "epanechnikov"])
def test_every_energy_is_trained(digits, energy):
    config = {"memories": 8, "energy": energy}
    task = {"classify": 1.0, "reconstruct": 10.0}
    recipe = Recipe(task=task, steps=2, batch_size=4, validation=0)
    trained = train(DenseHopfield, digits, recipe, config=config, quiet=True)
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
        recipe = Recipe(optimizer="adamw", trainable=trainable).for_model(model, 300)
        state = recipe.transformation().init(part(model, recipe).weights)
        assert sorted(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim) == sorted(n for n in sizes if n > 1)


@pytest.mark.slow
def test_an_augmentation_may_be_for_one_task(model, digits):
    task = {"classify": 1.0, "reconstruct": 1.0}
    batch = digits.take(slice(16))
    plain, moved, both = (
        loss_of(task, names)(model, batch, key=jr.key(0)) for names in ((), ("classify:crop",), ("crop",))
    )
    assert plain[1]["reconstruction_mse"] == moved[1]["reconstruction_mse"] != both[1]["reconstruction_mse"]
    assert plain[0] != moved[0] != both[0]


def test_the_head_is_made_for_the_datas_classes_and_the_user_is_told(model, digits, capsys):
    three = Images(digits.images[:60], digits.labels[:60] % 3)
    smaller = finetune(model, three, Recipe(probe=False, steps=2, batch_size=8, validation=0))
    assert smaller.config.classes == 3
    assert smaller.classify(digits.images[0]).shape == (3,)
    assert "the head is replaced: it was for 10 classes, the data have 3" in capsys.readouterr().out
    one = Recipe(probe=False, steps=1)
    sparse = finetune(model, three._replace(labels=100 * three.labels + 100), one, quiet=True)
    assert sparse.config.class_names == ("100", "200", "300")
    unlabelled = dataclasses.replace(CONFIG, classes=0)
    first = finetune(DenseHopfield(unlabelled, key=jr.key(0)), three, one, quiet=True)
    assert first.config.classes == 3


def test_a_training_takes_its_classes_from_where_it_is_told(digits, tmp_path):
    for i, image in enumerate(np.asarray(255 * digits.images[:8], np.uint8)):
        place = tmp_path / f"{i // 4}" / f"kind {i % 2}" / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(place)
    recipe = Recipe(steps=1, batch_size=4, validation=0)
    config = {"memories": 4, "energy": "polynomial"}
    trained = train(DenseHopfield, tmp_path, recipe, config=config, class_folder=-1, quiet=True)
    assert trained.config.class_names == ("kind 0", "kind 1")
    columns = {"image": list(np.asarray(255 * digits.images[:8, ..., 0], np.uint8)), "kind": ["a", "b"] * 4}
    features = datasets.Features({"image": datasets.Image(), "kind": datasets.Value("string")})
    table = datasets.Dataset.from_dict(columns, features)
    trained = train(DenseHopfield, table, recipe, config=config, label_column="kind", quiet=True)
    assert trained.config.class_names == ("a", "b")


def test_a_batch_in_pieces_an_average_and_a_limit_on_the_gradient(model, digits):
    sgd = {"optimizer": optax.sgd(1.0)}
    whole = quick(model, digits, **sgd)
    pieces = quick(model, digits, accumulate=4, **sgd)
    # The pull of a piece is towards its own mean: quadratic in it, so gradients average exactly.
    np.testing.assert_allclose(pieces.memories(), whole.memories(), rtol=1e-6)
    one = quick(model, digits, steps=1, **sgd)
    ten = quick(model, digits, steps=1, ema=0.9, **sgd)
    # The first average keeps a tenth of the first weights.
    np.testing.assert_allclose(ten.memories(), 0.1 * model.memories() + 0.9 * one.memories(), atol=1e-6)
    clipped = quick(model, digits, steps=1, clip=1e-3, **sgd)
    moved = [np.asarray(a - b) for a, b in zip(jax.tree.leaves(clipped), jax.tree.leaves(model), strict=True)]
    assert np.sqrt(sum(np.sum(np.square(part)) for part in moved)) == pytest.approx(1e-3, rel=1e-3)


def test_the_rate_warms_up_and_falls_along_a_cosine(model, digits):

    def slope(model, batch, *, key):
        return jnp.sum(model.memories()), {}

    # Rates 0, 0.05, 0.1 by momenta of 1, 1 + 0.9, 1 + 0.9 · 1.9.
    # Memories are (ξ + 1)/2: the slope by ξ is ½, and so is what they move when ξ moves by 1.
    options = {"task": slope, "optimizer": "sgd", "learning_rate": 0.1, "warmup": 2}
    at = [quick(model, digits, steps=steps, **options).memories().mean() - model.memories().mean() for steps in (1, 3)]
    assert at[0] == 0
    assert at[1] == pytest.approx(-0.25 * (0.05 * 1.9 + 0.1 * 2.71), rel=1e-4)


@pytest.mark.slow
def test_bfloat16_computes_in_halves_and_keeps_floats(model, digits, tmp_path):
    seen = []

    def spy(model, batch, *, key):
        seen.append((model.memories().dtype, batch.images.dtype, batch.labels.dtype))
        return pull(model, batch, key=key)

    trained = quick(model, digits, task=spy, precision="bf16")
    assert seen[0] == (jnp.bfloat16, jnp.bfloat16, jnp.int32)
    assert trained.memories().dtype == jnp.float32
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
    quick(model, digits, task=lambda model, batch, *, key: (jnp.float32(1), {}), quiet=False)
    assert "the gradient is 0: the trained parameters learn nothing from these images" in capsys.readouterr().out


def test_a_memory_of_images_alone_gets_no_label_neurons(digits):
    recipe = Recipe(task="reconstruct", steps=1, batch_size=4)
    trained = train(DenseHopfield, digits, recipe, config={"memories": 4}, quiet=True)
    assert trained.config.classes == 0


def test_a_memory_in_halves_is_trained_too(model, digits, tmp_path):
    halves = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model)
    trained = quick(halves, digits, workdir=tmp_path / "run")
    assert trained.memories().dtype == jnp.float32


def test_a_loss_that_is_not_finite_stops_the_run(model, digits, tmp_path):
    def diverges(model, batch, *, key):
        """Every step makes the memories a million times larger, until they are beyond float32."""
        return -jnp.sum(model.memories() ** 2) * 1e6, {}

    with pytest.raises(FloatingPointError) as error:
        quick(model, digits, task=diverges, steps=12, every=2, optimizer=optax.sgd(1.0), workdir=tmp_path / "run")
    step = int(str(error.value).split(":")[0].removeprefix("step "))
    assert 3 < step < 12
    kept = max(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir())
    assert step - 3 < kept < step
    assert f"the last good checkpoint is that of step {kept}" in str(error.value)
    assert f"the best model is {tmp_path / 'run/best'}" in str(error.value)
    assert "try, in a new folder, `clip=1.0`" in str(error.value)
    with pytest.raises(FloatingPointError, match=r"step 1: .*no checkpoint yet.*a `learning_rate` below 0.5"):
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
    (folder / "model/notes.txt").write_text("do not delete")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/figure.png").write_text("do not delete")
    (folder / "tensorboard").symlink_to(tmp_path / "elsewhere")
    quick(model, digits, workdir=folder, overwrite=True)
    assert (folder / "model/notes.txt").exists()
    assert (tmp_path / "elsewhere/figure.png").exists()
    (folder / "run.json").unlink()
    with pytest.raises(ValueError, match="which no run has written; take another folder"):
        quick(model, digits, workdir=folder, overwrite=True)
    assert (folder / "model/config.json").exists()
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk/.DS_Store").touch()
    quick(model, digits, workdir=tmp_path / "junk")


def test_too_little_space_is_said_before_the_first_step(model, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"checkpoints take 0.2 MB, and 0.0 MB are free; free some.*run'$"):
        quick(model, digits, workdir=tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "segment"}, r"`task` has unknown names \['segment'\]; expected some of"),
        ({"task": {}}, "`task` is empty; expected some of"),
        (
            {"task": {"classify": 0.0}},
            '`task` gives "classify" the weight 0.0; expected a finite number greater than 0',
        ),
        ({"steps": 0}, "`steps` is 0; expected a whole number of at least 1"),
        ({"steps": 2.0}, "`steps` is 2.0; expected a whole number"),
        ({"steps": True}, "`steps` is True; expected a whole number"),
        ({"batch_size": None}, "`batch_size` is None; expected a whole number"),
        ({"seed": 2**32}, "`seed` is 4294967296; expected a whole number below"),
        ({"batch_size": 6, "accumulate": 4}, "`accumulate` is 4, and `batch_size` 6; expected a divisor"),
        ({"learning_rate": -1.0}, "`learning_rate` is -1.0; expected a number greater than 0"),
        ({"learning_rate": "fast"}, "`learning_rate` is 'fast'; expected a number greater than 0"),
        ({"clip": np.inf}, "`clip` is inf; expected a number greater than 0 and less than inf"),
        ({"optimizer": "lion"}, "`optimizer` is 'lion'; expected one of"),
        ({"optimizer": 3}, "`optimizer` is 3; expected one of"),
        ({"optimizer": optax.sgd(0.1), "learning_rate": 0.1}, "`learning_rate` is 0.1, .* brings its own"),
        ({"ema": 1.5}, "`ema` is 1.5; expected a number greater than 0 and less than 1"),
        ({"validation": 1.0}, "`validation` is 1.0; expected a number of at least 0 and less than 1"),
        ({"validation": 0.001}, "`validation` is 0.001, which leaves no images .*; `validation=0` holds none out"),
        ({"precision": "fp8"}, "`precision` is 'fp8'; expected float32 or bf16"),
        ({"augment": ["mixup"]}, r"`augment` has unknown names \['mixup'\]; expected some of"),
        ({"trainable": "ham.neuron"}, r"`trainable` is 'ham.neuron', which selects none of the parameters \['ham"),
        ({"trainable": lambda model: model.memories()}, "which is no parameter of the model as it is"),
        ({"trainable": lambda model: [model.ham, model.memories()]}, "which is no parameter of the model as it is"),
        ({"trainable": lambda model: None}, "selects none of the parameters"),
        ({"log": "wandb"}, "`log` is 'wandb'; expected one of"),
        ({"optimizer": optax.sgd(0.1), "weight_decay": 0.1}, "`weight_decay` is 0.1, .* brings its own"),
        ({"augment": ["reconstruct:flip"], "task": "classify"}, r"unknown names \['reconstruct:flip'\]"),
        ({"task": lambda model, batch, *, key: jnp.sum(model.memories())}, r"returned a .*; expected \(loss, metrics"),
        ({"task": lambda model, batch, *, key: (model.memories(), {})}, r"\['loss'\] .* expected scalars"),
        ({"task": lambda model, batch, *, key: (model.beta, {"step": 1.0})}, r"metrics \['step'\] need other names"),
    ],
)
def test_what_does_not_fit_is_refused(model, digits, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        quick(model, digits, workdir=tmp_path / "run", **options)


def test_data_that_cannot_be_classified_are_refused(model, digits):
    for labels, message in (
        (None, "have no labels to learn"),
        (np.zeros(300, int), "all images are of one class"),
    ):
        with pytest.raises(ValueError, match=message):
            quick(model, Images(digits.images, labels), task="classify")
    with pytest.raises(TypeError, match="stepz"):
        Recipe(stepz=3)
    with pytest.raises(ValueError, match="`recipe` is 500; expected a Recipe"):
        finetune(model, digits, 500)
    with pytest.raises(ValueError, match="`recipe` is 'classify'; expected a Recipe"):
        train(DenseHopfield, digits, "classify")
    with pytest.raises(TypeError, match=r"unexpected arguments \['wrokdir'\]; expected some of \['base_model', "):
        train(DenseHopfield, "nowhere", wrokdir="runs")
    for argument in ({"log": "trackio"}, {"draw": print}):
        with pytest.raises(ValueError, match="is for a run that has a folder; give one as `workdir`"):
            finetune(model, digits, **argument)
    wide = DenseHopfield(dataclasses.replace(CONFIG, low=-1.0), key=jr.key(0))
    with pytest.raises(ValueError, match=r"takes images in \[0, 1\], but this DenseHopfield .* \[-1, 1\]"):
        finetune(wide, digits)
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
    muon = OPTIMIZERS["muon"][0](lambda step: 0.1, 0.0)

    def update(gradient):
        with jax.numpy_dtype_promotion("standard"):
            return muon.update({"W": gradient}, muon.init({"W": gradient}), {"W": gradient})[0]["W"]

    whole = update(gradient.reshape(6, 10))
    np.testing.assert_allclose(update(gradient).reshape(6, 10), whole, rtol=1e-5)
    lengths = np.linalg.svd(whole, compute_uv=False)
    assert lengths.max() < 1.6 * lengths.min()


def in_two_places(model):
    """The model with one array as two parameters."""
    return eqx.tree_at(lambda m: m.ham.neurons["label"].lagrangian.keywords["beta"], model, model.beta)


PIXELS, LABEL = (f"ham.neurons.{layer}.lagrangian.keywords.beta" for layer in ("pixels", "label"))
XI = [f"ham.synapses.memory.xi.{i}" for i in (0, 1)]


@pytest.mark.parametrize(
    ("select", "names"),
    [
        (lambda m: m.beta, {PIXELS}),
        (lambda m: m.ham.neurons["label"], {LABEL}),
        (lambda m: [m.ham.neurons["label"], {"also": (m.ham.synapses["memory"].xi[0],)}], {LABEL, XI[0]}),
        (lambda m: [leaf for leaf in jax.tree.leaves(m) if leaf.ndim == 0], {PIXELS, LABEL}),
        (lambda m: m.head(), {XI[1]}),
        (lambda m: jax.tree.leaves(m)[-1], {XI[1]}),
        ("ham.neurons.pixels", {PIXELS}),
        (XI[1], {XI[1]}),
        ("head", {XI[1]}),
    ],
)
def test_a_selector_goes_by_place(model, select, names):
    weights = part(in_two_places(model), Recipe(trainable=select)).weights
    paths, _ = jax.tree_util.tree_flatten_with_path(weights)
    assert {jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths} == names


def test_of_one_array_in_two_places_only_the_one_that_is_selected_moves(model, digits):
    both = in_two_places(model)

    def of_both(model, batch, *, key):
        return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(model)), {}

    trained = quick(both, digits, task=of_both, trainable=lambda m: m.beta, optimizer=optax.sgd(0.1))
    assert changed(both, trained) == {".ham.neurons['pixels'].lagrangian.keywords['beta']"}


def test_a_recipe_takes_what_a_user_has_in_hand(model):
    plain = Recipe(task={"classify": 2.0}, steps=7, learning_rate=0.5, ema=0.5, augment=("flip",), every=3, seed=1)
    numbers = {"steps": np.int64(7), "every": jnp.int32(3), "seed": np.uint8(1)}
    floats = {"learning_rate": np.float32(0.5), "ema": jnp.float32(0.5), "task": {"classify": np.int32(2)}}
    assert Recipe(**numbers, **floats, augment=["flip"]) == plain
    assert Recipe(augment="flip").augment == ("flip",)
    assert json.dumps(Recipe(**numbers, **floats).settings())
    with pytest.raises(dataclasses.FrozenInstanceError):
        plain.steps = 3


def test_what_a_recipe_leaves_open_is_filled_in_by_the_model_and_the_steps(model):
    made = Recipe(steps=50).for_model(model, 300)
    assert (made.optimizer, made.learning_rate, made.warmup, made.every) == ("muon", 1.0, 5, 5)
    assert (made.augment, made.validation) == ((), 0.1)
    assert Recipe().for_model(model, 300).steps == 500
    from_a_probe = Recipe(probe=True).for_model(model, 300)
    assert (from_a_probe.optimizer, from_a_probe.learning_rate) == ("adamw", 3e-4)
    assert [Recipe(probe=True).for_model(model, count).steps for count in (9, 200, 10**6)] == [50, 113, 3000]
    assert Recipe(optimizer="sgd").for_model(model, 300).learning_rate == 0.1
    assert Recipe(learning_rate=0.3).for_model(model, 300).optimizer == "muon"
    assert Recipe(steps=9000).for_model(model, 300).warmup == 300
    one = Recipe(overfit_one_batch=True, augment=["flip"]).for_model(model, 300)
    assert (one.augment, one.validation) == ((), 0)
    assert made.for_model(model, 300) == made


def test_class_names_are_those_of_the_data_or_stay(model, digits, tmp_path):
    names = tuple("abcdefghij")
    few = Images(digits.images[:60], digits.labels[:60])
    options = {"task": "classify", "steps": 1, "batch_size": 4}
    named = quick(model, Source(few, names), **options, workdir=tmp_path / "run")
    assert named.config.class_names == names
    assert DenseHopfield.from_pretrained(tmp_path / "run/best").config.class_names == names
    assert quick(named, few, **options).config.class_names == names
    assert quick(named, few, **options | {"task": "denoise"}).config.class_names == names
    three = few._replace(labels=few.labels % 3)
    assert quick(named, three, **options).config.class_names == ()
    assert quick(named, Source(three, names[:3]), **options).config.class_names == names[:3]
    config = {"memories": 4}
    made = train(DenseHopfield, Source(few, names), Recipe(**options), config=config, quiet=True)
    assert made.config.class_names == names


def test_classes_in_another_order_are_those_that_the_head_knows(model, digits, tmp_path):
    def loss(model, batch, *, key):
        return jnp.sum(model.memories() ** 2), {"label": jnp.mean(batch.labels.astype(jnp.float32))}

    names = tuple("abcdefghij")
    zeros = Images(digits.images[:20], np.zeros(20, np.int32))
    named = model.with_config(class_names=names)
    trained = quick(named, Source(zeros, names[::-1]), task=loss, steps=1, workdir=tmp_path)
    assert trained.config.class_names == names
    assert Log(tmp_path / "log.jsonl").lines()[-1]["label"] == 9


def test_a_run_of_the_old_form_is_refused(model, digits, tmp_path):
    folder = tmp_path / "run"
    quick(model, digits, workdir=folder)
    written = json.loads((folder / "run.json").read_text())
    for version, reader in ((None, "hamux-zoo 0.6 reads it"), (99, "a newer hamux-zoo reads it")):
        old = {name: value for name, value in {**written, "format": version}.items() if value is not None}
        (folder / "run.json").write_text(json.dumps(old))
        with pytest.raises(
            ValueError, match=rf"holds a run of format {version}, expected 2 \({reader}\); .*overwrite=True"
        ):
            quick(model, digits, workdir=folder)
    quick(model, digits, workdir=folder, overwrite=True)


class Perceptron(eqx.Module):
    """A synapse with leaves that are no arrays."""

    mlp: eqx.nn.MLP

    def __call__(self, g):
        return jnp.sum(self.mlp(g.ravel()))


class Small(Memory):
    """An architecture of the tests' own that only recalls."""

    model_type = "small"
    config: Config = eqx.field(static=True)
    ham: hamux.HAM
    rehearsal: Rehearsal = eqx.field(static=True)

    def __init__(self, rehearsal, lagrangian=hamux.lagr_tanh, *, key):
        self.config, self.rehearsal = Config(shape=(2, 2, 1)), rehearsal
        neurons = {"image": hamux.Neurons(lagrangian, (2, 2, 1))}
        synapse = Perceptron(eqx.nn.MLP(4, 1, 3, 1, key=key))
        self.ham = hamux.HAM(neurons, {"mlp": synapse}, [(("image",), "mlp")])

    def start(self, x, known=None, *, label=None, key=None):
        return {"image": 5 * x}, {} if known is None else {"image": known}

    def decode(self, xs):
        return self.ham.activations(xs)["image"]

    def dynamics(self):
        return Dynamics(hamux.Explicit(0.1), steps=3, rehearsal=self.rehearsal)

    def hide(self, key):
        return jnp.arange(4).reshape(2, 2, 1) < 2


@pytest.mark.parametrize("judged", [1, 2])
def test_a_memory_with_leaves_that_are_no_arrays_is_trained(judged):
    images = jr.uniform(jr.key(0), (16, 2, 2, 1))
    small = Small(Rehearsal(warmup=2, judged=judged), key=jr.key(0))
    options = {"task": {"reconstruct": 1, "denoise": 1}, "steps": 2, "batch_size": 4, "warmup": 0}
    trained = quick(small, images, **options)
    assert isinstance(trained, Small)
    before, after = (jax.tree.leaves(eqx.filter(each, eqx.is_array)) for each in (small, trained))
    assert any(not np.array_equal(old, new) for old, new in zip(before, after, strict=True))
    with pytest.raises(ValueError, match='`task` is "classify", but Small does not classify; it learns'):
        quick(small, images, task="classify")


@pytest.mark.parametrize("judged", [1, 2])
def test_a_recall_is_judged_by_its_last_images_where_they_were_hidden(judged):
    """By hand, for an image whose recall overshoots: a clipped one would teach nothing."""
    image = jnp.ones((2, 2, 1))
    small = Small(Rehearsal(judged=judged), hamux.lagr_identity, key=jr.key(0))
    known = small.hide(None)
    path = small.recall(image, known, path=True).path.x
    shown = path[-judged:]
    assert shown[:, 1].min() > 1
    errors = [float(jnp.mean(jnp.square(each - image)[~known])) for each in shown]
    loss, metrics = reconstruct(small, Images(image[None], None), key=jr.key(0))
    assert loss == pytest.approx(np.average(errors, weights=np.arange(judged) + 1), rel=1e-5)
    assert metrics["reconstruction_mse"] == pytest.approx(errors[-1], rel=1e-5)


class Rehearsing(DenseHopfield):
    """A dense memory that learns to classify by the start and one step of a recall, and recalls by two steps."""

    def dynamics(self):
        return Dynamics(hamux.Explicit(0.5), steps=2, rehearsal=Rehearsal(classify=1, judged=2))


@pytest.fixture
def rehearsing():
    return Rehearsing(DenseHopfieldConfig(shape=(2, 2, 1), memories=5, classes=3), key=jr.key(0))


def test_classes_are_learned_by_recalls_that_hold_the_image(rehearsing):
    images, labels = jr.uniform(jr.key(0), (4, 2, 2, 1)), jnp.array([0, 1, 2, 1])
    loss, metrics = classify(rehearsing, Images(images, labels), key=jr.key(0))
    known = np.ones((2, 2, 1), bool)
    scores = jax.vmap(lambda image: rehearsing.recall(image, known, steps=1, path=True).path.scores)(images)
    by_hand = [
        -jax.nn.log_softmax(score)[label] for label, steps in zip(labels, scores, strict=True) for score in steps
    ]
    assert loss == pytest.approx(float(np.mean(by_hand)), rel=1e-5)
    assert metrics["accuracy"] == np.mean(jnp.argmax(scores[:, -1], axis=-1) == labels)


def test_images_are_generated_from_the_memory_that_is_closest_with_the_label_held(rehearsing):
    images, labels = jr.uniform(jr.key(0), (4, 2, 2, 1)), jnp.array([0, 1, 2, 1])
    loss, metrics = loss_of("generate")(rehearsing, Images(images, labels), key=jr.key(0))
    memories, errors = rehearsing.memories(), []
    for image, label in zip(images, labels, strict=True):
        nearest = memories[jnp.argmin(jnp.sum((memories - image[None]) ** 2, axis=(1, 2, 3)))]
        path = rehearsing.recall(nearest, label=label, path=True).path
        np.testing.assert_array_equal(path.xs["label"][0], path.xs["label"][-1])
        errors.append([float(jnp.mean((x - image) ** 2)) for x in path.x[1:]])
    assert metrics["generation_mse"] == pytest.approx(np.mean(errors, axis=0)[-1], rel=1e-4)
    assert loss == pytest.approx(np.average(np.mean(errors, axis=0), weights=[1, 2]), rel=1e-4)


class Made(Generator, Small):
    """An architecture that generates and does not classify."""

    model_type = "made"

    def closest(self, x):
        return x


def test_to_generate_takes_labels_and_label_neurons(rehearsing):
    labelled = jnp.ones((4, 2, 2, 1)), jnp.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match='`task` is "generate", but Small does not generate; it learns'):
        quick(Small(Rehearsal(), key=jr.key(0)), jnp.ones((4, 2, 2, 1)), task="generate")
    with pytest.raises(ValueError, match="the data have 2 classes, and this Made 0; only a Classifier gets a new head"):
        quick(Made(Rehearsal(), key=jr.key(0)), labelled, task="generate")
    with pytest.raises(ValueError, match="have no labels to learn"):
        quick(rehearsing, jnp.ones((4, 2, 2, 1)), task="generate")
