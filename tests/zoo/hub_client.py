"""What the tests of the Hub ask of it: small models, the command line, and errors that name no token."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax.random as jr
import pytest

from hamux_zoo import DenseHopfield, DenseHopfieldConfig

COMMAND = Path(sys.executable).with_name("hamux-zoo")
REPO = "me/mine"


def a_model(seed=0, pixels=3, memories=4, names=()):
    config = DenseHopfieldConfig(
        shape=(pixels, pixels, 1), memories=memories, classes=2, class_names=names, energy="polynomial"
    )
    return DenseHopfield(config, key=jr.key(seed))


def files(model, folder):
    model.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def cached(folder):
    """The files of a cache that a model may be read from."""
    return [path for path in (folder / "cache").glob("models--*/snapshots/*/*") if path.is_file()]


def refused(call, kind, *words):
    """The message of the error, which names no token."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert not re.search(r"hf_\w+|SECRET", message), message
    return message


def run(*arguments, cwd, **environment):
    shown = os.environ | {"COLUMNS": "200", "HF_HOME": str(cwd / "home")} | environment
    return subprocess.run([COMMAND, *arguments], cwd=cwd, env=shown, capture_output=True, text=True, check=False)
