"""The Energy Transformer against the paper's equations in plain numpy, and what it does with images and masks."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.tree_util import Partial
from typer.testing import CliRunner

import hamux
from hamux_zoo import EnergyTransformer, EnergyTransformerConfig, Recipe, finetune, from_pretrained, load_samples
from hamux_zoo.cli import app

SMALL = EnergyTransformerConfig(
    shape=(8, 12, 3),
    mean=(0.5, 0.4, 0.3),
    std=(0.2,),
    dim=10,
    heads=2,
    head_dim=3,
    memories=7,
    steps=4,
    alpha=0.05,
)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def make(**fields):
    return EnergyTransformer(EnergyTransformerConfig(**{**vars(SMALL), **fields}), key=jr.key(0))


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture
def image():
    return np.random.default_rng(0).uniform(size=SMALL.shape)


@pytest.fixture
def mask():
    """Of patches, True where one is hidden."""
    return np.array([True, False, False, True, False, True])


def unknown(mask, config=SMALL):
    """The pixels of hidden patches."""
    (rows, columns), side = config.grid, config.patch
    pixels = mask.reshape(rows, columns).repeat(side, axis=0).repeat(side, axis=1)[..., None]
    return np.broadcast_to(pixels, config.shape)


def shown(model, image, mask):
    """What is decoded after the last step, of known patches too."""
    return model.decode(model.recall(image, ~unknown(mask, model.config), energies=False).xs)


def archive(heads=2, head_dim=3, dim=10, memories=7, patch=2, side=3, **changed):
    """Random arrays under the keys of the authors' checkpoint; `changed` ones replace others, None takes one away."""
    generator = np.random.default_rng(0)
    pixels = 3 * patch**2
    shapes = {
        "Wk": (heads, head_dim, dim),
        "Wq": (heads, head_dim, dim),
        "Xi": (dim, memories),
        "Wenc": (pixels, dim),
        "Benc": (dim,),
        "Wdec": (dim, pixels),
        "Bdec": (pixels,),
        "LNORM_gamma": (),
        "LNORM_bias": (dim,),
        "CLS_token": (dim,),
        "MASK_token": (dim,),
        "POS_embed": (1 + side**2, dim),
    }
    arrays = {key: np.asarray(generator.normal(size=shape), np.float32) for key, shape in shapes.items()}
    return {key: array for key, array in (arrays | changed).items() if array is not None}


