"""A Hub of the tests' own, which is there before the Hub's libraries are imported: they read where it is then."""

import os
import sys
import tempfile

import pytest
from hub_server import Hub

assert "huggingface_hub" not in sys.modules
_HUB = Hub()
_HOME = tempfile.TemporaryDirectory()
os.environ |= {
    "HF_ENDPOINT": _HUB.url,
    "HF_HOME": _HOME.name,
    "HF_HUB_DISABLE_XET": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
    os.environ.pop(name, None)


@pytest.fixture
def hub():
    """The Hub, empty and whole."""
    _HUB.reset()
    yield _HUB
    _HUB.reset()


@pytest.fixture
def pull(tmp_path):
    """`from_pretrained` with a cache of the test's own."""
    from hub_client import REPO

    from hamux_zoo import from_pretrained

    return lambda name=REPO, **options: from_pretrained(name, cache_dir=tmp_path / "cache", **options)
