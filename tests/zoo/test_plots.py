"""Figures: what is drawn, and on which axes."""

import jax.numpy as jnp
import jax.random as jr
import matplotlib
import numpy as np

matplotlib.use("agg")
import matplotlib.pyplot as plt
from jax.tree_util import Partial
from PIL import Image, ImageSequence

import hamux
from hamux_zoo.show import draw_run, plots


def test_energy_curves_are_labelled_and_drawn_on_the_axes_given():
    _, ax = plt.subplots()
    curves = [np.array([3.0, 2.0, 1.5]), np.array([2.0, 1.0])]
    assert plots.energy_curves(curves, ["a", "b"], ax) is ax
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), curves[0])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert ax.get_xlabel() == "step"


def test_a_strip_shows_original_cue_steps_result_and_energies():
    path = np.linspace(0, 1, 6)[:, None, None, None] * np.ones((6, 4, 4, 1))
    row = plots.Row("noise", path[-1], path[0], path, np.arange(6.0)[::-1])
    figure = plots.recall_strip([row], shown=(1, 3))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["original", "corrupted", "step 1", "step 3", "result", ""]
    shown = [ax.images[0].get_array().max() for ax in figure.axes[:-1]]
    np.testing.assert_allclose(shown, [1, 0, 0.2, 0.6, 1])
    plt.close(figure)


def test_a_strip_of_all_steps_needs_no_result():
    path = np.linspace(0, 1, 6)[:, None, None, None] * np.ones((6, 4, 4, 3))
    rows = [plots.Row(f"photo {i}", path[-1], path[0], path, np.arange(6.0)[::-1]) for i in range(2)]
    figure = plots.recall_strip(rows, shown=(0, 3, 5), result=False)
    assert [ax.get_title() for ax in figure.axes[:5]] == ["original", "corrupted", "step 0", "step 3", "step 5"]
    assert [ax.get_ylabel() for ax in figure.axes[:10:5]] == ["photo 0", "photo 1"]
    np.testing.assert_allclose([ax.images[0].get_array().max() for ax in figure.axes[5:10]], [1, 0, 0, 0.6, 1])
    plt.close(figure)


def test_memories_are_laid_out_in_rows():
    _, given = plt.subplots()
    ax = plots.memories(np.random.default_rng(0).uniform(size=(5, 4, 4, 1)), columns=2, ax=given)
    assert ax is given
    assert ax.images[0].get_array().shape == (15, 10)
    plt.close(ax.figure)


def test_components_are_stacked_on_either_side_of_0():
    parts = {"neurons": np.array([1.0, 2.0]), "memory": np.array([-3.0, -5.0]), "label": np.array([2.0, 1.0])}
    ax = plots.energy_components(parts)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [0, -2])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["neurons", "memory", "label", "E"]
    heights = [area.get_paths()[0].vertices[:, 1] for area in ax.collections]
    assert [(h.min(), h.max()) for h in heights] == [(0, 2), (1, 2), (1, 3), (0, 0), (-5, 0), (-5, -3)]
    plt.close(ax.figure)


def test_many_parts_are_told_apart():
    ax = plots.energy_components({f"part {i}": np.ones(3) for i in range(14)})
    looks = {(tuple(area.get_facecolor()[0]), area.get_hatch()) for area in ax.collections[:14]}
    assert len(looks) == 14
    plt.close(ax.figure)


def test_basin_curves():
    levels = np.array([0.0, 0.5, 1.0])
    ax = plots.basin_curves(levels, {"β = 1": np.array([1.0, 0.5, 0.0])}, corruption="share of flips")
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [(0, 1), (0.5, 0.5), (1, 0)])
    assert ax.get_xlabel() == "share of flips"
    plt.close(ax.figure)


def test_a_landscape_with_paths():
    axis = np.linspace(-1, 1, 5)
    path = np.array([(0.5, 0.5), (0.2, 0.1), (0.0, 0.0)])
    ax = plots.landscape(axis, axis, axis[:, None] ** 2 + axis**2, [path], labels=("x₁", "x₂"))
    line, start, end = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), path)
    np.testing.assert_array_equal(np.concatenate([start.get_xydata(), end.get_xydata()]), path[[0, -1]])
    assert (ax.get_xlim(), ax.get_ylabel()) == ((-1, 1), "x₂")
    plt.close(ax.figure)