def papers_reconstruction(arrays, image, mask, steps=12, alpha=0.1):
    """Hoover et al., 2023, in float64: normalise, encode, mask, descend, layer norm once, decode."""
    a = {key: np.asarray(array, np.float64) for key, array in arrays.items()}
    head_dim, side = a["Wk"].shape[1], int(np.sqrt(len(a["POS_embed"]) - 1))
    patch = image.shape[0] // side
    channels_first = ((image - MEAN) / STD).transpose(2, 0, 1)
    patches = channels_first.reshape(3, side, patch, side, patch).transpose(1, 3, 0, 2, 4).reshape(side**2, -1)
    tokens = patches @ a["Wenc"] + a["Benc"]
    tokens[mask] = a["MASK_token"]
    x = np.concatenate([a["CLS_token"][None], tokens]) + a["POS_embed"]

    def layer_norm(x):
        centred = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        return a["LNORM_gamma"] * centred / deviation + a["LNORM_bias"]

    for _ in range(steps):
        g = layer_norm(x)
        force = np.maximum(g @ a["Xi"], 0) @ a["Xi"].T
        for Wk, Wq in zip(a["Wk"], a["Wq"], strict=True):
            K, Q = g @ Wk.T, g @ Wq.T
            scores = Q @ K.T / np.sqrt(head_dim)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            force += weights @ K @ Wq + weights.T @ Q @ Wk
        x = x + alpha * force
    shown = (layer_norm(x)[1:] @ a["Wdec"] + a["Bdec"]).reshape(side, side, 3, patch, patch)
    return shown.transpose(0, 3, 1, 4, 2).reshape(image.shape) * STD + MEAN


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"heads": 1, "head_dim": 1, "dim": 2, "memories": 1, "patch": 1, "side": 1},
        {"dim": 24, "patch": 4, "side": 5},
    ],
)
def test_a_published_checkpoint_gives_the_papers_numbers(tmp_path, sizes):
    arrays = archive(**sizes)
    np.savez(tmp_path / "published.npz", **arrays)
    done = CliRunner().invoke(app, ["import", "et-imagenet", f"{tmp_path}/published.npz", "--out", f"{tmp_path}/model"])
    assert done.exit_code == 0, done.output
    loaded = from_pretrained(tmp_path / "model")
    assert isinstance(loaded, EnergyTransformer)
    model = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), loaded)
    generator = np.random.default_rng(1)
    image = generator.uniform(size=model.config.shape)
    for share in (0, 0.5, 1):
        mask = generator.uniform(size=model.config.patches) < share
        expected = papers_reconstruction(arrays, image, mask)
        np.testing.assert_allclose(shown(model, image, mask), expected, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(shown(loaded, image, mask), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"Xi": None}, "missing keys ['Xi'], extra keys []"),
        ({"step": np.zeros(1)}, "missing keys [], extra keys ['step']"),
        ({"Wq": np.zeros((2, 3, 9))}, "Wq has shape (2, 3, 9) and dtype float64, expected floats of shape (2, 3, 10)"),
        ({"Bdec": np.zeros((12, 1))}, "Bdec has shape (12, 1) and dtype float64, expected floats of shape (12,)"),
        ({"LNORM_gamma": np.zeros(1)}, "LNORM_gamma has shape (1,) and dtype float64, expected floats of shape ()"),
        ({"Benc": np.zeros(10, int)}, "Benc has shape (10,) and dtype int64, expected floats of shape (10,)"),
        ({"Wk": np.zeros((2, 3, 9))}, "Wk has shape (2, 3, 9) and dtype float64, expected floats of shape (2, 3, 10)"),
        ({"Wenc": np.zeros((11, 10))}, "Wenc has shape (11, 10) and dtype float64, expected floats of shape (12, 10)"),
        ({"POS_embed": np.zeros((9, 10))}, "POS_embed has shape (9, 10), expected 1 + side² rows for a whole number"),
        (
            {"Xi": np.zeros((7, 10))},
            "Xi has shape (7, 10) and dtype float64, expected floats of shape (10, 'mem",
        ),
        (
            {"Wq": np.zeros((2, 10, 3))},
            "Wq has shape (2, 10, 3) and dtype float64, expected floats of shape (2, 3, 10)",
        ),
        ({"Wk": np.zeros((6, 10))}, "Wk has shape (6, 10) and dtype float64, expected floats of shape (2, 3, 10)"),
        ({"POS_embed": np.zeros((1, 5, 10))}, "POS_embed has shape (1, 5, 10) and dtype float64, expected floats"),
        ({"Xi": np.full((10, 7), 1e300)}, "['Xi'] hold numbers that are not finite, or not in float32"),
        ({"CLS_token": np.array({}, object)}, "is not an archive of numpy arrays (.npz)"),
    ],
)
def test_a_published_file_that_is_not_one_is_refused(tmp_path, changed, message):
    path = tmp_path / "published.npz"
    np.savez(path, **archive(**changed))
    with pytest.raises(ValueError, match=re.escape(message)):
        EnergyTransformer.from_published("et-imagenet", path)


