"""Images in: shipped samples, data sets from a folder, damage and augmentation."""

import time

import datasets
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from hamux_zoo import DenseHopfield, DenseHopfieldConfig, Recipe, finetune, load_images, load_samples, stream_images
from hamux_zoo.data import (
    AUGMENTATIONS,
    Images,
    Source,
    augment,
    batches,
    gaussian_noise,
    read,
    salt_and_pepper,
    split_off,
)
from hamux_zoo.pixels import from_picture, hide_part, upper_half


def saved(folder, images, **columns):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=3)})
    table = {"image": images, "label": list(range(len(images)))} | columns
    datasets.Dataset.from_dict(table, features=features).to_parquet(folder / "train.parquet")
    return folder


@pytest.mark.parametrize(("name", "label"), [("mnist", 7), ("fashion-mnist", 9)])
def test_samples_are_the_first_of_the_test_split(name, label):
    images, labels = load_samples(name)
    assert images.shape == (300, 28, 28, 1)
    assert labels[0] == label
    assert set(labels) == set(range(10))
    assert images.min() == 0
    assert images.max() == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_is_read_byte_for_byte(tmp_path, channels, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    bytes_ = np.random.default_rng(0).integers(0, 256, (3, 5, 4, channels), dtype=np.uint8)
    images, labels = load_images(saved(tmp_path, [b.squeeze() for b in bytes_]), "train")
    np.testing.assert_array_equal((255 * images).round(), bytes_)
    np.testing.assert_array_equal(labels, [0, 1, 2])


@pytest.fixture
def digits(hub, tmp_path):
    """A data set on the Hub: 30 images in three files."""
    bytes_ = np.random.default_rng(0).integers(0, 256, (30, 4, 4), dtype=np.uint8)
    files = {}
    for part in range(3):
        folder = tmp_path / str(part)
        folder.mkdir()
        path = (
            saved(folder, list(bytes_[10 * part : 10 * part + 10]), label=[i % 3 for i in range(10)]) / "train.parquet"
        )
        files[f"data/train-0000{part}-of-00003.parquet"] = path.read_bytes()
    files["data/test-00000-of-00001.parquet"] = files["data/train-00000-of-00003.parquet"]
    hub.add("someone/digits", files, kind="datasets")
    return bytes_[..., None] / np.float32(255)


def test_a_data_set_on_the_hub_is_read_and_stays(hub, digits):
    for _ in range(2):
        images, labels = load_images("someone/digits", "train")
        np.testing.assert_allclose(images, digits, rtol=1e-6)
        np.testing.assert_array_equal(labels, [i % 3 for i in range(10)] * 3)
        hub.down = True
    assert len(load_images("someone/digits", split="test").images) == 10


def test_a_revision_of_a_data_set(hub, digits, tmp_path):
    repo = hub.repos["datasets", "someone/digits"]
    first = repo.refs["main"]
    repo.commit({"data/train-00000-of-00001.parquet": repo.commits[first]["data/test-00000-of-00001.parquet"]}, "less")
    assert len(load_images("someone/digits").images) == 10
    assert len(load_images("someone/digits", revision=first).images) == 30
    assert sum(len(batch.images) for batch in stream_images("someone/digits", revision=first)) == 30
    for call in (load_images, stream_images):
        with pytest.raises(FileNotFoundError, match='"someone/digits" is neither a folder'):
            call("someone/digits", revision="v9")
        for data in (tmp_path, np.zeros((2, 4, 4), np.uint8)):
            with pytest.raises(ValueError, match="is not on the Hub: it has no revision 'v9'"):
                call(data, revision="v9")


def test_a_data_set_that_the_hub_does_not_show(hub, digits):
    for name in ("someone/none", "someone/secret"):
        hub.add("someone/secret", {"a.parquet": b""}, kind="datasets", private=True)
        with pytest.raises(FileNotFoundError, match=f'"{name}" is neither a folder with a data set nor one on the Hub'):
            load_images(name)


def test_the_card_of_a_run_says_what_it_is_from(hub, digits, tmp_path):
    model = DenseHopfield(DenseHopfieldConfig(shape=(4, 4, 1), memories=4, classes=3), key=jr.key(0))
    base, recipe = "dense-hopfield-mnist", Recipe(steps=2, batch_size=4, validation=0.1)

    def draw(path, lines, rows, titles):
        (path / "samples.png").write_bytes(b"a picture")

    finetune(model, "someone/digits", recipe, base_model=base, workdir=tmp_path / "run", draw=draw, quiet=True)
    card = ModelCard.load(tmp_path / "run/model/README.md")
    assert card.data.datasets == ["someone/digits"]
    assert card.data.base_model == base
    measured = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert measured.keys() == {"validation_loss", "validation_accuracy"}
    assert "![Examples](samples.png)" in card.text
    assert (tmp_path / "run/model/samples.png").is_file()
    assert f'from_pretrained("{tmp_path}/run/model")' in card.text


def test_a_table_cannot_name_files_elsewhere(hub, tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "secret.png")
    column = pa.array([{"bytes": None, "path": str(tmp_path / "secret.png")}])
    (tmp_path / "d").mkdir()
    features = datasets.Features({"image": datasets.Image()})
    schema = features.arrow_schema
    pq.write_table(pa.table({"image": column.cast(schema.field("image").type)}, schema), tmp_path / "d/train.parquet")
    hub.add("someone/evil", {"train.parquet": (tmp_path / "d/train.parquet").read_bytes()}, kind="datasets")
    for data in ("someone/evil", tmp_path / "d", tmp_path / "d/train.parquet"):
        for read_all in (load_images, lambda data: list(stream_images(data))):
            with pytest.raises(ValueError, match=r"secret.png cannot be read: it lies outside of the data set"):
                read_all(data)


def test_pictures_on_the_hub_are_streamed(hub, photos):
    files = {str(path.relative_to(photos.parent)): path.read_bytes() for path in photos.rglob("*.*")}
    hub.add(
        "someone/pics", {name.replace("photos", "train"): content for name, content in files.items()}, kind="datasets"
    )
    whole = load_images("someone/pics", shape=(8, 8, 3))
    batches = list(stream_images("someone/pics", shape=(8, 8, 3), batch_size=4))
    assert [len(batch.images) for batch in batches] == [4, 2]
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in batches]), whole.images)
    np.testing.assert_array_equal(np.concatenate([batch.labels for batch in batches]), whole.labels)
    hub.repos["datasets", "someone/pics"].commit(
        {"train/cats/a.png": b"no picture", "train/dogs/c.png": files["photos/dogs/c.png"]}, "broken"
    )
    with pytest.raises(ValueError, match=r"a.png cannot be read"):
        list(stream_images("someone/pics", shape=(8, 8, 3)))
    (left,) = stream_images("someone/pics", shape=(8, 8, 3), skip_bad=True)
    assert len(left.images) == 1


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_hub_that_goes_away_in_the_middle_is_not_a_bad_image(hub, photos, skip_bad, monkeypatch):
    files = {f"train/{path.parent.name}/{path.name}": path.read_bytes() for path in photos.rglob("*.*")}
    hub.add("someone/pics", files, kind="datasets")
    stream = stream_images("someone/pics", shape=(8, 8, 3), batch_size=2, skip_bad=skip_bad)
    assert len(next(stream).images) == 2
    hub.down = True
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the Hub's library's tries
    with pytest.raises(ConnectionError, match=r"someone/pics.* the Hub does not answer"):
        next(stream)


