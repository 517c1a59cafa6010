"""Fresh processes: the commands, the import of `hamux`, and from nothing to the first recalled pattern.

Goals: `hamux-zoo --help` and `hamux-zoo list` below 0.8 s, `import hamux` below 0.3 s beyond `import jax, equinox`, the
first recalled pattern below 2.5 s.
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from _measure import alternate, record

FIRST_PATTERN = """
from hamux_zoo import DenseHopfield, load_samples
model = DenseHopfield.from_pretrained("dense-hopfield-mnist")
model.recall(load_samples("mnist").images[0]).x.block_until_ready()
"""
command = Path(sys.executable).with_name("hamux-zoo")
processes = {
    "hamux-zoo --help": [command, "--help"],
    "hamux-zoo list": [command, "list"],
    "import jax, equinox": [sys.executable, "-c", "import jax, equinox"],
    "import jax, equinox, hamux": [sys.executable, "-c", "import jax, equinox, hamux"],
    "first recalled pattern": [sys.executable, "-c", FIRST_PATTERN],
}
run = partial(subprocess.run, stdout=subprocess.DEVNULL, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
seconds = alternate({name: partial(run, process) for name, process in processes.items()}, rounds=5)
seconds["hamux beyond jax, equinox"] = seconds["import jax, equinox, hamux"] - seconds["import jax, equinox"]
for name, s in seconds.items():
    print(f"{name:27} {s:5.2f} s")
record("startup", {"seconds": seconds})