def test_the_command_that_imports_says_what_is_wrong(tmp_path):
    def failing(*arguments):
        done = CliRunner().invoke(app, ["import", *map(str, arguments)])
        assert done.exit_code == 1
        return done.output

    (tmp_path / "text.npz").write_text("no archive")
    assert "unknown file \"et-cifar\"; expected one of ['et-imagenet']" in failing("et-cifar", tmp_path / "text.npz")
    assert "there is no file" in failing("et-imagenet", tmp_path / "none.npz", "--out", tmp_path / "new")
    assert "is not an archive" in failing("et-imagenet", tmp_path / "text.npz", "--out", tmp_path / "new")
    assert "is there already and is not empty; choose another folder with --out" in failing(
        "et-imagenet", tmp_path / "text.npz", "--out", tmp_path
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("attend_self", [True, False])
def test_it_is_a_ham_of_hamux_parts(attend_self, image, mask):
    model = make(attend_self=attend_self)
    model = eqx.tree_at(lambda m: m.ham.neurons["tokens"].lagrangian.keywords["delta"], model, jr.normal(jr.key(1), 10))
    synapses, keywords = model.ham.synapses, model.ham.neurons["tokens"].lagrangian.keywords
    layer_norm = Partial(hamux.lagr_layernorm, **keywords)
    attention = hamux.AttentionSynapse(jr.key(0), 10, 2, 3, attend_self=attend_self, closed_form=False)
    attention = eqx.tree_at(lambda a: (a.Wk, a.Wq), attention, (synapses["attention"].Wk, synapses["attention"].Wq))
    hopfield = eqx.tree_at(lambda h: h.xi, hamux.HopfieldSynapse(jr.key(0), 10, 7), synapses["memory"].xi)
    ham = hamux.HAM(
        neurons={"tokens": hamux.Neurons(layer_norm, (7, 10), leak=0.0)},
        synapses={"attention": attention, "memory": hopfield},
        connections=[(("tokens",), "attention"), (("tokens",), "memory")],
    )
    known = ~unknown(mask)
    out = hamux.descend(ham, model.start(jnp.asarray(image), known)[0], steps=4, dt=0.05, trajectory=True)
    recalled = model.recall(image, known)
    np.testing.assert_allclose(model.decode(out.xs), shown(model, image, mask), rtol=1e-9)
    np.testing.assert_allclose(ham.activations(out.xs)["tokens"], model.tokens(image, known)[-1], rtol=1e-9)
    np.testing.assert_allclose(out.energies, recalled.energies, rtol=1e-9)
    assert np.all(np.diff(recalled.energies) < 0)


@pytest.mark.parametrize("count", [0, 1, 6])
def test_a_patch_of_which_any_pixel_is_not_known_is_a_mask_token(model, image, count):
    mask = np.arange(6) < count
    known = ~unknown(mask)
    tokens, seen = (model.start(jnp.asarray(image), which)[0]["tokens"][1:] for which in (known, None))
    np.testing.assert_array_equal(tokens[mask], (model.mask_token[None] + model.position[1:])[mask])
    np.testing.assert_array_equal(tokens[~mask], seen[~mask])
    if count:
        part = known.copy()
        part[1:4, 1:4] = True  # of the first patch, but for its edge
        one_pixel = np.ones(SMALL.shape, bool)
        one_pixel[0, 0, 0] = False
        np.testing.assert_array_equal(model.start(jnp.asarray(image), part)[0]["tokens"][1:], tokens)
        first = model.start(jnp.asarray(image), one_pixel)[0]["tokens"][1]
        np.testing.assert_array_equal(first, model.mask_token + model.position[1])
        recalled = model.recall(image, one_pixel).x
        np.testing.assert_array_equal(recalled[one_pixel], image[one_pixel])


def test_steps_tokens_and_attention(model, image, mask):
    known = ~unknown(mask)
    path = model.recall(image, known, path=True).path
    assert path.x.shape == (5, *SMALL.shape)
    np.testing.assert_allclose(path.x[-1][~known], shown(model, image, mask)[~known], rtol=1e-12)
    assert model.tokens(image).shape == (5, 7, 10)
    attention = model.attention(image, known)
    assert attention.shape == (5, 2, 7, 7)
    np.testing.assert_allclose(attention.sum(axis=-1), 1, rtol=1e-12)


@pytest.mark.parametrize(("height", "rows"), [(8, [[0], [1]]), (20, [[0, 1], [2, 3], [4]])])
def test_features_are_moments_of_the_tokens_at_all_steps_and_means_of_places_at_three(model, height, rows):
    model = model.with_size(height, 12)
    image = jr.uniform(jr.key(3), model.config.shape)
    tokens = np.asarray(model.tokens(image))[:, 1:]
    grid = tokens.reshape(5, -1, 3, 10)
    expected = [tokens.mean(axis=1), tokens.std(axis=1)]
    expected += [grid[[0, 2, 4]][:, row][:, :, [column]].mean(axis=(1, 2)) for row in rows for column in range(3)]
    features = model.features(image)
    np.testing.assert_allclose(features, np.concatenate([part.ravel() for part in expected]), rtol=1e-6, atol=1e-9)
    even = jax.grad(lambda x: jnp.sum(model.features(x)))(jnp.full(image.shape, 0.5))
    assert np.isfinite(even).all()


def test_memories_are_decoded_to_patches(model):
    memories = model.memories()
    assert memories.shape == (7, 4, 4, 3)
    xi = model.ham.synapses["memory"].xi[0]
    added = (model.decoder(xi[3]) - model.decoder.bias).reshape(4, 4, 3) * SMALL.std[0]
    np.testing.assert_allclose(memories[3], added, rtol=1e-9)
    np.testing.assert_allclose(model.memories(slice(3, 5)), memories[3:5], rtol=1e-12)


def test_rows_of_new_weights_are_of_length_1():
    synapses = make(dim=400, heads=8, head_dim=25, memories=50).ham.synapses
    for rows in (synapses["attention"].Wk, synapses["attention"].Wq, synapses["memory"].xi[0]):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=-1).mean(), 1, atol=0.01)


