"""Figures of memories at work (`plots`), the demo, and the app (`app`), which needs the extra `hamux-zoo[app]`."""

from ._demo import COLUMNS as COLUMNS, SHOWN as SHOWN, draw as draw, recalls as recalls
from ._pictures import picture_shape as picture_shape, samples_for as samples_for
from .plots import draw_run as draw_run
