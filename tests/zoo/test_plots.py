"""Figures: what is drawn, and on which axes."""

import matplotlib
import numpy as np

matplotlib.use("agg")
import matplotlib.pyplot as plt

from hamux_zoo import plots


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
    figure = plots.retrieval_strip([row], shown=(1, 3))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["original", "corrupted", "step 1", "step 3", "result", ""]
    shown = [ax.images[0].get_array().max() for ax in figure.axes[:-1]]
    np.testing.assert_allclose(shown, [1, 0, 0.2, 0.6, 1])
    plt.close(figure)


def test_memories_are_laid_out_in_rows():
    ax = plots.memories(np.random.default_rng(0).uniform(size=(5, 4, 4, 1)), columns=2)
    assert ax.images[0].get_array().shape == (15, 10)
    plt.close(ax.figure)