def test_it_classifies_by_cls_or_by_the_mean(model, image):
    headed = model.with_head(classes=7, key=jr.key(1))
    assert headed.config.classes == 7
    g = headed.tokens(image)[-1]
    np.testing.assert_allclose(headed.classify(image), headed.classifier(g[0]), rtol=1e-12)
    mean = headed.with_config(pool="mean")
    np.testing.assert_allclose(mean.classify(image), headed.classifier(g[1:].mean(axis=0)), rtol=1e-12)
    assert headed.with_head(classes=3, key=jr.key(2)).classify(image).shape == (3,)


def test_images_of_another_size_get_interpolated_positions(model):
    same = model.with_size(8, 12)
    np.testing.assert_allclose(same.position, model.position, rtol=1e-12)
    rows, columns = np.mgrid[:8, :8]
    planes = np.stack([rows, columns, rows - columns, np.ones((8, 8))], axis=-1).reshape(64, 4)
    square = make(shape=(32, 32, 3), dim=4)
    square = eqx.tree_at(lambda m: m.position, square, jnp.asarray(np.concatenate([np.zeros((1, 4)), planes])))
    larger = square.with_size(64, 48)
    assert larger.config.shape == (64, 48, 3)
    np.testing.assert_array_equal(larger.position[0], square.position[0])
    grid = np.asarray(larger.position[1:]).reshape(16, 12, 4)
    rows, columns = np.mgrid[:16, :12]
    inside = (slice(3, -3), slice(3, -3))  # beyond it the resampling meets the edge
    np.testing.assert_allclose(grid[..., 0][inside], ((rows + 0.5) / 2 - 0.5)[inside], atol=1e-6)
    np.testing.assert_allclose(grid[..., 1][inside], ((columns + 0.5) * 8 / 12 - 0.5)[inside], atol=1e-6)
    np.testing.assert_allclose(grid[..., 3], 1, rtol=1e-6)
    assert larger.recall(np.zeros((64, 48, 3))).x.shape == (64, 48, 3)
    smaller = np.asarray(larger.with_size(32, 48).position[1:]).reshape(8, 12, 4)
    inside = (slice(3, -3), slice(3, -3))
    np.testing.assert_allclose(smaller[..., 0][inside], np.mgrid[:8, :12][0][inside], atol=1e-6)
    with pytest.raises(ValueError, match=r"patches of 4 × 4 do not fill images of shape \(30, 32, 3\)"):
        model.with_size(30, 32)


def test_half_precision_stays_near(model, image, mask):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model)
    recalled = half.recall(image.astype(jnp.bfloat16), ~unknown(mask))
    assert recalled.x.dtype == jnp.bfloat16
    assert recalled.energies.dtype == jnp.float32
    assert recalled.energies[-1] < recalled.energies[0]
    np.testing.assert_allclose(recalled.x.astype(float), model.recall(image, ~unknown(mask)).x, atol=0.05)