def test_a_stream_fetches_what_is_looked_at(hub, digits):
    stream = stream_images("someone/digits", batch_size=8)
    np.testing.assert_allclose(next(stream).images, digits[:8], rtol=1e-6)
    assert sum("train-00002" in line for line in hub.log if line.startswith("GET")) == 0
    rest = list(stream)
    assert [len(batch.images) for batch in rest] == [8, 8, 6]
    np.testing.assert_allclose(np.concatenate([batch.images for batch in rest]), digits[8:], rtol=1e-6)
    np.testing.assert_array_equal(rest[-1].labels, [1, 2, 0, 1, 2, 0])


def test_a_parquet_file_and_a_folder_are_streamed_as_they_are_read(tmp_path, photos, monkeypatch):
    path = saved(tmp_path, [np.full((4, 4), 50 * i, np.uint8) for i in range(3)]) / "train.parquet"
    whole = load_images(path)
    np.testing.assert_allclose(whole.images[:, 0, 0, 0], np.arange(3) * 50 / 255, rtol=1e-6)
    for batch in stream_images(path):
        np.testing.assert_array_equal(batch.images, whole.images)
        np.testing.assert_array_equal(batch.labels, [0, 1, 2])
    resized = np.concatenate([batch.images for batch in stream_images(photos, shape=(8, 8, 1), batch_size=4)])
    np.testing.assert_array_equal(resized, load_images(photos, shape=(8, 8, 1)).images)
    monkeypatch.setenv("HOME", str(photos.parent))
    np.testing.assert_array_equal(load_images("~/photos", shape=(8, 8, 1)).images, resized)
    with pytest.raises(ValueError, match="give the `shape`"):
        list(stream_images(photos))
    with pytest.raises(ValueError, match='has no split "test"'):
        stream_images(path, "test")
    with pytest.raises(ValueError, match="`batch_size` is 0; expected a whole number of at least 1"):
        stream_images(path, batch_size=0)
    (tmp_path / "torn.parquet").write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"torn.parquet\" cannot be read"):
        load_images(tmp_path / "torn.parquet")


