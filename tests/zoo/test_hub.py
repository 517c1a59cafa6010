"""Push and pull over HTTP, with the Hub's own clients, against a Hub of the tests' own, and its faults."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import equinox as eqx
import jax.random as jr
import numpy as np
import pytest
from hub_server import EXPIRED, READER, WRITER

import hamux_zoo
from hamux_zoo import DenseHopfield, DenseHopfieldConfig, from_pretrained

COMMAND = Path(sys.executable).with_name("hamux-zoo")
REPO = "me/mine"


def a_model(seed=0, pixels=3, memories=4):
    config = DenseHopfieldConfig(shape=(pixels, pixels, 1), memories=memories, classes=2, energy="polynomial")
    return DenseHopfield(config, key=jr.key(seed))


def files(model, folder):
    model.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def pull(tmp_path):
    """`from_pretrained` with a cache of the test's own."""
    return lambda name=REPO, **options: from_pretrained(name, cache_dir=tmp_path / "cache", **options)


def cached(folder):
    """The files of a cache that a model may be read from."""
    return [path for path in (folder / "cache").glob("models--*/snapshots/*/*") if path.is_file()]


def test_what_is_pushed_is_pulled(hub, pull):
    model = a_model()
    commit = model.push_to_hub(REPO, token=WRITER)
    repo = hub.repos["models", REPO]
    assert repo.refs["main"] == commit.oid
    assert repo.messages == ["initial commit", "Upload model"]
    assert {"config.json", "model.safetensors", "README.md"} < set(repo.commits[commit.oid])
    assert eqx.tree_equal(pull(), model)
    assert eqx.tree_equal(DenseHopfield.from_pretrained(REPO), model)


def test_pushing_what_is_there_makes_no_commit(hub):
    first = a_model().push_to_hub(REPO, token=WRITER)
    again = a_model().push_to_hub(REPO, token=WRITER)
    assert again.oid == first.oid == hub.repos["models", REPO].refs["main"]
    assert len(hub.repos["models", REPO].commits) == 2
    assert a_model(1).push_to_hub(REPO, token=WRITER).oid != first.oid


def test_only_a_models_files_are_fetched_each_once(hub, pull, tmp_path):
    hub.add(
        REPO,
        files(a_model(), tmp_path / "m") | {"optimizer.safetensors": b"x" * 100, "notes/a.txt": b"a", "../evil": b""},
    )
    pull()
    fetched = [line.split("/")[-1] for line in hub.log if line.startswith("GET") and "/api/" not in line]
    (weights,) = hub.objects
    assert sorted(fetched) == sorted(["README.md", "config.json", weights])
    assert {path.name for path in cached(tmp_path)} == {"README.md", "config.json", "model.safetensors"}
    hub.log.clear()
    pull()
    assert hub.log == [f"GET /api/models/{REPO}"]


def test_branch_tag_and_commit(hub, pull):
    from huggingface_hub import HfApi

    first = a_model(0).push_to_hub(REPO, token=WRITER)
    HfApi(token=WRITER).create_tag(REPO, tag="v1")
    a_model(1).push_to_hub(REPO, token=WRITER)
    a_model(2).push_to_hub(REPO, token=WRITER, revision="wild")
    for revision, seed in {None: 1, "main": 1, "v1": 0, first.oid: 0, "wild": 2}.items():
        assert eqx.tree_equal(pull(revision=revision), a_model(seed)), revision


def test_config_and_weights_are_of_one_commit(hub, pull, tmp_path):
    hub.add(REPO, files(a_model(0), tmp_path / "a"))
    later = files(a_model(1, pixels=4), tmp_path / "b")

    def push_between(hub, method, path):
        if "/resolve/" in path and len(hub.repos["models", REPO].commits) == 1:
            hub.repos["models", REPO].commit(later, "between config and weights")

    hub.before = push_between
    assert eqx.tree_equal(pull(), a_model(0))
    assert eqx.tree_equal(pull(), a_model(1, pixels=4))