def test_an_image_may_be_closed_over(model, image, mask):
    recalled = jax.jit(lambda known: model.recall(image, known).x)(~unknown(mask))
    np.testing.assert_allclose(recalled, model.recall(image, ~unknown(mask)).x, rtol=1e-9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch": 5}, "patches of 5 × 5 do not fill images of shape (8, 12, 3)"),
        ({"shape": (8, 12)}, "do not fill images of shape (8, 12); expected (height, width, channels)"),
        ({"heads": 0}, "heads is 0; expected whole numbers of at least 1"),
        ({"dim": 2.5}, "dim is 2.5; expected int"),
        ({"mean": 0.5}, "mean is 0.5; expected tuple[float, ...]"),
        ({"shape": 32}, "shape is 32; expected tuple[int, ...]"),
        ({"alpha": "a"}, "alpha is 'a'; expected float"),
        ({"attend_self": "no"}, "attend_self is 'no'; expected bool"),
        ({"mean": (0.1, 0.2)}, "mean is (0.1, 0.2); expected one number, or 3, one for each channel"),
        ({"std": (0.0,)}, "std is (0.0,); expected numbers greater than 0"),
        ({"alpha": 0.0}, "alpha is 0.0; expected a finite number greater than 0"),
        ({"classes": -1}, "classes is -1"),
        ({"pool": "max"}, "pool is 'max'; expected Literal['cls', 'mean']"),
        ({"masked": ()}, "masked is (); expected at least one share from 0 to 1"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**fields)


def test_the_same_parameters_under_another_config(model, image):
    longer = model.with_config(steps=6, alpha=0.02)
    assert longer.tokens(image).shape[0] == 7
    with pytest.raises(
        ValueError,
        match=r"the parameters do not fit the config: ham.synapses.memory.xi.0 \(7, 10\) instead of \(8, 10\)",
    ):
        model.with_config(memories=8)
    with pytest.raises(ValueError, match=r"unknown config keys \['depth'\]"):
        model.with_config(depth=8)
    with pytest.raises(ValueError, match=r"\['classes', 'shape'\] cannot be changed by themselves; use with_head"):
        model.with_config(shape=(12, 8, 3), classes=2)


def test_what_the_config_does_not_tell_is_not_lost_in_silence(tmp_path, model):
    attention = hamux.AttentionSynapse(jr.key(0), 10, 2, 3, beta=2.0)
    changed = eqx.tree_at(lambda model: model.ham.synapses["attention"], model, attention)
    for use in (
        lambda: changed.with_config(steps=3),
        lambda: changed.with_head(classes=2, key=jr.key(0)),
        lambda: changed.save_pretrained(tmp_path / "model"),
    ):
        with pytest.raises(ValueError, match="the HAM of this EnergyTransformer is not as its config makes it"):
            use()
    assert not (tmp_path / "model").exists()


def test_it_is_saved_and_loaded(tmp_path, model, image, mask):
    model.with_head(classes=3, key=jr.key(1)).save_pretrained(tmp_path)
    loaded = EnergyTransformer.from_pretrained(tmp_path)
    assert loaded.config.classes == 3
    np.testing.assert_array_equal(shown(loaded, image, mask), shown(model, image, mask))


def test_masks_of_a_training_hide_the_shares_of_the_config():
    model = make(shape=(16, 16, 1), masked=(0.25, 0.75), mean=(0.5,))
    counts = [int((~np.asarray(model.hide(jr.key(seed)))).sum()) // 16 for seed in range(20)]
    assert set(counts) == {4, 12}


@pytest.mark.slow
def test_it_learns_to_reconstruct_and_to_classify():
    digits, labels = load_samples("mnist")
    digits, labels = np.asarray(digits[labels < 2], np.float32), labels[labels < 2]
    config = EnergyTransformerConfig(shape=(28, 28, 1), patch=7, dim=16, heads=2, head_dim=8, memories=16, steps=3)
    model = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), EnergyTransformer(config, key=jr.key(0)))
    known = np.broadcast_to(~unknown(np.arange(16) % 2 == 0, config), digits.shape)

    def error(model):
        recalled = jax.jit(lambda model: jax.vmap(model.recall)(digits, known).x)(model)
        return float(np.mean((recalled - digits)[~known] ** 2))

    task = {"classify": 0.1, "reconstruct": 1}
    recipe = Recipe(task=task, steps=100, batch_size=16, learning_rate=0.05, validation=0)
    learned = finetune(model, (digits, labels), recipe, quiet=True)
    assert error(learned) < 0.7 * error(model)
    found = jax.jit(lambda model: jnp.argmax(jax.vmap(model.classify)(digits), axis=-1))(learned)
    assert learned.config.classes == 2
    assert np.mean(np.asarray(found) == labels) > 0.9
