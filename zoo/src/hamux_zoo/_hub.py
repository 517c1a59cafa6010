"""From a name to a folder of files: bundled, on the disk, or fetched from the Hugging Face Hub; and from a folder to
the Hub. Knows no model."""

import contextlib
import difflib
import importlib.metadata
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ._folder import CARD, CONFIG, INDEX, WEIGHTS, files_of, is_of_weights

_BUNDLED = Path(__file__).parent / "weights"
_CALLER: dict[str, Any] = {"library_name": "hamux-zoo", "library_version": importlib.metadata.version("hamux-zoo")}
_FETCHED = [CONFIG, CARD, WEIGHTS, INDEX, "model-?????-of-?????.safetensors"]


def list_pretrained() -> list[str]:
    """The names of the bundled pretrained models."""
    return sorted(folder.name for folder in _BUNDLED.iterdir() if (folder / CONFIG).is_file())


def find_folder(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of a bundled name, the folder that `name` is, or that of the Hub's repo "organisation/name".

    Of a repo one commit is fetched into the Hub's cache, that of `revision` (a branch, a tag or a commit), and only the
    files of a model; what is in the cache serves when the Hub cannot be reached, or is not to be asked
    (`local_files_only`). Other settings are the Hub's own: HF_TOKEN, HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE.

    **Raises** FileNotFoundError, with the bundled names that come nearest, when there is no such model, or revision;
    PermissionError when the Hub refuses the token; ConnectionError when it does not answer, and the cache does not hold
    all files; ValueError for a `revision` of what is not on the Hub.
    """
    bundled, folder = list_pretrained(), Path(name).expanduser()
    here = _BUNDLED / name if name in bundled else folder if folder.is_dir() else None
    if here is not None:
        if revision is not None:
            raise ValueError(f'"{name}" is {here}, not on the Hub: it has no revision {revision!r}')
        return here
    near = difflib.get_close_matches(str(name), bundled)
    hint = f"did you mean {' or '.join(near)}?" if near else f"bundled are {', '.join(bundled)}"
    if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise FileNotFoundError(f'"{name}" is neither a bundled model nor a folder, nor a repo\'s "org/name"; {hint}')

    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import httpx

    fetch = partial(snapshot_download, name, revision=revision, cache_dir=cache_dir, allow_patterns=_FETCHED)
    with _answers(f'"{name}" is neither a bundled model nor a folder; of the repo', name, revision, hint):
        try:
            return Path(fetch(token=token, local_files_only=local_files_only, **_CALLER))
        except httpx.TransportError:  # the Hub's library asks its cache when there is no connection, not when it breaks
            return Path(fetch(local_files_only=True))


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model",
    create_pr: bool = False,
    token: str | bool | None = None,
    keep_card: bool = False,
) -> Any:
    """Bring a model's folder to the repo `repo_id` of the Hub, which is made where there is none, in one commit; none,
    where all is there already. The commit, a `huggingface_hub.CommitInfo`.

    `revision` is a branch, made where there is none. Weights of another save are deleted; with `keep_card` a card that
    is there stays, else it is the folder's, in which `from_pretrained` is called with the repo's name.

    **Raises** as `find_folder` when there is no such folder, or the Hub refuses; ValueError when the repo has got
    another commit in the meantime, or its name or the card are not as the Hub wants them.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=token, **_CALLER)
    names = files_of(folder)
    with _answers("nothing was pushed to", repo_id, revision):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        info = api.model_info(repo_id, revision=revision)
        there = {file.rfilename for file in info.siblings or ()}
        if keep_card and CARD in there:
            names.remove(CARD)
        operations: list[Any] = [CommitOperationAdd(name, folder / name) for name in names if name != CARD]
        if CARD in names:
            card = re.sub(r'(?<=from_pretrained\(")[^"]*', repo_id, (folder / CARD).read_text(encoding="utf-8"))
            if folder.parent == _BUNDLED:  # what it was made of is brought to the same place
                card = re.sub("(?m)^base_model: ", rf"\g<0>{repo_id.partition('/')[0]}/", card)
            operations.append(CommitOperationAdd(CARD, card.encode()))
        operations += [CommitOperationDelete(name) for name in sorted(there - set(names)) if is_of_weights(name)]
        return api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
            parent_commit=info.sha,
        )


@contextlib.contextmanager
def _answers(what: str, repo_id: str, revision: str | None, hint: str = "") -> Iterator[None]:
    """What the Hub answers, in terms of a model: the same errors of Python, whichever of its library's they were."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    where = f"{what} {repo_id}" + (f", revision {revision}" if revision else "") + ":"
    hint = hint and f"; {hint}"
    try:
        yield
    except errors.RevisionNotFoundError:
        raise FileNotFoundError(f"{where} the Hub has the repo, but not the revision") from None
    except errors.LocalEntryNotFoundError as error:
        unreachable = error.__cause__ or error
        raise ConnectionError(
            f"{where} it is not, or not wholly, in the Hub's cache, and the Hub was not asked or did not answer "
            f"({_first_line(unreachable)}){hint}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise FileNotFoundError(
            f"{where} the Hub shows no such repo; a private one it shows to a token that may see it (token=, HF_TOKEN)"
            f"{hint}"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise PermissionError(
                f"{where} the Hub refuses the token, or it may not do this: {_first_line(error)}"
            ) from None
        if status in (409, 412):
            raise ValueError(
                f"{where} it has got another commit in the meantime, and nothing of yours; look at that, and push again"
            ) from None
        raise ConnectionError(f"{where} the Hub answers {status}: {_first_line(error)}") from None
    except (httpx.HTTPError, errors.OfflineModeIsEnabled, RuntimeError) as error:  # RuntimeError: of an upload
        raise ConnectionError(f"{where} the Hub does not answer ({_first_line(error.__cause__ or error)})") from None


def _first_line(error: BaseException) -> str:
    """What the Hub says of an error, or else the error of itself."""
    said = getattr(error, "server_message", None) or str(error) or type(error).__name__
    return said.strip().splitlines()[0]