def test_a_pull_request_leaves_main_alone(hub, pull):
    first = a_model(0).push_to_hub(REPO, token=WRITER)
    proposed = a_model(1).push_to_hub(REPO, token=WRITER, create_pr=True, commit_message="Better")
    assert proposed.pr_url.endswith("/discussions/1")
    assert hub.repos["models", REPO].refs["main"] == first.oid
    assert eqx.tree_equal(pull(revision="refs/pr/1"), a_model(1))


def test_a_card_that_is_there_stays_unless_another_is_given(hub):
    mine = "---\nlibrary_name: hamux-zoo\n---\n\n# Mine\n"
    for card, shown in {None: f"# {REPO}", mine: "# Mine"}.items():
        for seed in (0, 1):
            commit = a_model(seed).push_to_hub(REPO, token=WRITER, card=card)
            assert shown in hub.repos["models", REPO].commits[commit.oid]["README.md"].decode()
            card = None


def test_only_the_folders_own_name_becomes_the_repos(hub, tmp_path):
    card = '---\nlibrary_name: hamux-zoo\n---\n\nA.from_pretrained("mine"); B.from_pretrained("bert-base")\n'
    a_model().save_pretrained(tmp_path / "mine", card=card)
    commit = hamux_zoo.push_folder(tmp_path / "mine", REPO, token=WRITER)
    shown = hub.repos["models", REPO].commits[commit.oid]["README.md"].decode()
    assert shown.endswith(f'A.from_pretrained("{REPO}"); B.from_pretrained("bert-base")\n')


def test_names_of_classes_stay(hub, pull):
    first = a_model().push_to_hub(REPO, token=WRITER, class_names=["odd", "even"])
    assert pull().push_to_hub(REPO, token=WRITER).oid == first.oid
    config = json.loads(hub.repos["models", REPO].commits[first.oid]["config.json"])
    assert config["class_names"] == ["odd", "even"]


def test_the_card_is_one_of_the_hubs(hub):
    from huggingface_hub import ModelCard

    commit = a_model().push_to_hub(REPO, token=WRITER)
    card = ModelCard(hub.repos["models", REPO].commits[commit.oid]["README.md"].decode())
    data = card.data.to_dict()
    assert data["library_name"] == "hamux-zoo"
    assert data["license"] == "apache-2.0"
    assert data["pipeline_tag"] == "image-classification"
    assert "dense-hopfield" in data["tags"]
    assert f'DenseHopfield.from_pretrained("{REPO}")' in card.text


def test_shards_are_read_and_those_of_before_go(hub, pull, tmp_path):
    model = a_model()
    model.save_pretrained(tmp_path / "m", shard_size=100)
    hamux_zoo.push_folder(tmp_path / "m", REPO, token=WRITER)
    there = hub.repos["models", REPO]
    shards = [name for name in there.commits[there.refs["main"]] if name.startswith("model-")]
    assert len(shards) > 1
    index = json.loads(there.commits[there.refs["main"]]["model.safetensors.index.json"])
    assert set(index["weight_map"].values()) == set(shards)
    assert eqx.tree_equal(pull(), model)
    model.push_to_hub(REPO, token=WRITER)
    left = set(there.commits[there.refs["main"]])
    assert left == {".gitattributes", "config.json", "model.safetensors", "README.md"}
    assert eqx.tree_equal(pull(), model)