def test_data_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a folder with a data set"):
        load_images(tmp_path / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match=r'no samples "imagenet"; there are .*"?mnist'):
        load_samples("imagenet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty\" holds no images and no data set"):
        load_images(tmp_path / "empty")
    with pytest.raises(ValueError, match=r'has no split "test"; there are \[.train.\]'):
        load_images(saved(tmp_path, [np.zeros((4, 4), np.uint8)]), "test")
    with pytest.raises(ValueError, match="data of type int"):
        load_images(3)


@pytest.fixture
def photos(tmp_path):
    """A folder of pictures as people have them: two classes, several sizes and modes, one lying on its side."""
    random = np.random.default_rng(0)
    for name, size, mode in (
        ("cats/a.png", (40, 20), "RGB"),
        ("cats/b.jpg", (20, 40), "L"),
        ("cats/c.png", (16, 16), "RGBA"),
        ("dogs/a.gif", (33, 20), "P"),
        ("dogs/b.png", (16, 16), "1"),
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(path)
    upright = Image.fromarray(np.concatenate([np.full((8, 16, 3), 255, np.uint8), np.zeros((8, 16, 3), np.uint8)]))
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90° clockwise
    upright.rotate(90).save(tmp_path / "photos/dogs/c.png", exif=turned)
    return tmp_path / "photos"


def test_a_picture_of_any_kind_becomes_an_image_of_the_shape(tmp_path):
    wide = Image.fromarray(np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3))
    wide.save(file := tmp_path / "wide.png")
    for picture in (wide, file, str(file), file.read_bytes()):
        image, notes = from_picture(picture, (4, 4, 3))
        assert notes == ("resized to 4 × 4 pixels",)
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, np.asarray(wide, np.float32)[:, 1:5] / 255)
        assert from_picture(picture, (2, 8, 1)).image.shape == (2, 8, 1)
    with pytest.raises(ValueError, match=r"`shape` has 2 channels; images from files have one of \[1, 3, 4\]"):
        from_picture(wide, (4, 4, 2))


def test_photos_of_many_sizes_and_modes_become_alike(photos):
    source = read(photos, shape=(16, 16, 3))
    assert source.images.images.shape == (6, 16, 16, 3)
    assert source.names == ("cats", "dogs")
    np.testing.assert_array_equal(source.images.labels, [0, 0, 0, 1, 1, 1])
    alike = "2 of 6 images were made of three equal channels"
    found = "6 pictures in 2 classes (cats 3, dogs 3)"
    assert source.notes == (found, "3 of 6 images were resized to 16 × 16 pixels", alike)
    np.testing.assert_array_equal(source.images.images[5, [0, 15], 8, 0], [255, 0])
    np.testing.assert_array_equal(load_images(photos, shape=(16, 16, 3)).images[5, [0, 15], 8, 0], [1, 0])
    assert load_images(photos, shape=(8, 8, 1)).images.shape == (6, 8, 8, 1)
    with pytest.raises(ValueError, match=r"several sizes or modes \(.* × .* RGB.*\); give the `shape`"):
        load_images(photos)
    with pytest.raises(ValueError, match=r"`shape` is \(28, 28\); expected three whole numbers"):
        load_images(photos, shape=(28, 28))
    with pytest.raises(ValueError, match="`shape` has 2 channels"):
        load_images(photos, shape=(8, 8, 2))


