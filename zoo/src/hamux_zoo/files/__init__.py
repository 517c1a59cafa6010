"""A model's files: its folder, its card, the archives that others publish, and the Hugging Face Hub."""

from ._archive import Layout as Layout, read_archive as read_archive
from ._bundled import Bundled as Bundled, bundled as bundled
from ._caches import keep_caches_writable
from ._card import Card as Card, make_card as make_card, read_card as read_card
from ._folder import (
    CONFIG as CONFIG,
    WEIGHTS as WEIGHTS,
    SavedConfig as SavedConfig,
    contents as contents,
    is_junk as is_junk,
    read_config as read_config,
    read_tensors as read_tensors,
)
from ._hub import answers as answers, find_folder as find_folder, list_pretrained as list_pretrained
from ._push import push_folder as push_folder
from ._saving import SHARD_SIZE as SHARD_SIZE, write_folder as write_folder

keep_caches_writable()