def refused(call, kind, *words):
    """The message of the error, which names no token."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert not re.search(r"hf_\w+|SECRET", message), message
    return message


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
    refused(lambda: pull("me/a--b"), ValueError, "a--b")
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


def run(*arguments, cwd, **environment):
    shown = os.environ | {"COLUMNS": "200", "HF_HOME": str(cwd / "home")} | environment
    return subprocess.run([COMMAND, *arguments], cwd=cwd, env=shown, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_push_and_pull_from_the_command_line(hub, tmp_path):
    a_model().save_pretrained(tmp_path / "run/model")
    pushed = run("push", "run/model", REPO, "--message", "Mine", cwd=tmp_path, HF_TOKEN=WRITER)
    assert pushed.returncode == 0, pushed.stderr
    repo = hub.repos["models", REPO]
    assert repo.refs["main"] in pushed.stdout
    assert repo.messages[-1] == "Mine"
    assert f'from_pretrained("{REPO}")' in repo.commits[repo.refs["main"]]["README.md"].decode()
    pulled = run("pull", REPO, cwd=tmp_path)
    assert f"DenseHopfield, commit {repo.refs['main']}" in pulled.stdout
    offline = run("pull", REPO, cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert offline.stdout == pulled.stdout
    assert "is here already" in run("pull", "dense-hopfield-mnist", cwd=tmp_path).stderr
    missing = run("pull", "me/none", cwd=tmp_path)
    assert missing.returncode == 1
    assert missing.stderr.startswith('error: "me/none" is neither')
    refused = run("push", "run/model", REPO, cwd=tmp_path, HF_TOKEN=READER)
    assert refused.returncode == 1
    assert "refuses the token" in refused.stderr
    assert "hf_" not in refused.stderr + pushed.stdout + pushed.stderr


@pytest.mark.slow
def test_the_readmes_example(hub, tmp_path):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (code,) = re.findall(r"^```python\n([^`]*push_to_hub[^`]*)^```$", readme, flags=re.MULTILINE)
    environment = os.environ | {"HF_TOKEN": WRITER, "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"pulled what was pushed, commit {hub.repos['models', 'me/my-memory'].refs['main']}: True\n"
    assert hub.repos["models", "me/my-memory"].private


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
def test_publish_brings_every_bundled_model(hub, tmp_path):
    published = run("publish", "--namespace", "zoo", cwd=tmp_path, HF_TOKEN=WRITER)
    assert published.returncode == 0, published.stderr
    names = hamux_zoo.list_pretrained()
    assert {repo for _, repo in hub.repos} == {f"zoo/{name}" for name in names}
    for name in names:
        pulled = from_pretrained(f"zoo/{name}", cache_dir=tmp_path / "cache")
        assert eqx.tree_equal(pulled, from_pretrained(name))
        there = hub.repos["models", f"zoo/{name}"]
        shown = there.commits[there.refs["main"]]
        base = re.search(rb"base_model: (.*)", shown["README.md"])
        assert base is None or base[1].decode().removeprefix("zoo/") in names
        assert all(picture in shown for picture in re.findall(r"!\[.*?\]\((.*?)\)", shown["README.md"].decode()))
    before = {repo.refs["main"] for repo in hub.repos.values()}
    run("publish", "--namespace", "zoo", cwd=tmp_path, HF_TOKEN=WRITER)
    assert {repo.refs["main"] for repo in hub.repos.values()} == before


# Each child is killed at a random moment of a save (of one of two models, over the other), or of a pull.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from hamux_zoo._folder import CONFIG, read_config, read_tensors, write_folder
from hamux_zoo._hub import find_folder
import huggingface_hub.utils, huggingface_hub.errors, huggingface_hub.hf_api

what, folder = sys.argv[1], Path(sys.argv[2])
draw = random.Random(0)
models = [{f"t{i}": np.full(20_000, value + i, np.float32) for i in range(4)} for value in (0, 100)]
expected = {name: tensor.shape for name, tensor in models[0].items()}

def save(which):
    write_folder(folder, {"model": which}, models[which], "card", shard_size=(10**9, 200_000)[which])

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
        assert all((found[name] == models[config["model"]][name]).all() for name in expected), n
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


def test_no_room_leaves_the_model_that_was_there(tmp_path):
    import resource

    a_model().save_pretrained(tmp_path / "m")
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    (tmp_path / "n").mkdir()
    (tmp_path / "n/README.md").mkdir()
    with pytest.raises(IsADirectoryError, match=r"README.md is a folder"):
        a_model().save_pretrained(tmp_path / "n")
    assert [path.name for path in (tmp_path / "n").iterdir()] == ["README.md"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = a_model(1, pixels=200)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            large.save_pretrained(tmp_path / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before
    large.save_pretrained(tmp_path / "m")
    assert np.array_equal(
        from_pretrained(tmp_path / "m").ham.synapses["memory"].xi[0], large.ham.synapses["memory"].xi[0]
    )
