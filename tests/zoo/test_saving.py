"""What is saved can be loaded, and a save or a push that fails leaves the model that was there."""

import dataclasses
import json
from typing import ClassVar

import equinox as eqx
import hypothesis.strategies as st
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hub_client import REPO, a_model
from hub_server import WRITER
from hypothesis import HealthCheck, given, settings
from safetensors.numpy import load_file, save_file

import hamux
from hamux_zoo import Config, DenseHopfield, DenseHopfieldConfig, Memory, from_pretrained, push_folder
from hamux_zoo.files import write_folder

CARD = "---\nlibrary_name: hamux-zoo\n---\ntext"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LooseConfig(Config):
    """A config that lets numbers through that JSON cannot hold."""

    shape: tuple[int, ...] = (2,)
    extra: tuple[int, ...] = ()
    number: float = 0.0
    text: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WiderConfig(LooseConfig):
    more: int = 0


class Loose(Memory):
    """Two layers, and a parameter of any shape."""

    model_type: ClassVar[str] = "loose"
    config: LooseConfig = eqx.field(static=True)
    ham: hamux.HAM
    extra: jnp.ndarray

    def __init__(self, config, *, key):
        neurons = {name: hamux.Neurons(hamux.lagr_identity, size) for name, size in {"a": 2, "b": 3}.items()}
        self.ham = hamux.HAM(neurons, {"ab": hamux.DenseSynapse(key, 2, 3)}, [(("a", "b"), "ab")])
        self.config, self.extra = config, jr.normal(key, config.extra)

    def start(self, x, known=None, *, label=None, key=None):
        return self.ham.init_states() | {"a": x}, {}

    def decode(self, xs):
        return xs["a"]


def loose(**fields):
    return Loose(LooseConfig(**fields), key=jr.key(0))


def with_weights(change):
    return eqx.tree_at(lambda model: model.ham.synapses["ab"].W, loose(), replace_fn=change)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def folder(tmp_path):
    loose(text="good").save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def named(*names):
    config = DenseHopfieldConfig(shape=(2, 2, 1), memories=2, classes=len(names), class_names=names)
    return DenseHopfield(config, key=jr.key(0))


@pytest.mark.parametrize(
    ("model", "card", "message"),
    [
        (lambda: loose(number=np.inf), CARD, "config.json is not JSON: Infinity is not a finite number"),
        (lambda: loose(number=np.nan), CARD, "config.json is not JSON: NaN is not a finite number"),
        (lambda: loose(text="x" * 2**20), CARD, "config.json has .* bytes; at most 1048576 are read"),
        (lambda: loose(text="\udc80"), CARD, "config.json is not JSON: .*surrogates"),
        (lambda: named("x" * 2**20, "y"), CARD, "config.json has .* bytes; at most 1048576 are read"),
        (lambda: named("x" * 2**20, "y"), None, "README.md has .* bytes; at most 1048576 are read"),
        (lambda: named("\ud800", "y"), None, "surrogates"),
        (lambda: named("\ud800", "y"), CARD, "config.json is not JSON: .*surrogates"),
        (lambda: Loose(WiderConfig(), key=jr.key(0)), CARD, r"config.json: unknown config keys \['more'\]"),
        (loose, "x" * (2**20 + 1), "README.md has 1048577 bytes; at most 1048576 are read"),
        (loose, "\udc80", "surrogates"),
        (loose, "", "README.md does not begin with metadata"),
        (loose, "# A title alone", "README.md does not begin with metadata"),
        (loose, "---\na: [\n---\n", "README.md has metadata that no model card has"),
        (loose, "---\njust text\n---\n", "README.md has metadata that no model card has"),
        (loose, "---\na: &a [1]\nb: *a\n---\n", "README.md has metadata that no model card has: .*aliases"),
        (loose, b"bytes", "README.md|must be str"),
        (lambda: with_weights(lambda w: w.astype(int)), CARD, r'tensor "ham.synapses.ab.W" is int64; expected one of'),
        (lambda: with_weights(lambda w: w > 0), CARD, "is bool; expected one of float16, bfloat16, float32, float64"),
        (lambda: with_weights(lambda w: w.astype("complex64")), CARD, "is complex64; expected"),
        (lambda: with_weights(lambda w: w.astype("complex128")), CARD, "is complex128; expected"),
        (lambda: with_weights(lambda w: w.astype("float8_e4m3fn")), CARD, "is float8_e4m3fn; expected"),
        (lambda: with_weights(lambda w: jr.key(0)), CARD, "is key<fry>; expected"),
        (lambda: with_weights(lambda w: 3), CARD, "is int64; expected"),
        (lambda: with_weights(lambda w: "three"), CARD, "is <U5; expected"),
        (lambda: with_weights(lambda w: w[1:]), CARD, r'"ham.synapses.ab.W" has shape \(1, 3\), the config expects'),
        (lambda: with_weights(lambda w: {"a": w, "b": w}), CARD, "the HAM of this Loose is not as its config makes it"),
        (lambda: with_weights(lambda w: None), CARD, "the HAM of this Loose is not as its config makes it"),
    ],
)
def test_a_save_that_fails_leaves_the_model_that_was_there(folder, model, card, message):
    made, before = model(), contents(folder)
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        made.save_pretrained(folder, card=card)
    assert ".saving-" not in str(caught.value)
    assert contents(folder) == before
    assert not [path for path in folder.iterdir() if path.is_dir()]
    assert Loose.from_pretrained(folder).config.text == "good"


