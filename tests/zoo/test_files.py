"""A model's folder: what is saved is loaded, and a damaged folder is refused with the reason."""

import json
import re
import shutil
import struct
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import hamux
from hamux_zoo import DenseHopfield, DenseHopfieldConfig, from_pretrained, list_models, models


@pytest.fixture
def model():
    config = DenseHopfieldConfig(shape=(3, 3, 1), memories=4, classes=2, energy="polynomial")
    return DenseHopfield(config, key=jr.key(0))


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_fields(folder, **changes):
    edit_config(folder, config=json.loads((folder / "config.json").read_text())["config"] | changes)


@pytest.mark.parametrize("load", [DenseHopfield.from_pretrained, from_pretrained])
def test_what_is_saved_is_loaded(model, folder, load):
    loaded = load(folder)
    assert eqx.tree_equal(loaded, model)
    assert loaded.config == model.config


def test_the_files_are_plain(folder):
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert {"ham.synapses.memory.xi.0", "ham.neurons.label.lagrangian.keywords.beta"} <= set(
        load_file(folder / "model.safetensors")
    )
    assert json.loads((folder / "config.json").read_text())["model_type"] == "dense-hopfield"


def test_loading_draws_no_random_numbers(folder, monkeypatch):
    def refuse(key, shape, *args):
        if not isinstance(key, jax.core.Tracer):
            raise AssertionError("weights were initialised")
        return normal(key, shape, *args)

    normal = jr.normal
    monkeypatch.setattr("jax.random.normal", refuse)
    from_pretrained(folder)
    with pytest.raises(AssertionError):
        hamux.HopfieldSynapse(jr.key(0), 2, 2)


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def with_a_lying_header(folder):
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 10**12) + path.read_bytes()[8:])


def edit_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


XI = "ham.synapses.memory.xi.0"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, r"model.safetensors is truncated or corrupt \(\d+ bytes\)"),
        (with_a_lying_header, "model.safetensors is truncated or corrupt"),
        (
            lambda f: edit_tensors(f, lambda t: t.pop(XI)),
            rf"model.safetensors .* missing tensors \['{re.escape(XI)}'\]",
        ),
        (lambda f: edit_tensors(f, lambda t: t.update(more=np.ones(2))), r"unknown \['more'\]"),
        (
            lambda f: edit_tensors(f, lambda t: t.update({XI: t[XI][1:]})),
            rf'tensor "{re.escape(XI)}" has shape \(3, 9\), the config expects \(4, 9\)',
        ),
        (
            lambda f: edit_tensors(f, lambda t: t.update({XI: t[XI].astype(int)})),
            rf'tensor "{re.escape(XI)}" is I64; expected one of F16, BF16, F32, F64',
        ),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json holds a list; expected an object"),
        (lambda f: edit_config(f, format_version=4), "format_version is 4, this one reads 3; upgrade hamux-zoo"),
        (lambda f: edit_config(f, format_version=2), "format_version is 2, .* use hamux-zoo 0.6, which reads it"),
        (lambda f: edit_config(f, format_version=1), "format_version is 1, .* use hamux-zoo 0.6, which reads it"),
        (lambda f: edit_config(f, format_version=True), "format_version is True; expected 3"),
        (lambda f: edit_config(f, format_version="3"), "format_version is '3'; expected 3"),
        (lambda f: edit_config(f, model_type="tokamak"), r"config.json: .*'tokamak'"),
        (lambda f: edit_config(f, model_type=["ring"]), r"config.json: model_type is \['ring'\]; expected a string"),
        (lambda f: edit_config(f, config=None), "config.json: config is None; expected an object"),
        (lambda f: edit_config(f, config=[]), r"config.json: config is \[\]; expected an object"),
        (lambda f: edit_config(f, sha256=[]), r"config.json: sha256 is \[\]; expected a checksum"),
        (lambda f: edit_config(f, sha256={}), r"config.json: sha256 is \{\}; expected a checksum"),
        (
            lambda f: edit_config(f, sha256={"model.safetensors": 0}),
            "config.json: sha256 is .* 0.*; expected a checksum",
        ),
        (lambda f: edit_fields(f, memry=3), r"unknown config keys \['memry'\]; DenseHopfieldConfig has"),
        (lambda f: edit_fields(f, memories="4"), "memories is '4'; expected int"),
        (lambda f: edit_fields(f, shape=[3, 3.5]), r"shape is \(3, 3.5\)|shape is \[3, 3.5\]"),
        (lambda f: edit_fields(f, energy="cubic"), "energy is 'cubic'; expected"),
        (lambda f: edit_fields(f, memories=0), "config.json: memories is 0"),
    ],
)
@pytest.mark.parametrize("load", [DenseHopfield.from_pretrained, from_pretrained])
def test_a_damaged_folder_is_refused_by_name(folder, load, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        from_pretrained(folder)


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(FileNotFoundError, match="did you mean dense-hopfield-mnist"):
        from_pretrained("dense-hopfield-mnst")
    listed = "bundled are conv-ham-cifar10, conv-ham-fashion-mnist, conv-ham-mnist, dense-hopfield-fashion-mnist"
    with pytest.raises(FileNotFoundError, match=listed):
        from_pretrained("resnet")


def test_a_new_architecture_is_one_file(tmp_path, monkeypatch):
    shutil.copy(Path(__file__).parent / "ring_memory.py", tmp_path)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    assert list_models() == ["conv-ham", "dense-hopfield", "energy-transformer", "probed", "ring"]
    module = sys.modules["hamux_zoo.models.ring_memory"]
    ring = module.Ring(module.RingConfig(shape=(2, 2, 5), hidden=2), key=jr.key(1))
    ring.save_pretrained(tmp_path / "saved")
    assert eqx.tree_equal(from_pretrained(tmp_path / "saved"), ring)


BASES = """
import equinox as eqx
from abc import abstractmethod
from hamux_zoo import Attributed, Classifier, DenseHopfield, Memory

class LacksMethods(Memory):
    model_type = "lacks-methods"

class LacksOne(DenseHopfield):
    model_type = "lacks-one"
    @abstractmethod
    def more(self): ...

class LacksAField(DenseHopfield):
    model_type = "lacks-a-field"
    field: eqx.AbstractVar[int]

class LacksAName(DenseHopfield):
    pass

class Whole(LacksOne):
    model_type = "whole"
    def more(self): return 1
"""


def test_base_classes_are_no_architectures(tmp_path, monkeypatch):
    ours = list_models()
    (tmp_path / "bases.py").write_text(BASES)
    (tmp_path / "imports_them.py").write_text("from .bases import *\nfrom .bases import LacksOne, Whole")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    assert list_models() == sorted([*ours, "whole"])
    assert from_pretrained("dense-hopfield-mnist").__class__ is DenseHopfield
    (tmp_path / "again.py").write_text(BASES)
    with pytest.raises(ValueError, match=r'(again:Whole and Whole both have the model_type "whole"|bases:Whole and)'):
        list_models()
