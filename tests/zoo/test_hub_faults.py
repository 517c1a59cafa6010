"""What goes wrong between here and the Hub, and what is left then: refusals, broken transfers, kills, no room."""

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import datasets
import equinox as eqx
import pytest
from hub_client import COMMAND, REPO, a_model, cached, files, refused
from hub_server import EXPIRED, READER, WRITER

from hamux_zoo import from_pretrained


def test_a_private_repo_and_tokens(hub, pull, monkeypatch):
    model = a_model()
    model.push_to_hub(REPO, token=WRITER, private=True)
    refused(pull, FileNotFoundError, REPO, "private", "HF_TOKEN")
    assert eqx.tree_equal(pull(token=READER), model)
    monkeypatch.setenv("HF_TOKEN", READER)
    assert eqx.tree_equal(from_pretrained(REPO), model)
    monkeypatch.delenv("HF_TOKEN")
    for token, why in {"hf_wrong0000": "Invalid credentials", EXPIRED: "expired"}.items():
        refused(lambda token=token: pull("me/other", token=token), PermissionError, "refuses the token", why)
        push = lambda token=token: model.push_to_hub(REPO, token=token)  # noqa: E731
        refused(push, PermissionError, "nothing was pushed to me/mine", why)
    refused(lambda: model.push_to_hub(REPO, token=READER), PermissionError, "may not do this", "rights")
    refused(lambda: model.push_to_hub(REPO, token=False), PermissionError, "refuses the token")
    for token in ("SECRET\n", "hf_SECRET é", ""):
        for call in (lambda t: model.push_to_hub(REPO, token=t), lambda t: pull("me/other", token=t)):
            refused(lambda call=call, token=token: call(token), ValueError, "the token holds")
    monkeypatch.setenv("HF_TOKEN", "hf_SECRETé")
    refused(pull, ValueError, "the token holds")


def test_a_gated_repo(hub, pull, tmp_path):
    hub.add(REPO, files(a_model(), tmp_path / "m")).gated = True
    refused(pull, PermissionError, "granted")


def test_what_does_not_exist(hub, pull, tmp_path):
    a_model().push_to_hub(REPO, token=WRITER)
    hub.add("me/empty", {"README.md": b"# nothing"})
    without = files(a_model(), tmp_path / "m")
    del without["model.safetensors"]
    hub.add("me/half", without)
    refused(lambda: pull("me/none"), FileNotFoundError, '"me/none" is neither a bundled model nor', "no such repo")
    refused(lambda: pull(revision="v9"), FileNotFoundError, "revision v9", "not the revision")
    refused(lambda: pull("me/empty"), FileNotFoundError, "config.json is missing")
    refused(lambda: pull("me/half"), FileNotFoundError, "model.safetensors is missing")
    refused(lambda: pull("me/dense-hopfield-mnst"), FileNotFoundError, "did you mean dense-hopfield-mnist")
    refused(lambda: pull("a b/c"), FileNotFoundError, "org/name")
    refused(lambda: pull("me/a--b"), ValueError, "of the repo me/a--b")
    refused(lambda: a_model().push_to_hub("me/x y", token=WRITER), ValueError, "nothing was pushed to me/x y")
    for name in ("", "~nosuchuser/x", "me/" + "x" * 300):
        refused(lambda name=name: pull(name), (FileNotFoundError, ValueError), name)
    refused(lambda: pull("dense-hopfield-mnist", revision="v1"), ValueError, "not on the Hub")
    hub.log.clear()
    refused(lambda: pull(tmp_path / "me" / "none"), FileNotFoundError)
    assert not hub.log


def test_the_server_is_gone_before(hub, pull, tmp_path):
    hub.add(REPO, files(a_model(), tmp_path / "m"))
    hub.down = True
    refused(pull, ConnectionError, REPO, "does not answer")
    assert not cached(tmp_path)
    hub.down = False
    assert eqx.tree_equal(pull(), a_model())


def test_the_server_is_gone_afterwards(hub, pull, tmp_path):
    hub.add(REPO, files(a_model(), tmp_path / "m"))
    model = pull()
    hub.down = True
    assert eqx.tree_equal(pull(), model)
    hub.down = False
    hub.log.clear()
    assert eqx.tree_equal(pull(local_files_only=True), model)
    assert not hub.log


def test_what_is_in_the_cache_does_not_serve_those_whom_the_hub_refuses(hub, pull, tmp_path):
    hub.add(REPO, files(a_model(), tmp_path / "m"))
    pull()
    refused(lambda: pull(token="hf_wrong0000"), PermissionError, "refuses the token")
    del hub.repos["models", REPO]
    refused(pull, FileNotFoundError, "no such repo")
    assert eqx.tree_equal(pull(local_files_only=True), a_model())


