"""Pictures of every kind that people have become images of a memory's shape."""

import io

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from hamux_zoo.pixels import from_picture, open_picture

MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
MODES += ["I", "F", "I;16", "I;16B"]
rng = np.random.default_rng(0)


def stored(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(MODES),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([(4, 4, 1), (5, 3, 3), (4, 6, 4)]),
    st.sampled_from([None, "PNG", "TIFF", "GIF", "WEBP", "BMP", "JPEG"]),
    st.booleans(),
)
def test_a_picture_of_any_mode_and_format_becomes_an_image(mode, width, height, shape, kind, invert):
    if mode.startswith("I;"):
        picture = Image.fromarray(rng.integers(0, 2**16, (height, width)).astype("<u2" if mode == "I;16" else ">u2"))
    else:
        colours = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8))
        steps = {"La": ("LA", "La"), "RGBa": ("RGBA", "RGBa"), "PA": ("P", "PA"), "HSV": ("RGB", "HSV")}
        for step in {"I": ("L", "I"), "F": ("L", "F"), "YCbCr": ("RGB", "YCbCr"), **steps}.get(mode, (mode,)):
            colours = colours.convert(step)
        picture = colours
    if kind:
        try:
            picture = stored(picture, kind)
        except (OSError, ValueError):
            return  # a format that has no such mode
    image, notes = from_picture(picture, shape, invert=invert)
    assert image.shape == shape
    assert image.dtype == np.float32
    assert 0 <= image.min() <= image.max() <= 1
    assert all(isinstance(note, str) for note in notes)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int16, np.int64, bool, np.float32, np.float64])
def test_an_array_is_divided_by_the_most_that_its_type_holds(dtype):
    most = 1 if np.dtype(dtype).kind in "fb" else np.iinfo(dtype).max
    array = np.array([[0, most], [most, 0]]).astype(dtype)
    for pixels in (array, array[..., None], array.tolist() if np.dtype(dtype).kind == "f" else array):
        image, notes = from_picture(pixels, (2, 2, 1))
        np.testing.assert_array_equal(image[..., 0], [[0, 1], [1, 0]])
        assert not notes


def test_an_image_that_fits_stays_as_it_is():
    image = rng.uniform(size=(4, 4, 3)).astype(np.float32)
    assert from_picture(image, (4, 4, 3)).image is image
    inverted = from_picture(image, (4, 4, 3), invert=True).image
    np.testing.assert_array_equal(inverted, 1 - image)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 2), 1.5), "ranges from 1.5 to 1.5 is no picture; expected floats in \\[0, 1\\]"),
        (np.full((2, 2), np.nan), "ranges from nan"),
        (np.full((2, 2), -1), "from -1 to -1 is no picture"),
        (np.zeros((2, 2, 5)), r"shape \(2, 2, 5\) is no picture; .* with 1 or 3 channels"),
        (np.zeros(3), r"shape \(3,\) is no picture"),
        (np.array([["a"]]), "is no picture"),
    ],
)
def test_an_array_that_is_no_picture_is_refused(array, message):
    with pytest.raises(ValueError, match=message):
        from_picture(array, (2, 2, 1))


def test_sixteen_bits_and_floats_keep_their_contrast():
    deep = np.array([[0, 65535], [32768, 257]], np.uint16)
    image, _ = from_picture(Image.fromarray(deep), (2, 2, 1))
    np.testing.assert_array_equal(255 * image[..., 0], [[0, 255], [128, 1]])
    floats = Image.fromarray(np.array([[-3.0, 5.0], [1.0, np.nan]], np.float32))
    image, notes = from_picture(stored(floats, "TIFF"), (2, 2, 1))
    np.testing.assert_allclose(image[..., 0], [[0, 1], [0.5, 0]], atol=0.003)
    assert notes == ("scaled from its own range, -3 to 5",)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize(("ink", "expected"), [(0, "over white"), (255, "over black, since over white")])
def test_ink_on_transparency_is_never_an_empty_picture(mode, ink, expected):
    opacity = np.zeros((6, 6), np.uint8)
    opacity[2:4, 1:5] = 255
    channels = [np.full((6, 6), ink, np.uint8)] * (len(mode) - 1) + [opacity]
    picture = Image.fromarray(np.stack(channels, axis=-1), mode=None)
    image, notes = from_picture(stored(picture, "PNG"), (6, 6, 1))
    assert image.max() - image.min() == 1
    assert expected in notes[0]
    np.testing.assert_array_equal(np.abs(image[..., 0] - image[0, 0]) == 1, opacity == 255)
    grey = from_picture(picture, (6, 6, 1), background="#808080").image
    assert grey[0, 0] == pytest.approx(128 / 255)


def test_a_transparent_colour_of_a_palette_or_of_a_png_is_transparent():
    picture = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), mode=None).convert("P")
    picture.putpalette([255, 0, 0, 0, 0, 0])
    image, _ = from_picture(stored(picture, "PNG", transparency=0), (2, 2, 3))
    np.testing.assert_array_equal(image[0, 0], [1, 1, 1])
    np.testing.assert_array_equal(image[0, 1], [0, 0, 0])
    grey = Image.fromarray(np.array([[0, 200], [200, 0]], np.uint8))
    image, _ = from_picture(stored(grey, "PNG", transparency=0), (2, 2, 1))
    assert image[0, 0, 0] == 1


def test_what_was_done_is_said():
    grey = Image.fromarray(np.zeros((4, 4), np.uint8))
    assert from_picture(grey, (4, 4, 3)).notes == ("made of three equal channels",)
    assert from_picture(grey.convert("RGB"), (2, 2, 1)).notes == ("made grey", "resized to 2 × 2 pixels")
    frames = [Image.new("L", (4, 4), value) for value in (0, 99)]
    moving = stored(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert "taken as the first of 2 pictures in its file" in from_picture(moving, (4, 4, 1)).notes


def test_a_turned_picture_comes_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    upright, _ = open_picture(stored(lying, "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(upright), np.rot90(np.asarray(lying), -1))
