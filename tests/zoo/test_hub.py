"""Push and pull over HTTP, with the Hub's own clients, against a Hub of the tests' own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import pytest
from hub_client import REPO, a_model, cached, files, refused, run
from hub_server import READER, WRITER

import hamux_zoo
from hamux_zoo import DenseHopfield, from_pretrained
from hamux_zoo.files import read_card


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


def test_a_card_is_read_without_weights(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.add(REPO, files(a_model(), tmp_path / "m"))
    assert read_card(REPO).text == read_card(tmp_path / "m").text
    assert {path.name for path in cached(tmp_path)} == {"README.md", "config.json"}
    hub.down = True
    refused(lambda: from_pretrained(REPO), ConnectionError, REPO)
    hub.down = False
    assert eqx.tree_equal(from_pretrained(REPO), a_model())


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


def test_metadata_that_the_hub_does_not_take_are_said(hub):
    wrong = "---\nlibrary_name: hamux-zoo\npipeline_tag: Not One\n---\n"
    with pytest.raises(ValueError, match='"pipeline_tag" is Not One'):
        a_model().push_to_hub(REPO, token=WRITER, card=wrong)


def test_names_of_classes_travel_in_the_config(hub, pull):
    first = a_model(names=("odd", "even")).push_to_hub(REPO, token=WRITER)
    pulled = pull()
    assert pulled.config.class_names == ("odd", "even")
    assert pulled.push_to_hub(REPO, token=WRITER).oid == first.oid


@pytest.mark.parametrize("config", [b'{"model_type": "bert"}', b'{"format_version": 99}'], ids=["foreign", "newer"])
def test_a_config_that_cannot_be_read_is_replaced(hub, pull, config):
    hub.add(REPO, {"config.json": config, "README.md": b"# Another"})
    a_model().push_to_hub(REPO, token=WRITER)
    assert eqx.tree_equal(pull(), a_model())


def test_the_card_is_one_of_the_hubs(hub):
    from huggingface_hub import ModelCard

    commit = a_model().push_to_hub(REPO, token=WRITER)
    card = ModelCard(hub.repos["models", REPO].commits[commit.oid]["README.md"].decode())
    data = card.data.to_dict()
    assert data["library_name"] == "hamux-zoo"
    assert data["license"] == "apache-2.0"
    assert data["pipeline_tag"] == "image-classification"
    assert "dense-hopfield" in data["tags"]
    assert f'from_pretrained("{REPO}")' in card.text


def test_shards_are_read_and_those_of_before_go(hub, pull, tmp_path):
    model = a_model()
    model.save_pretrained(tmp_path / "m", shard_size=100)
    hamux_zoo.push_folder(folder=tmp_path / "m", repo_id=REPO, token=WRITER)
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
