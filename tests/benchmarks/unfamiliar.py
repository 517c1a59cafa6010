"""How many pictures of each kind a memory flags as unlike what it learned.

    python tests/benchmarks/unfamiliar.py dense-hopfield-mnist conv-ham-mnist

Kinds are the rows of `_transfer_data` that fit the memory, their test pictures; and noise, each pixel drawn on its own.
Of each kind 1,000 are measured, or all. Of what a memory learned, about 5 % should be flagged; the rest are kinds that
it has not seen.
"""

import sys

import jax.numpy as jnp
import numpy as np
from _measure import record
from _transfer_data import ROWS

from hamux_zoo import from_pretrained
from hamux_zoo.memory import strangenesses

COUNT, BATCH = 1000, 100

for name in sys.argv[1:]:
    model = from_pretrained(name)
    if model.config.unfamiliar is None:
        sys.exit(f"{name} is not calibrated; hamux-zoo calibrate {name} --data DATA --out FOLDER does it")
    rng, shape = np.random.default_rng(0), model.config.shape
    kinds = {kind: draw("test").images for kind, draw in ROWS.items()}
    kinds = {kind: images for kind, images in kinds.items() if images.shape[1:] == shape}
    kinds["noise"] = rng.uniform(0, 1, (COUNT, *shape)).astype(np.float32)
    flagged = {}
    for kind, images in kinds.items():
        drawn = images[rng.permutation(len(images))[:COUNT]]
        parts = [jnp.asarray(drawn[start : start + BATCH]) for start in range(0, len(drawn), BATCH)]
        found = np.concatenate([strangenesses(model, part) for part in parts])
        flagged[kind] = round(100 * float(np.mean(found > model.config.unfamiliar)), 1)
    print(f"{name}: flagged, in percent: {flagged}", flush=True)
    record(f"unfamiliar-{name}", {"flagged": flagged})
