"""From a folder to a repo of the Hugging Face Hub."""

import os
import re
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from ._card import read_card
from ._folder import CARD, CONFIG, INDEX, existing, is_of_weights, read_config, read_tensors, read_text
from ._hub import BUNDLED, answers, hub

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model",
    create_pr: bool = False,
    token: str | bool | None = None,
    keep_card: bool = False,
) -> "CommitInfo":
    """Pushes a model's folder to the repo `repo_id` of the Hub in one commit, and returns that commit.

    The folder is read first: what `from_pretrained` refuses is not pushed. A repo that does not exist is created. If
    everything is there already, nothing is committed. Weights of an older save are deleted.

    - `private`: whether a repo that is created now is private. `revision`: the branch, created if need be.
      `create_pr`: push as a pull request.
    - `keep_card`: leave a card that is there. Otherwise the folder's card replaces it, and its
      `from_pretrained("FOLDER")` becomes that of the repo.

    **Raises** ValueError or FileNotFoundError for files that are not a model's; PermissionError if the Hub refuses the
    token; ConnectionError if it does not answer; ValueError if someone else has pushed at the same time, or if the Hub
    does not take the repo's name or the card.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    folder = Path(os.path.expanduser(folder))
    names = _readable(folder)
    with answers("nothing was pushed to", repo_id, revision):
        api = hub(token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        info = api.model_info(repo_id, revision=revision)
        there = {file.rfilename for file in info.siblings or ()}
        kept = {CARD} & there if keep_card else set()
        added = [
            CommitOperationAdd(name, _card_of(folder, repo_id).encode() if name == CARD else folder / name)
            for name in names
            if name not in kept
        ]
        stale = [CommitOperationDelete(name) for name in sorted(there - set(names)) if is_of_weights(name)]
        return api.create_commit(
            repo_id,
            [*added, *stale],
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
            parent_commit=info.sha,
        )


def _readable(folder: Path) -> list[str]:
    """The names of the files of a model, and of the pictures beside them. **Raises** as `from_pretrained`."""
    checksums = read_config(folder)["sha256"]
    deque(read_tensors(folder, checksums), maxlen=0)
    others = [name for name in (INDEX, CARD) if (folder / name).is_file() and (name != INDEX or len(checksums) > 1)]
    if CARD in others:
        read_card(folder)
    pictures = sorted(picture.name for picture in folder.glob("*.png"))
    return [existing(folder, name).name for name in (CONFIG, *checksums, *others, *pictures)]


def _card_of(folder: Path, repo_id: str) -> str:
    """The folder's card as that of the repo."""

    def at_the_hub(call: re.Match[str]) -> str:
        is_the_folder = call[1] == folder.resolve().name or Path(call[1]).resolve() == folder.resolve()
        return f'from_pretrained("{repo_id if is_the_folder else call[1]}")'

    card = re.sub(r'from_pretrained\("([^"]*)"\)', at_the_hub, read_text(folder, CARD))
    if folder.parent == BUNDLED:  # a bundled model is pushed beside the one that it was made of
        card = re.sub("(?m)^base_model: ", rf"\g<0>{repo_id.partition('/')[0]}/", card, count=1)
    return card
