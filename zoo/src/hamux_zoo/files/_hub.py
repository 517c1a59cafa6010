"""From a name to a folder: bundled, on the disk, or fetched from the Hugging Face Hub."""

import contextlib
import difflib
import errno
import fnmatch
import importlib.metadata
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ._folder import CARD, CONFIG, INDEX, read_config

if TYPE_CHECKING:
    from huggingface_hub import HfApi

BUNDLED = Path(__file__).parents[1] / "weights"


def list_pretrained(pattern: str = "*") -> list[str]:
    """Returns the names of the bundled pretrained memories, or those that match a pattern such as "*mnist*"."""
    names = (folder.name for folder in BUNDLED.iterdir() if (folder / CONFIG).is_file())
    return sorted(fnmatch.filter(names, pattern))


def find_folder(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    weights: bool = True,
) -> Path:
    """Returns the folder of a bundled name, of a folder's path, or of the Hub's repo "organisation/name".

    Without `weights` only config and card are fetched. Other arguments and errors are those of
    `Memory.from_pretrained`. The Hub's cache serves when the Hub does not answer or is not to be asked: for a branch
    with the last commit that was fetched whole.
    """
    bundled = list_pretrained()
    here = BUNDLED / name if name in bundled else os.path.expanduser(name)
    if os.path.isdir(here):
        if revision is not None:
            raise ValueError(f'"{name}" is {here}, not on the Hub: it has no revision {revision!r}')
        return Path(here)
    near = difflib.get_close_matches(str(name), bundled)
    hint = f"did you mean {' or '.join(near)}?" if near else f"bundled are {', '.join(bundled)}"
    if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise FileNotFoundError(f'"{name}" is neither a bundled model nor a folder, nor a repo\'s "org/name"; {hint}')
    with answers(f'"{name}" is neither a bundled model nor a folder; of the repo', name, revision, hint):
        return _fetched(hub(token), name, revision, cache_dir, local_files_only, weights)


def _fetched(
    api: "HfApi",
    repo_id: str,
    revision: str | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
    weights: bool,
) -> Path:
    """The folder of one commit in the Hub's cache.

    The Hub's library moves a branch in the cache before it fetches. Here the commit is asked for and fetched first,
    and the branch moves when all of it is there.
    """
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    def snapshot(commit: str | None, local: bool) -> Path:
        fetch = partial(api.snapshot_download, repo_id, revision=commit, cache_dir=cache_dir, local_files_only=local)
        if not weights:
            return Path(fetch(allow_patterns=[CONFIG, CARD]))
        config = read_config(Path(fetch(allow_patterns=[CONFIG])))  # it names the files of the weights
        return Path(fetch(allow_patterns=[CONFIG, CARD, INDEX, *config["sha256"]]))

    if local_files_only:
        return snapshot(revision, True)
    try:
        pinned = revision is not None and re.fullmatch("[0-9a-f]{40}", revision)
        folder = snapshot(revision if pinned else api.model_info(repo_id, revision=revision).sha, False)
    except (httpx.TransportError, OSError) as unreachable:  # the Hub's own errors are OSErrors
        silent = (
            httpx.TransportError,
            errors.OfflineModeIsEnabled,
            errors.HfHubHTTPError,
            errors.LocalEntryNotFoundError,
        )
        refused = isinstance(unreachable, errors.HfHubHTTPError) and unreachable.response.status_code in (401, 403, 404)
        read_only = getattr(unreachable, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS)
        if refused or not (read_only or isinstance(unreachable, silent)):
            raise
        try:
            return snapshot(revision, True)
        except FileNotFoundError:
            raise unreachable from None
    if weights and not pinned:  # a branch stands for the last commit that was fetched whole
        ref = folder.parents[1] / "refs" / (revision or "main")
        with contextlib.suppress(OSError):  # of a cache that cannot be written
            ref.parent.mkdir(parents=True, exist_ok=True)
            aside = ref.with_name(f".{ref.name}-{os.getpid()}")
            aside.write_text(folder.name)
            aside.replace(ref)
    return folder


def hub(token: str | bool | None) -> "HfApi":
    """Returns a client of the Hub.

    **Raises** ValueError, which does not show the token, for one that no header can hold.
    """
    from huggingface_hub import HfApi, get_token

    sent = token if isinstance(token, str) else get_token()
    if token is not False and sent is not None and not re.fullmatch("[!-~]+", sent):
        raise ValueError("the token holds a space, a line break or another character that no token has")
    version = importlib.metadata.version("hamux-zoo")
    return HfApi(token=token, library_name="hamux-zoo", library_version=version)


@contextlib.contextmanager
def answers(what: str, repo_id: str, revision: str | None = None, hint: str = "") -> Iterator[None]:
    """Turns the Hub's errors into Python's own, in terms of a model."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    where = f"{what} {repo_id}" + (f", revision {revision}" if revision else "") + ":"
    hint = hint and f"; {hint}"
    try:
        yield
    except errors.HFValidationError as error:
        raise ValueError(f"{where} {_said(error)}") from None
    except errors.RevisionNotFoundError:
        raise FileNotFoundError(f"{where} the Hub has the repo, but not the revision") from None
    except errors.LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"{where} the Hub's cache does not wholly hold it, and the Hub was not asked or did not answer "
            f"({_said(error.__cause__ or error)}){hint}"
        ) from None
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{where} the Hub gives it only to those who were granted access: {_said(error)}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise FileNotFoundError(
            f"{where} the Hub shows no such repo; a private one needs a token that may see it (token=, HF_TOKEN){hint}"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise PermissionError(f"{where} the Hub refuses the token, or it may not do this: {_said(error)}") from None
        if status in (409, 412):
            raise ValueError(
                f"{where} someone has pushed another commit in the meantime; look at it, and push again"
            ) from None
        if status in (400, 422):
            raise ValueError(f"{where} the Hub does not take it: {_said(error)}") from None
        raise ConnectionError(f"{where} the Hub answers {status}: {_said(error)}") from None
    except (httpx.HTTPError, errors.OfflineModeIsEnabled, RuntimeError) as error:  # an upload raises RuntimeError
        raise ConnectionError(f"{where} the Hub does not answer ({_said(error.__cause__ or error)})") from None


def _said(error: BaseException) -> str:
    """What the Hub says of an error, or the error itself, in one line without a token."""
    from huggingface_hub.errors import HfHubHTTPError

    said = isinstance(error, HfHubHTTPError) and error.server_message
    lines = (said or str(error) or type(error).__name__).strip().splitlines()
    return re.sub(r"hf_\w+|Bearer \S+", "(token)", lines[0])