def test_a_transfer_that_breaks_is_taken_up_again(hub, pull, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    model = a_model(pixels=64, memories=800)
    hub.add(REPO, files(model, tmp_path / "m"))
    hub.cut, hub.cuts = 11 * 2**20, 2
    assert eqx.tree_equal(pull(), model)
    assert hub.cuts == 0
    assert [start for start in hub.starts if start] == [10 * 2**20, 20 * 2**20]


def test_a_transfer_that_always_breaks_leaves_nothing_half(hub, pull, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    model = a_model(pixels=64)
    hub.add(REPO, files(model, tmp_path / "m"))
    hub.cut, hub.cuts = 100, 10**6
    assert "disabled" not in refused(pull, ConnectionError, REPO, "does not answer")
    assert "model.safetensors" not in {path.name for path in cached(tmp_path)}
    refused(lambda: pull(local_files_only=True), ConnectionError, "not wholly")
    hub.cuts = 0
    assert eqx.tree_equal(pull(), model)


def test_an_update_that_breaks_leaves_what_was_there(hub, pull, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    repo = hub.add(REPO, files(a_model(0, pixels=64), tmp_path / "a"))
    pull()
    repo.commit(files(a_model(1, pixels=64), tmp_path / "b"), "better")
    hub.cut, hub.cuts = 100, 10**6
    assert eqx.tree_equal(pull(), a_model(0, pixels=64))
    assert eqx.tree_equal(pull(local_files_only=True), a_model(0, pixels=64))
    hub.cuts = 0
    assert eqx.tree_equal(pull(), a_model(1, pixels=64))
    assert eqx.tree_equal(pull(local_files_only=True), a_model(1, pixels=64))


def test_a_commit_that_is_no_model_is_not_passed_over_for_the_one_before(hub, pull, tmp_path):
    hub.add(REPO, files(a_model(), tmp_path / "m"))
    pull()
    hub.add(REPO, {"README.md": b"# nothing"})
    refused(pull, FileNotFoundError, "config.json is missing")


def test_the_weights_of_what_is_no_model_are_not_fetched(hub, pull, tmp_path):
    others = {"config.json": b'{"model_type": "gpt"}', "model.safetensors": b"x" * 10**6}
    hub.add("big/llm", others)
    refused(lambda: pull("big/llm"), ValueError, "format_version is None")
    assert not any("model.safetensors" in line for line in hub.log)


def test_the_server_is_gone_while_pushing(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    first = a_model(0).push_to_hub(REPO, token=WRITER)
    for step in ("preupload", "PUT", "/commit/"):

        def fail(hub, method, path, step=step):
            hub.down = step in f"{method} {path}"

        hub.before = fail
        refused(lambda: a_model(1).push_to_hub(REPO, token=WRITER), ConnectionError, "nothing was pushed", "not answer")
        assert hub.repos["models", REPO].refs["main"] == first.oid
    hub.before = lambda hub, method, path: None
    hub.down = False
    assert a_model(1).push_to_hub(REPO, token=WRITER).oid != first.oid


def test_a_hub_out_of_order_is_asked_again(hub, pull, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.add(REPO, files(a_model(), tmp_path / "m"))
    hub.broken = 10**6
    refused(pull, ConnectionError, "503")
    hub.broken = 0
    assert eqx.tree_equal(pull(), a_model())


def test_an_altered_weight_is_refused(hub, pull, tmp_path):
    hub.add(REPO, files(a_model(), tmp_path / "m"))
    hub.altered = True
    refused(pull, ValueError, "model.safetensors is not the file that was saved", "SHA-256")


def test_a_truncated_weight_is_refused(hub, pull, tmp_path):
    whole = files(a_model(), tmp_path / "m")
    hub.add(REPO, whole | {"model.safetensors": whole["model.safetensors"][:-8]})
    refused(pull, ValueError, "truncated or corrupt")


def test_of_two_that_push_the_second_is_told(hub):
    a_model(0).push_to_hub(REPO, token=WRITER)
    repo = hub.repos["models", REPO]

    def push_first(hub, method, path):
        if "/commit/" in path and len(repo.commits) == 2:
            repo.commit({"config.json": b"the other's"}, "the other's")

    hub.before = push_first
    refused(lambda: a_model(1).push_to_hub(REPO, token=WRITER), ValueError, "another commit in the meantime")
    assert repo.commits[repo.refs["main"]] == {"config.json": b"the other's"}


def test_the_origin_of_large_files_sees_no_token(hub, pull):
    a_model().push_to_hub(REPO, token=WRITER, private=True)
    pull(token=READER)
    assert not hub.tokens_seen_by_origin


@pytest.mark.slow
def test_two_processes_pull_at_once(hub, tmp_path):
    hub.add(REPO, files(a_model(pixels=64), tmp_path / "m"))
    environment = os.environ | {"HF_HOME": str(tmp_path / "home")}
    both = threading.Barrier(2, timeout=60)
    hub.before = lambda hub, method, path: path == f"/api/models/{REPO}" and both.wait()
    pulling = [subprocess.Popen([COMMAND, "pull", REPO], env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    shown = [process.communicate()[0].decode() for process in pulling]
    assert shown[0] == shown[1]
    assert [process.returncode for process in pulling] == [0, 0]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs the permissions of POSIX")
def test_a_cache_that_cannot_be_written_is_read_as_it_is(hub, tmp_path):
    """Online, too, and by root, who is kept from writing where permissions forbid it."""
    hub.add(REPO, files(a_model(), tmp_path / "m"))
    home = tmp_path / "home"
    environment = os.environ | {"HF_HOME": str(home)}
    subprocess.run([COMMAND, "pull", REPO], env=environment, check=True, capture_output=True)
    folders = [home, *(path for path in home.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    kept = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override"]
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root may write everywhere, and there is no setpriv")
    command = [*(kept if os.geteuid() == 0 else []), COMMAND, "info", REPO]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    for folder in folders:
        folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert f"{home} cannot be written; what is fetched lies in " in done.stderr
    assert "K memories" in done.stdout


def test_a_home_that_cannot_be_written_holds_no_cache(tmp_path):
    """No one may write below a file. A table of `datasets` is read all the same, by its cache elsewhere."""
    code = "import os, hamux_zoo; print(len(hamux_zoo.load_images(os.environ['DATA']).images), os.environ['HF_HOME'])"
    image = {
        "bytes": (Path(__file__).parents[2] / "zoo/src/hamux_zoo/weights/dense-hopfield-mnist/recall.png").read_bytes()
    }
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": [image, image]}, features).to_parquet(tmp_path / "train.parquet")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    environment |= {"HOME": "/dev/null/none", "DATA": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    count, home = done.stdout.split()
    assert (count, home) == ("2", re.search(r"lies in (\S+) until the end \(HF_HOME names", done.stderr)[1])
    assert not Path(home).exists()


# Each child is killed at a random moment of a save (of one of two models, over the other), or of a pull.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from hamux_zoo.files import find_folder, read_config, read_tensors, write_folder
import huggingface_hub.utils, huggingface_hub.errors, huggingface_hub.hf_api

CARD = "---\\nlibrary_name: hamux-zoo\\n---\\n"
what, folder = sys.argv[1], Path(sys.argv[2])
draw = random.Random(0)
models = [{f"t{i}": np.full(20_000, value + i, np.float32) for i in range(4)} for value in (0, 100)]
expected = {name: tensor.shape for name, tensor in models[0].items()}

def save(which):
    shard_size = (10**9, 200_000)[which]
    write_folder(folder, "two", {"model": which}, models[which], CARD, check=read_config, shard_size=shard_size)

def act(n):
    save(n % 2) if what == "save" else find_folder("me/mine", cache_dir=folder / str(n))

act(0)
started = time.perf_counter()
act(100)
whole = time.perf_counter() - started
cut = 0
for n in range(1, 51):
    child = os.fork()
    if not child:
        act(n)
        os._exit(0)
    time.sleep(draw.uniform(0, whole))
    os.kill(child, signal.SIGKILL)
    cut += os.waitpid(child, 0)[1] != 0
    if what == "save":
        config = read_config(folder)
        found = dict(read_tensors(folder, config["sha256"], expected))
        assert all((found[name] == models[config["config"]["model"]][name]).all() for name in expected), n
        assert not list(folder.glob(".saved"))
    else:
        found = find_folder("me/mine", cache_dir=folder / str(n))
        assert {path.name for path in found.iterdir()} == {"config.json", "model.safetensors", "README.md"}, n
        assert read_config(found)["sha256"] == read_config(find_folder("me/mine", cache_dir=folder / "0"))["sha256"]
if what == "save":
    save(0)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
print("cut short:", cut)
"""


@pytest.mark.parametrize("what", ["save", pytest.param("pull", marks=pytest.mark.slow)])
def test_killed_at_any_moment_the_next_run_works(hub, tmp_path, what):
    hub.add(REPO, files(a_model(pixels=128), tmp_path / "m"))
    killed = [sys.executable, "-W", "ignore", "-c", KILLED, what, str(tmp_path / "kept")]
    shown = subprocess.run(killed, capture_output=True, text=True, check=False, timeout=300)
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert int(shown.stdout.split()[-1]) > 10