def test_a_gif_has_a_frame_for_every_step(tmp_path):
    path = np.linspace(0, 1, 4)[:, None, None, None] * np.ones((4, 6, 6, 1))
    figures = plt.get_fignums()
    plots.recall_gif(tmp_path / "recall.gif", path, np.array([3.0, 2.0, 1.5, 1.4]))
    with Image.open(tmp_path / "recall.gif") as gif:
        frames = [np.asarray(frame.convert("L"), float) for frame in ImageSequence.Iterator(gif)]
        assert gif.info["loop"] == 0
    assert len(frames) == 4  # the last one stays, for longer
    height, width = frames[0].shape
    brightness = [frame[height // 2, width // 5] for frame in frames]
    np.testing.assert_allclose(brightness, [0, 85, 170, 255], atol=4)
    assert plt.get_fignums() == figures


def test_a_ham_is_drawn_with_all_its_parts():
    layers = {"a": hamux.Neurons(hamux.lagr_tanh, 3), "b": hamux.Neurons(Partial(hamux.lagr_softmax, beta=2.0), (2, 2))}
    synapses = {"w": hamux.DenseSynapse(jr.key(0), 3, 2), "own": lambda g, h: -jnp.sum(g * h)}
    ham = hamux.HAM(layers, synapses, [(("a", "b"), "w"), (("a", "a"), "own")])
    xs = ham.init_states(key=jr.key(1))
    tree = ham.energy_tree(ham.activations(xs), xs)
    _, ax = plt.subplots()
    assert plots.draw(ham, tree, ax) is ax
    shown = {text.get_text().split("\n")[0]: text.get_text().split("\n")[1:] for text in ax.texts if text.get_text()}
    assert shown["a (3,)"] == ["tanh", f"E = {tree['neurons']['a']:.4g}"]
    assert shown["b (2, 2)"][0] == "softmax"
    assert shown["w"] == ["DenseSynapse", f"E = {tree['connections'][0]:.4g}"]
    assert shown["own"][1] == f"E = {tree['connections'][1]:.4g}"
    assert sum(not text.get_text() for text in ax.texts) == 4  # lines, two of them from "own" to "a"
    plt.close(ax.figure)


def test_rows_and_curves_are_drawn_on_the_axes_given():
    images = np.random.default_rng(0).uniform(size=(3, 4, 4, 1))
    _, axes = plt.subplots(2, 3)
    assert plots.image_rows({"given": images, "recalled": 1 - images}, ["a", "b", "c"], axes) is axes
    assert [ax.get_title() for ax in axes.flat] == ["a", "b", "c", "", "", ""]
    np.testing.assert_array_equal(axes[1, 2].images[0].get_array(), 1 - images[2].squeeze())
    lines = [{"step": 1, "loss": 2.0, "validation_loss": 3.0}, {"step": 2, "loss": 1.0, "validation_loss": 2.0}]
    _, ax = plt.subplots()
    assert plots.training_curves(lines, [ax]) == [ax]
    assert [list(line.get_ydata()) for line in ax.lines] == [[2, 1], [3, 2]]
    plt.close("all")


def test_a_run_gets_curves_and_samples(tmp_path):
    figures = plt.get_fignums()
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "validation_loss": 2.0}]
    rows = {"image": np.zeros((3, 4, 4, 1)), "reconstruct: recalled": np.ones((3, 4, 4, 1))}
    draw_run(tmp_path, lines, rows, ["a", "b", "c"])
    for name in ("curves.png", "samples.png"):
        with Image.open(tmp_path / name) as drawn:
            assert drawn.width > 300
    assert plt.get_fignums() == figures


def test_a_file_may_be_of_vectors(tmp_path):
    plots.save(plots.energy_curves([np.array([1.0, 0.5])], ["a"]), tmp_path / "energy.svg")
    assert "<svg" in (tmp_path / "energy.svg").read_text()