def test_a_corrupt_image_is_named_and_left_out_only_on_demand(photos):
    whole = (photos / "cats/a.png").read_bytes()
    (photos / "cats/broken.png").write_bytes(whole[: len(whole) // 2])
    (photos / "dogs/text.png").write_text("not an image")
    (photos / "dogs/empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cats/broken.png cannot be read: .*`skip_bad=True` leaves such images out"):
        load_images(photos, shape=(8, 8, 3))
    source = read(photos, shape=(8, 8, 3), skip_bad=True)
    assert len(source.images.images) == 6
    np.testing.assert_array_equal(source.images.labels, [0, 0, 0, 1, 1, 1])
    assert source.notes[-1].startswith("3 images cannot be read and were left out: ")
    assert all(name in source.notes[-1] for name in ("broken.png", "text.png", "empty.png"))
    for picture in photos.glob("*/*"):
        picture.write_bytes(b"")
    with pytest.raises(ValueError, match="holds no image that can be read"):
        load_images(photos, shape=(8, 8, 3), skip_bad=True)


def test_an_image_that_seems_to_be_a_bomb_is_a_bad_one(photos, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 4)
    with pytest.raises(ValueError, match=r"cats/.* cannot be read: .*decompression bomb"):
        load_images(photos, shape=(8, 8, 3))


def test_classes_are_understood_by_name():
    source = Source(Images(np.zeros((3, 2, 2, 1)), np.array([0, 1, 1])), ("bag", "coat"))
    named = source.numbered_as(["coat", "hat", "bag"])
    np.testing.assert_array_equal(named.images.labels, [2, 0, 0])
    assert named.names == ("coat", "hat", "bag")
    assert source.numbered_as([]) is source
    with pytest.raises(ValueError, match=r"does not know the classes \['coat'\]; it knows \['bag'\]"):
        source.numbered_as(["bag"])


@pytest.mark.parametrize(
    ("labels", "known", "names"),
    [
        ([100, 300, 200, 100], 0, ("100", "200", "300")),
        ([9, 4000000, 9, 9], 10, ("9", "4000000")),
        ([3, 7, 7, 3], 10, ()),
        ([1, 2, 3, 1], 0, ()),
        ([0, 2, 2, 0], 0, ()),
    ],
)
def test_sparse_labels_are_as_many_classes_as_there_are_labels(labels, known, names):
    source = Source(Images(np.zeros((4, 2, 2, 1)), np.array(labels)))
    dense = source.densely_numbered(known)
    assert dense.names == names
    shown = np.array(names)[dense.images.labels] if names else dense.images.labels
    np.testing.assert_array_equal(shown.astype(int), labels)


def test_a_models_names_that_are_numbers_are_the_labels_of_data_without_names():
    source = Source(Images(np.zeros((3, 2, 2, 1)), np.array([300, 100, 300])))
    np.testing.assert_array_equal(source.numbered_as(["100", "200", "300"]).images.labels, [2, 0, 2])
    with pytest.raises(ValueError, match=r"does not know the classes \['300'\]"):
        source.numbered_as(["100", "200"])


def test_arrays_and_tables_are_data_too():
    grey = np.random.default_rng(0).integers(0, 256, (4, 5, 6), dtype=np.uint8)
    images, labels = load_images((grey, [0, 1, 2, 1]))
    assert images.shape == (4, 5, 6, 1)
    np.testing.assert_array_equal((255 * images[..., 0]).round(), grey)
    np.testing.assert_array_equal(labels, [0, 1, 2, 1])
    assert load_images(images).labels is None
    floats = grey[..., None] / np.float32(255)
    for each in (jnp.asarray(grey), floats.tolist(), list(grey), jnp.asarray(floats)):
        found = load_images((each, jnp.array([0, 1, 2, 1])), shape=[5, np.int64(6), 1])
        np.testing.assert_allclose(found.images, images, atol=1e-6)
        np.testing.assert_allclose(load_images(each).images, images, atol=1e-6)
    halves = load_images(jnp.asarray(floats, jnp.bfloat16)).images
    assert halves.dtype == np.float32
    table = datasets.Dataset.from_dict({"image": list(grey)}, features=datasets.Features({"image": datasets.Image()}))
    np.testing.assert_array_equal(load_images(table).images, images)
    assert load_images(datasets.DatasetDict({"test": table}), "test").labels is None


def test_the_column_of_the_classes_may_be_named():
    columns = {"image": list(np.zeros((3, 4, 4), np.uint8)), "label": [0, 1, 0], "kind": ["b", "a", "a"]}
    kinds = {"image": datasets.Image(), "label": datasets.Value("int64"), "kind": datasets.Value("string")}
    features = datasets.Features(kinds | {"weight": datasets.Value("float32")})
    table = datasets.Dataset.from_dict(columns | {"weight": [0.5, 1.0, 2.0]}, features)
    assert list(load_images(table, label_column="kind").labels) == [1, 0, 0]
    assert list(load_images(table, label_column="label").labels) == [0, 1, 0]
    for column in ("weight", "species", "image"):
        with pytest.raises(ValueError, match=f'columns .*; expected whole numbers or names in "{column}"'):
            load_images(table, label_column=column)
    with pytest.raises(ValueError, match='`label_column` is "kind", but the data are arrays, which have no columns'):
        load_images(np.zeros((3, 4, 4)), label_column="kind")


@pytest.mark.parametrize("column", ["label", "labels", "class"])
def test_classes_may_be_numbers_of_any_kind_or_names(column):
    grey, features = np.zeros((3, 4, 4), np.uint8), {"image": datasets.Image()}
    for kind in ("int8", "int64", "uint16"):
        declared = datasets.Features(features | {column: datasets.Value(kind)})
        table = datasets.Dataset.from_dict({"image": list(grey), column: [2, 0, 1]}, declared)
        assert list(load_images(table).labels) == [2, 0, 1]
    declared = datasets.Features(features | {column: datasets.Value("string")})
    table = datasets.Dataset.from_dict({"image": list(grey), column: ["dog", "ant", "cat"]}, declared)
    for data in (table, (grey, ["dog", "ant", "cat"]), (grey, np.array(["dog", "ant", "cat"], object))):
        source = read(data)
        assert source.names == ("ant", "cat", "dog")
        assert list(source.images.labels) == [2, 0, 1]
    with pytest.raises(ValueError, match="which a stream cannot number"):
        next(stream_images(table.to_iterable_dataset()))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4)), [0, 1, 2], "labels have shape .* for 2 images"),
        (np.zeros((2, 4, 4)), [0.0, 1.0], "expected one whole number for each image"),
        (np.zeros((2, 4, 4)), [-1, 1], "labels range from -1 to 1; expected classes"),
        (np.zeros((2, 4, 4)), [0, 2**32], "labels range from 0 to 4294967296; expected classes"),
        (np.zeros((2, 4, 4), np.uint16), None, "dtype uint16; expected bytes"),
        (np.zeros((4, 4)), None, r"images have shape \(4, 4\)"),
        (np.zeros((0, 4, 4)), None, "images have shape"),
        (np.full((2, 4, 4), 255.0), None, r"images range from 255 to 255; expected floats in \[0, 1\], or bytes"),
        (np.linspace(-1, 1, 32).reshape(2, 4, 4), None, "images range from -1 to 1; expected"),
        (np.array([0.0, np.inf, 0.0, 0.5] * 8).reshape(2, 4, 4), None, "images range from 0 to inf; expected"),
        (np.array([0.0, np.nan, 0.0, 0.5] * 8).reshape(2, 4, 4), None, "images are NaN in 8 of 32 places"),
        (jnp.full((2, 4, 4), 2, jnp.bfloat16), None, "images range from 2 to 2"),
        ([[[0, 255], [3, 4]]], None, "dtype int64; expected bytes, .* uint8"),
        ([np.zeros((4, 4)), np.zeros((4, 5))], None, "images cannot be made an array"),
        (np.zeros((2, 4, 4)), ["cat", 1], "labels have shape .* expected one whole number"),
        (np.zeros((2, 4, 4), complex), None, "dtype complex128"),
    ],
)
def test_arrays_that_are_no_images_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        load_images((images, labels))