def test_a_name_that_the_reader_does_not_take(folder):
    before = contents(folder)
    for name, message in {"x" * 2**24: "a header of .* bytes; at most 16777216 are read"}.items():
        with pytest.raises(ValueError, match=message):
            write_folder(folder, "loose", {}, {name: np.zeros(1)}, CARD, check=lambda aside: Loose.of_folder(aside))
    assert contents(folder) == before


def test_what_json_changes_is_refused(folder, monkeypatch):
    before = contents(folder)
    monkeypatch.setattr(LooseConfig, "__eq__", lambda self, other: False)
    with pytest.raises(ValueError, match=r"nothing was saved in .*would come back as LooseConfig"):
        loose().save_pretrained(folder)
    assert contents(folder) == before


def test_a_folder_where_a_file_must_go(folder, tmp_path):
    for name in ("README.md", "model.safetensors", "config.json"):
        other = tmp_path / name
        loose().save_pretrained(other)
        (other / name).unlink()
        (other / name).mkdir()
        before = contents(other)
        with pytest.raises(IsADirectoryError, match=f"{name} is a folder"):
            loose().save_pretrained(other)
        assert contents(other) == before
    (folder / "model-00001-of-00002.safetensors").mkdir()
    loose(text="new").save_pretrained(folder)
    assert Loose.from_pretrained(folder).config.text == "new"


def test_no_room_leaves_the_model_that_was_there(tmp_path):
    import resource

    a_model().save_pretrained(tmp_path / "m")
    before = contents(tmp_path / "m")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = a_model(1, pixels=200)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            large.save_pretrained(tmp_path / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path / "m") == before
    large.save_pretrained(tmp_path / "m")
    assert eqx.tree_equal(from_pretrained(tmp_path / "m"), large)


def test_nan_weights_and_empty_weights_are_saved_as_they_are(tmp_path):
    nan = with_weights(lambda w: w * jnp.nan)
    nan.save_pretrained(tmp_path / "nan")
    assert jnp.isnan(Loose.from_pretrained(tmp_path / "nan").ham.synapses["ab"].W).all()
    loose(extra=(2, 0)).save_pretrained(tmp_path / "empty")
    assert Loose.from_pretrained(tmp_path / "empty").extra.shape == (2, 0)


def test_a_home_folder_is_the_same_for_saving_and_loading(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    loose().save_pretrained("~/m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    Loose.from_pretrained("~/m")
    monkeypatch.chdir(tmp_path / "m")
    loose().save_pretrained(".")
    assert "# m\n" in (tmp_path / "m/README.md").read_text()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["float16", "bfloat16", "float32", "float64", "int8", "uint32", "bool", "complex64"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.floats(),
    st.text(st.characters(), max_size=4) | st.just("\ud83d"),
    st.none() | st.just(CARD) | st.text(max_size=20) | st.text(max_size=8).map(lambda text: f"---\n{text}\n---\n"),
    st.sampled_from([1, 10, 2 * 10**9]),
)
def test_a_save_is_loaded_or_changes_nothing(folder, dtype, shape, number, text, card, shard_size):
    made = loose(number=number, text=text, extra=shape)
    made = eqx.tree_at(lambda model: model.extra, made, made.extra.astype(dtype))
    before = contents(folder)
    try:
        made.save_pretrained(folder, card=card, shard_size=shard_size)
    except ValueError:
        assert contents(folder) == before
    else:
        loaded = Loose.from_pretrained(folder)
        assert eqx.tree_equal(loaded, made)
        assert loaded.config == made.config
        loaded.save_pretrained(folder)


def damaged(folder, name, content):
    (folder / name).write_bytes(content)


def edited(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def retyped(folder):
    tensors = {name: tensor.astype(int) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: damaged(f, "config.json", b"{"),
        lambda f: edited(f, format_version=2),
        lambda f: edited(f, model_type=None),
        lambda f: edited(f, config=3),
        lambda f: edited(f, sha256={}),
        lambda f: edited(f, sha256={"model.safetensors": "0" * 64}),
        lambda f: edited(f, sha256={"model-00001-of-00002.safetensors": None}),
        lambda f: damaged(f, "model.safetensors", b"short"),
        retyped,
        lambda f: (f / "model.safetensors").unlink(),
        lambda f: damaged(f, "README.md", b"\xff"),
        lambda f: damaged(f, "README.md", b"# A title alone"),
        lambda f: damaged(f, "README.md", b"---\na: [\n---\n"),
        lambda f: damaged(f, "README.md", b"x" * (2**20 + 1)),
        lambda f: edited(f, model_type="nope"),
        lambda f: edited(f, config=json.loads((f / "config.json").read_text())["config"] | {"memories": 99}),
        lambda f: edited(f, config=json.loads((f / "config.json").read_text())["config"] | {"unknown": 1}),
    ],
)
def test_a_folder_that_cannot_be_read_is_not_pushed(hub, pull, tmp_path, damage):
    good = a_model()
    commit = good.push_to_hub(REPO, token=WRITER)
    a_model(1).save_pretrained(tmp_path / "m")
    damage(tmp_path / "m")
    hub.log.clear()
    with pytest.raises((ValueError, FileNotFoundError)):
        push_folder(tmp_path / "m", REPO, token=WRITER)
    assert not hub.log
    assert hub.repos["models", REPO].refs["main"] == commit.oid
    assert eqx.tree_equal(pull(), good)


def test_a_model_that_cannot_be_read_is_not_pushed(hub):
    with pytest.raises(ValueError, match=r"README.md does not begin with metadata"):
        a_model().push_to_hub(REPO, token=WRITER, card="")
    with pytest.raises(ValueError, match="Infinity"):
        loose(number=np.inf).push_to_hub(REPO, token=WRITER)
    assert not hub.log
