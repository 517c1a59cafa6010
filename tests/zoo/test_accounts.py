"""Every command for one who may write nowhere but in one folder, and where the disk is full."""

import os
import re
import shutil
import subprocess

import jax.random as jr
import numpy as np
import pytest
from PIL import Image
from test_cli import COMMAND

from hamux_zoo import DenseHopfield, DenseHopfieldConfig
from hamux_zoo.cli import app

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="needs the accounts and permissions of POSIX"),
]

# What each command is given, MODEL, DATA and OUT standing for paths. Those of SILENT write nothing.
COMMANDS = {
    "list": [],
    "info": ["MODEL"],
    "classify": ["MODEL", "DATA/train"],
    "evaluate": ["MODEL", "--data", "DATA", "--recalls", "2"],
    "recall": ["MODEL", "DATA/train", "--erase", "lower", "--out", "OUT/recalled"],
    "generate": ["MODEL", "--label", "0", "--count", "2", "--out", "OUT/generated"],
    "features": ["MODEL", "DATA/train", "--out", "OUT/features.npz"],
    "probe": ["MODEL", "--data", "DATA", "--out", "OUT/probed"],
    "calibrate": ["MODEL", "--data", "DATA", "--out", "OUT/calibrated"],
    "finetune": ["MODEL", "--data", "DATA", "--out", "OUT/tuned", "--steps", "2"],
    "train": ["dense-hopfield", "--data", "DATA", "--out", "OUT/trained", "--steps", "2", "--set", "memories=4"],
    "demo": ["--model", "MODEL", "--out", "OUT/demo"],
}
SILENT = ("list", "info", "classify", "evaluate")
ELSEWHERE = {"app", "import", "pull", "push", "publish"}  # what needs a port, a published file or a Hub


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A model and pictures."""
    folder = tmp_path_factory.mktemp("given")
    config = DenseHopfieldConfig(shape=(28, 28, 1), memories=6, classes=2)
    DenseHopfield(config, key=jr.key(0)).save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            place = folder / "data" / split / name
            place.mkdir(parents=True)
            for i in range(4):
                Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(place / f"{i}.png")
    return folder


# Another account, which may read everything and write nothing but what all may.
OTHER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
OTHER += [f"--{kind}-caps=-all,+dac_read_search" for kind in ("inh", "ambient")]


def run(command, given, out, home, prefix=()):
    """The command where neither the working directory nor the home can be written."""
    places = {"MODEL": given / "model", "DATA": given / "data", "OUT": out}
    words = [re.sub("MODEL|DATA|OUT", lambda found: str(places[found[0]]), word) for word in COMMANDS[command]]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "JAX_"))}
    environment |= {"HF_HUB_OFFLINE": "1", "HOME": str(home), "COLUMNS": "200"}
    line = [*prefix, COMMAND, command, *words]
    return subprocess.run(line, cwd=home, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def prefix():
    """What makes a process one of another account, where this one may write everywhere."""
    if os.geteuid() != 0:
        return []
    if subprocess.run([*OTHER, COMMAND, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("root may write everywhere, and there is no setpriv to become another account")
    return OTHER


@pytest.fixture
def home(tmp_path):
    """A home that cannot be written."""
    folder = tmp_path / "home"
    folder.mkdir()
    folder.chmod(0o555)
    return folder


def test_every_command_is_tried():
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert {*COMMANDS} | ELSEWHERE == names


@pytest.mark.parametrize("command", COMMANDS)
def test_a_home_that_cannot_be_written_keeps_nobody_from_an_answer(given, prefix, home, tmp_path, command):
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)
    done = run(command, given, out, home, prefix)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - SILENT))
def test_a_folder_that_cannot_be_written_ends_it_with_a_sentence(given, prefix, home, command):
    done = run(command, given, home / "mine", home, prefix)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    assert str(home / "mine") in done.stderr


@pytest.fixture
def full(tmp_path):
    """A folder on a disk that has a few bytes left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root alone")
    (disk / "own.txt").write_text("my own")
    with pytest.raises(OSError, match="No space left"):
        (disk / "filling").write_bytes(bytes(2**20))
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - SILENT))
def test_a_full_disk_ends_it_with_a_sentence_and_loses_nothing(given, full, home, command):
    done = run(command, given, full, home)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr or "free some" in done.stderr
    assert (full / "own.txt").read_text() == "my own"
    assert not list(full.glob("*/config.json"))