def test_arrays_are_not_resized_and_labels_are_among_the_names(tmp_path):
    with pytest.raises(ValueError, match=r"images have shape \(4, 4, 1\); the model takes \(8, 8, 1\)"):
        load_images(np.zeros((2, 4, 4)), shape=(8, 8, 1))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=2)})
    table = datasets.Dataset.from_dict({"image": [np.zeros((4, 4), np.uint8)] * 2, "label": [0, -1]}, features=features)
    with pytest.raises(ValueError, match="labels range from -1 to 0"):
        load_images(table)
    with pytest.raises(ValueError, match=r"has columns \['text'\]; expected one of images"):
        load_images(datasets.Dataset.from_dict({"text": ["a"]}))


def test_a_share_is_held_out():
    data = Images(np.arange(10.0).reshape(10, 1, 1, 1), np.arange(10))
    rest, held_out = split_off(data, 0.3, seed=0)
    assert sorted([*rest.labels, *held_out.labels]) == list(range(10))
    assert len(held_out.labels) == 3
    np.testing.assert_array_equal(held_out.images.ravel(), held_out.labels)
    with pytest.raises(
        ValueError, match=r"`validation` is 0\.99, which leaves no images .* of 10; `validation=0` holds none out"
    ):
        split_off(data, 0.99, seed=0)


