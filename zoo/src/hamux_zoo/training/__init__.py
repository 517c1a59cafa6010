"""Training and fine-tuning."""

from ._calibrate import calibrate as calibrate
from ._devices import join_processes as join_processes
from ._finetune import finetune as finetune, train as train
from ._log import Line as Line
from ._probe import Probe as Probe, probe as probe
from ._recipe import Recipe as Recipe
from ._run import Draw as Draw
