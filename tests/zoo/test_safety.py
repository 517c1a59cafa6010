"""Files that lie: a model's folder may come from anyone, and is refused before it takes memory or leaves its place."""

import json
import struct
import tracemalloc

import equinox as eqx
import hypothesis.strategies as st
import jax.random as jr
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from safetensors.numpy import load_file

from hamux_zoo import (
    ConvHAM,
    ConvHAMConfig,
    DenseHopfield,
    DenseHopfieldConfig,
    EnergyTransformer,
    EnergyTransformerConfig,
    from_pretrained,
)
from hamux_zoo.files import read_card
from hamux_zoo.pretrained import named_leaves

SMALL = {
    "dense-hopfield": lambda: DenseHopfield(
        DenseHopfieldConfig(shape=(2, 2, 1), memories=3, classes=2, energy="polynomial"), key=jr.key(0)
    ),
    "conv-ham": lambda: ConvHAM(
        ConvHAMConfig(shape=(4, 4, 1), channels=(2,), kernels=(4,), memories=3, classes=2), key=jr.key(0)
    ),
    "energy-transformer": lambda: EnergyTransformer(
        EnergyTransformerConfig(shape=(4, 4, 1), patch=2, dim=4, heads=1, head_dim=2, memories=3), key=jr.key(0)
    ),
}


@pytest.fixture
def model():
    return SMALL["dense-hopfield"]()


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


