"""A place for what the Hub's libraries fetch, where the home cannot be written."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path


def keep_caches_writable() -> None:
    """Sets HF_HOME to a temporary folder, and says so, if the Hub's libraries could not write into their own.

    What lies in their own cache of models is still found. The libraries read these variables when they are imported.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = Path(os.environ.get("HF_HOME") or Path(caches, "huggingface")).expanduser()
    nearest = next(path for path in (home, *home.parents) if path.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return
    there = tempfile.mkdtemp(prefix="hamux-zoo-")
    atexit.register(shutil.rmtree, there, ignore_errors=True)
    if (home / "hub").is_dir():
        os.environ.setdefault("HF_HUB_CACHE", str(home / "hub"))
    os.environ["HF_HOME"] = there
    print(
        f"{home} cannot be written; what is fetched lies in {there} until the end (HF_HOME names another place)",
        file=sys.stderr,
    )