def test_every_pass_shows_every_image_once_in_a_new_order_and_the_loader_goes_on_where_it_was():
    data = Images(np.arange(10.0).reshape(10, 1, 1, 1), np.arange(10))
    rows = slice(0, 4)
    loader = batches(data, 4, 0, rows)
    seen = [next(loader) for _ in range(5)]
    labels = np.concatenate([batch.labels for batch in seen])
    assert sorted(labels[:10]) == sorted(labels[10:]) == list(range(10))
    assert list(labels[:10]) != list(labels[10:])
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in seen]).ravel(), labels)
    again = batches(data, 4, 0, rows)
    for _ in range(3):
        next(again)
    state = again.get_state()
    other = batches(data, 4, 0, rows)
    other.set_state(state)
    np.testing.assert_array_equal(next(other).labels, seen[3].labels)
    in_order = batches(data, 4, None, rows)
    np.testing.assert_array_equal([*next(in_order).labels, *next(in_order).labels], range(8))


def test_corruptions_do_what_they_say():
    image = jnp.full((100, 100, 1), 0.5)
    peppered = salt_and_pepper(jr.key(0), image, 0.3)
    assert abs(float(jnp.mean(peppered != image)) - 0.3) < 0.02
    assert abs(float(jnp.mean(peppered == 1)) - 0.15) < 0.015
    noisy = gaussian_noise(jr.key(0), image, 0.1)
    assert abs(float(jnp.std(noisy)) - 0.1) < 0.005
    known = upper_half((5, 4, 3))
    assert known.sum() == 2 * 4 * 3
    assert known[:2].all()


def test_what_is_hidden_is_a_half_or_a_rectangle():
    known = np.asarray(jax.vmap(lambda key: hide_part(key, (28, 20, 3)))(jr.split(jr.key(0), 2000)))
    assert known.shape == (2000, 28, 20, 3)
    assert np.all(known == known[..., :1])
    upper = (known == upper_half((28, 20, 3))).all(axis=(1, 2, 3))
    assert abs(upper.mean() - 0.75 * 0.6) < 0.04
    halves = known.mean(axis=(1, 2, 3)) == 0.5
    assert abs(halves.mean() - 0.75) < 0.04
    hidden = ~known[~halves][..., 0]
    rows, columns = hidden.any(axis=2), hidden.any(axis=1)
    np.testing.assert_array_equal(hidden, rows[:, :, None] & columns[:, None, :])
    assert hidden.any(axis=(1, 2)).all()
    assert rows.sum(axis=1).max() <= 0.8 * 28 + 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_changes_an_image_a_little_and_stays_in_range(name, channels):
    image = jnp.zeros((28, 28, channels), jnp.float32).at[10:18, 8:18].set(0.8).at[20, 20].set(1.0)
    changed = np.asarray(jax.vmap(lambda key: augment(key, image, [name]))(jr.split(jr.key(0), 20)))
    assert changed.shape == (20, 28, 28, channels)
    assert changed.dtype == np.float32
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert len({each.tobytes() for each in changed}) >= 2
    again = np.asarray(augment(jr.split(jr.key(0), 20)[3], image, [name]))
    np.testing.assert_allclose(again, changed[3], atol=1e-6)
    brighter = changed.mean(axis=(1, 2, 3)) - np.mean(image)
    assert np.all(np.abs(brighter) < {"colour": 0.25, "noise": 0.3}.get(name, 0.05))


def test_augmentations_follow_one_another():
    image = jr.uniform(jr.key(1), (8, 8, 1), jnp.float32)
    key_flip, key_crop = jr.split(jr.key(2))
    expected = AUGMENTATIONS["crop"](key_crop, AUGMENTATIONS["flip"](key_flip, image))
    np.testing.assert_array_equal(augment(jr.key(2), image, ["flip", "crop"]), expected)
    np.testing.assert_array_equal(augment(jr.key(2), image, []), image)