def write_weights(folder, header, data=b""):
    """A file of weights with this header, whose checksum is not known."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    edit_config(folder, sha256={"model.safetensors": None})


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def header_of(folder):
    content = (folder / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


XI = "ham.synapses.memory.xi.0"


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ({"data_offsets": [0, 10**9]}, "truncated or corrupt"),
        ({"data_offsets": [8, 4]}, "truncated or corrupt"),
        ({"data_offsets": [0, 48]}, "truncated or corrupt"),  # where another tensor lies
        ({"dtype": "F32"}, "truncated or corrupt"),
        ({"dtype": "I64"}, "is I64; expected one of F16"),
        ({"dtype": "F99"}, "truncated or corrupt"),
        ({"shape": [10**12]}, "truncated or corrupt"),
        ({"shape": [2**62, 2**62]}, "truncated or corrupt"),
        ({"shape": [10**12, 0], "data_offsets": [0, 0]}, "truncated or corrupt"),
        ({"shape": [-1, 4]}, "truncated or corrupt"),
    ],
)
def test_a_header_that_lies(folder, lie, message):
    header, data = header_of(folder)
    write_weights(folder, header | {XI: header[XI] | lie}, data)
    with pytest.raises(ValueError, match=message):
        from_pretrained(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 2**24 + 1) + b" " * (2**24 + 1),
        b"\x02" + b"\0" * 7 + b"{]",
    ],
)
def test_what_is_no_file_of_tensors(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model.safetensors is truncated or corrupt \(\d+ bytes\)"):
        from_pretrained(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format_version": NaN}', "NaN is not a finite number"),
        ('{"format_version": -Infinity}', "-Infinity is not a finite number"),
        ('{"format_version": 1e999}', "1e999 is not a finite number"),
        (r'{"model_type": "\ud800"}', "config.json is not JSON: .*surrogates"),
        ('{"format_version": 2, "format_version": 2}', r"the keys \['format_version'\] are there more than once"),
        ("[" * 500_000, "config.json is not JSON"),
        ("1" * 10_000, "config.json is not JSON"),
        ('{"a": ' + "[" * 2**20, "config.json has 1048582 bytes; at most 1048576 are read"),
    ],
)
def test_json_that_is_not_strict(folder, text, message):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        from_pretrained(folder)


def test_a_hundred_megabytes_of_nesting_are_not_read(folder):
    with (folder / "config.json").open("wb") as file:
        file.truncate(10**8)
    with pytest.raises(ValueError, match=r"config\.json has 100000000 bytes"):
        from_pretrained(folder)


def test_a_config_that_asks_for_a_billion_memories_takes_none(folder):
    fields = json.loads((folder / "config.json").read_text())["config"]
    edit_config(folder, config=fields | {"memories": 10**9})
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"has shape \(3, 4\), the config expects \(1000000000, 4\)"):
        from_pretrained(folder)
    assert tracemalloc.get_traced_memory()[1] < 1e8
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "model.bin", "weights/model.safetensors", ""])
def test_names_of_files_that_lead_elsewhere(folder, name):
    edit_config(folder, sha256={name: None})
    with pytest.raises(ValueError, match="sha256 is"):
        from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_links_out_of_the_folder_are_not_followed(folder, name):
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    with pytest.raises(ValueError, match=f"{name} is a link out of its folder"):
        from_pretrained(folder)


def test_links_within_the_folder_and_to_the_folder_are(model, folder):
    (folder / "config.json").rename(folder / "c.json")
    (folder / "config.json").symlink_to("c.json")
    (folder.parent / "link").symlink_to(folder)
    assert eqx.tree_equal(from_pretrained(folder.parent / "link"), model)


def test_the_remains_of_a_save_that_are_a_link_are_let_alone(model, folder):
    others = folder.parent / "others"
    others.mkdir()
    (others / "README.md").write_text("not yours")
    (folder / ".saved").symlink_to(others)
    assert eqx.tree_equal(from_pretrained(folder), model)
    assert (others / "README.md").read_text() == "not yours"


@pytest.mark.parametrize("name", ["README.md", "notes.txt"])
def test_the_remains_of_a_save_that_are_no_save_are_refused(folder, name):
    saved = folder / ".saved"
    saved.mkdir()
    (saved / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"\.saved/config.json: format_version"):
        from_pretrained(folder)
    (saved / "config.json").write_bytes((folder / "config.json").read_bytes())
    (saved / name).mkdir()
    with pytest.raises(ValueError, match=rf"\.saved holds \['{name}'\], which no save has written"):
        from_pretrained(folder)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("a: &a [1, 2]\ndatasets: [*a, *a]", "aliases"),
        ("datasets: 2023-99-99", "month must be in"),
        ("model-index: 3", "not iterable"),
    ],
)
def test_a_card_of_other_metadata_is_refused(folder, metadata, message):
    (folder / "README.md").write_text(f"---\n{metadata}\n---\ntext")
    with pytest.raises(ValueError, match=f"README.md has metadata that no model card has: .*{message}"):
        read_card(folder)


def test_an_altered_weight_is_refused_until_told(model, folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not the file that was saved: its SHA-256 is"):
        from_pretrained(folder)
    edit_config(folder, sha256={"model.safetensors": None})
    assert not eqx.tree_equal(from_pretrained(folder), model)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**9, 2**31, 2**63]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def mutated(draw, value):
    """A JSON value with something in it exchanged, dropped or added."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        match draw(st.integers(0, 5)):
            case 0:
                return {name: kept for name, kept in value.items() if name != key}
            case 1:
                return value | {draw(st.text(max_size=5)): draw(JSON)}
            case _:
                return value | {key: mutated(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        i = draw(st.integers(0, len(value) - 1))
        return [*value[:i], mutated(draw, value[i]), *value[i + 1 :]]
    if isinstance(value, int) and draw(st.booleans()):
        return draw(st.sampled_from([value + 1, value - 1, -value, 0, 10**9, 10**12, 2**63, 2**64, float(value)]))
    return draw(JSON)


def damaged(draw, content):
    """Bytes with some of them changed, cut out or put in."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        match draw(st.integers(0, 3)):
            case 0:
                content[at : at + draw(st.integers(1, 20))] = b""
            case 1:
                content[at:at] = draw(st.binary(max_size=8))
            case _:
                content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
    return bytes(content)


def read_right(folder):
    """Read the model, and hold it against what its files say."""
    model = from_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for name, leaf in named_leaves(model).items():
        np.testing.assert_array_equal(leaf, weights[name])
    for field, value in json.loads((folder / "config.json").read_text())["config"].items():
        assert getattr(model.config, field) == (tuple(value) if isinstance(value, list) else value)


def fuzz(tmp_path_factory, cases, part=0):
    saved = {}
    for name, make in SMALL.items():
        folder = tmp_path_factory.mktemp(name) / "m"
        make().save_pretrained(folder)
        saved[name] = folder, (folder / "config.json").read_bytes(), (folder / "model.safetensors").read_bytes()
    outcomes = {"refused": 0, "read": 0}

    @seed(part)
    @settings(max_examples=cases, suppress_health_check=list(HealthCheck), database=None, derandomize=False)
    @given(st.data())
    def refused_or_right(data):
        folder, config, weights = saved[data.draw(st.sampled_from(sorted(saved)))]
        (folder / "config.json").write_bytes(config)
        (folder / "model.safetensors").write_bytes(weights)
        match data.draw(st.sampled_from(["config", "config bytes", "header", "weights bytes"])):
            case "config":
                (folder / "config.json").write_text(json.dumps(mutated(data.draw, json.loads(config))))
            case "config bytes":
                (folder / "config.json").write_bytes(damaged(data.draw, config))
            case "header":
                header, content = header_of(folder)
                write_weights(folder, mutated(data.draw, header), content)
            case "weights bytes":
                edit_config(folder, sha256={"model.safetensors": None})
                (folder / "model.safetensors").write_bytes(damaged(data.draw, weights))
        refusal = ""
        try:
            read_right(folder)
        except ValueError as error:
            refusal = str(error)
        assert not refusal or str(folder) in refusal
        outcomes["refused" if refusal else "read"] += 1

    refused_or_right()
    assert min(outcomes.values()) > cases // 100, outcomes


def test_fuzzed_files_are_refused_or_right(tmp_path_factory):
    fuzz(tmp_path_factory, 200)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(1, 9))  # so that they share the cores
def test_ten_thousand_fuzzed_files_are_refused_or_right(tmp_path_factory, part):
    fuzz(tmp_path_factory, 10_000 // 8, part)


def test_numbers_that_are_saved_are_numbers_that_are_read(model, tmp_path):
    half = eqx.tree_at(lambda m: m.ham.synapses["memory"].xi[0], model, replace_fn=lambda xi: xi.astype("bfloat16"))
    half.save_pretrained(tmp_path / "half")
    assert eqx.tree_equal(from_pretrained(tmp_path / "half"), half)
    assert np.asarray(from_pretrained(tmp_path / "half").ham.synapses["memory"].xi[0]).dtype.name == "bfloat16"
