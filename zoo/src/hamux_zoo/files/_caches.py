"""A place for what the Hub's libraries fetch, where the home cannot be written."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path


def keep_caches_writable() -> None:
    """Sets HF_HOME to a temporary folder, and says so, if the Hub's libraries could not write into their own.

    The models and the token that lie there are still found. The libraries read these variables when they are imported.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = Path(os.environ.get("HF_HOME") or Path(caches, "huggingface")).expanduser()
    nearest = next(path for path in (home, *home.parents) if path.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return
    there = tempfile.mkdtemp(prefix="hamux-zoo-")
    atexit.register(shutil.rmtree, there, ignore_errors=True)
    for name, part in {"HF_HUB_CACHE": "hub", "HF_TOKEN_PATH": "token"}.items():
        if (home / part).exists():
            os.environ.setdefault(name, str(home / part))
    os.environ["HF_HOME"] = there
    print(
        f"{home} cannot be written; what is fetched lies in {there} until the end (HF_HOME names another place)",
        file=sys.stderr,
    )
