"""Folders of pictures: everything is used or named as left out."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from hamux_zoo.data import read, splits
from hamux_zoo.data._folders import find_pictures

SHAPE = (4, 4, 1)
TRAPS = [
    *(
        "train",
        "Test",
        "val",
        "dev",
        "eval",
        "validation set",
        "my test",
        "testing-2",
        "contrast",
        "a b",
        "[x]",
        "*",
        "q?",
    ),
    *("q?", "#1", "%20", 'it"s', "it's", "~", "ümlaut", "日本", "con.d", "a,b", "fruit", "apple", "-x", "{y}", "$HOME"),
]
NAMES = ["a.png", "b.PNG", "train.png", "x [1]#?.png"]


def picture(value):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def put(root, files):
    """Writes pictures of a value each, and returns the value of each file."""
    values = {}
    for i, name in enumerate(files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i + 1))
        values[path] = i + 1
    return values


def seen(source):
    return [int(value) for value in source.images.images[:, 0, 0, 0]]


ways = st.lists(
    st.tuples(
        st.lists(st.sampled_from(TRAPS), max_size=3), st.sampled_from(["a.png", "b.PNG", "train.png", "x [1]#?.png"])
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda way: ("/".join(way[0]), way[1]),
)


@settings(deadline=None, max_examples=60)
@given(ways, st.booleans())
def test_every_picture_is_used_or_named_with_the_right_class(ways, linked):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "my data [2]"
        values = put(root, ["/".join([*folders, name]) for folders, name in ways])
        if linked:
            (Path(folder) / "link").symlink_to(root)
            values = {Path(folder) / "link" / path.relative_to(root): value for path, value in values.items()}
            root = Path(folder) / "link"
        found = find_pictures(root)
        used = [file for files in found.files.values() for file in files]
        assert sorted([*used, *(file for file, _ in found.left_out)]) == sorted(values)
        for split, files in found.files.items():
            source = read(root, split, shape=SHAPE)
            assert seen(source) == [values[file] for file in files]
            assert f"{len(files)} pictures" in source.notes[0]
            if source.images.labels is not None:
                for file, label in zip(files, source.images.labels, strict=True):
                    assert source.names[label] in file.relative_to(root).parts[:-1]


@pytest.mark.parametrize(
    ("files", "split", "names", "labels"),
    [
        (["cat/a.png", "dog/b.png"], "train", ("cat", "dog"), [0, 1]),
        (["test/a.png", "trainee/b.png"], "train", ("test", "trainee"), [0, 1]),
        (["test/cat/a.png", "Training/cat/b.png", "Training/dog/c.png"], "train", ("cat", "dog"), [0, 1]),
        (["test/cat/a.png", "train/dog/b.png"], "test", ("cat", "dog"), [0]),
        (["valid/a.png", "train/b.png"], "validation", (), None),
        (["data/fruit/apple/fresh/a.png", "data/fruit/pear/b.png"], "train", ("apple", "pear"), [0, 1]),
        (["train/images/cat/a.png", "test/images/dog/b.png"], "train", ("cat", "dog"), [0]),
        (["a.png", "b.png"], "train", (), None),
        (["only/a.png"], "train", ("only",), [0]),
    ],
)
def test_splits_and_classes_follow_the_table(tmp_path, files, split, names, labels):
    put(tmp_path / "data", files)
    source = read(tmp_path / "data", split, shape=SHAPE)
    assert source.names == names
    assert labels is None if source.images.labels is None else list(source.images.labels) == labels
    assert split in splits(tmp_path / "data")


@pytest.mark.parametrize(
    ("class_folder", "names", "labels"),
    [
        (0, ("fruit", "roots"), [0, 0, 0, 1, 1]),
        (1, ("apple", "beet", "pear"), [0, 0, 2, 1]),
        (2, ("fresh",), [0]),
        (-1, ("apple", "beet", "fresh", "pear", "roots"), [0, 2, 3, 1, 4]),
        (-2, ("apple", "fruit", "roots"), [1, 0, 1, 2]),
    ],
)
def test_the_class_may_be_another_folder_on_the_way(tmp_path, class_folder, names, labels):
    deep = ["fruit/apple/a.png", "fruit/apple/fresh/b.png", "fruit/pear/c.png", "roots/beet/d.png", "roots/e.png"]
    put(tmp_path, [*deep, "f.png"])
    source = read(tmp_path, shape=SHAPE, class_folder=class_folder)
    assert source.names == names
    assert list(source.images.labels) == labels
    left_out = f"{len(deep) - len(labels)} in too few folders to have a class"
    assert (left_out in source.notes[1]) == (len(labels) < len(deep))


def test_a_folder_that_is_too_deep_is_refused(tmp_path):
    put(tmp_path, ["cat/a.png", "dog/b.png"])
    with pytest.raises(ValueError, match=r"`class_folder` is 1, and no picture in .* lies in so many folders"):
        read(tmp_path, shape=SHAPE, class_folder=1)


def test_what_is_left_out_is_named(tmp_path):
    put(tmp_path, ["cat/a.png", "dog/b.png", "c.png"])
    for name in ("cat/x.heic", "cat/y.HEIC", "notes.txt", ".DS_Store", "cat/._a.png"):
        (tmp_path / name).write_bytes(b"")
    source = read(tmp_path, shape=SHAPE)
    assert source.notes[0] == "2 pictures in 2 classes (cat 1, dog 1)"
    said = source.notes[1]
    assert said.startswith("4 files left out: 2 .heic")
    assert "2 .heic (not readable here; pip install pillow-heif)" in said
    assert "1 .txt (no picture)" in said
    assert "1 beside the folders of classes" in said


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("metadata.csv", "file_name,label\na.png,dog\nsub/b.png,cat\nd.png,cat\n"),
        ("metadata.jsonl", '{"file_name": "a.png", "class": "dog"}\n{"file_name": "sub/b.png", "class": "cat"}\n'),
    ],
)
def test_a_table_may_tell_the_classes(tmp_path, table, text):
    put(tmp_path, ["a.png", "sub/b.png", "c.png"])
    (tmp_path / table).write_text(text)
    source = read(tmp_path, shape=SHAPE)
    assert source.names == ("cat", "dog")
    assert seen(source) == [1, 2]
    assert list(source.images.labels) == [1, 0]
    assert source.notes[1] == f"1 files left out: 1 not named in {table}"
    named = read(tmp_path, shape=SHAPE, label_column="class" if table.endswith("jsonl") else "label")
    assert list(named.images.labels) == [1, 0]
    with pytest.raises(ValueError, match=r'has no metadata\.csv or metadata\.jsonl with .* file_name and "kind"'):
        read(tmp_path, shape=SHAPE, label_column="kind")
    (tmp_path / table).unlink()
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,a dog\n")
    said = "metadata.csv (without file_name and one of label, labels, class)"
    assert said in read(tmp_path, shape=SHAPE).notes[1]
    (tmp_path / "metadata.csv").write_bytes(b"")
    with pytest.raises(ValueError, match=r"metadata.csv cannot be read"):
        read(tmp_path, shape=SHAPE)


def test_links_are_followed_and_loops_are_not(tmp_path):
    real = tmp_path / "real"
    put(real, ["cat/a.png", "elsewhere.png"])
    data = tmp_path / "data"
    (data / "dog").mkdir(parents=True)
    (data / "cats").symlink_to(real / "cat")
    (data / "dog/b.png").symlink_to(real / "elsewhere.png")
    (data / "dog/loop").symlink_to(data)
    (data / "dog/dead.png").symlink_to(tmp_path / "nothing")
    source = read(data, shape=SHAPE)
    assert source.names == ("cats", "dog")
    assert seen(source) == [1, 2]
    assert source.notes[1] == "1 files left out: 1 a link to nothing"
