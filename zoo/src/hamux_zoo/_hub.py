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

from ._folder import CARD, CONFIG, INDEX, files_of, is_of_weights, read_config, read_text, write_config

_BUNDLED = Path(__file__).parent / "weights"
_CALLER: dict[str, Any] = {"library_name": "hamux-zoo", "library_version": importlib.metadata.version("hamux-zoo")}


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
    files of a model. What is in the cache serves when the Hub cannot be reached, or is not to be asked
    (`local_files_only`): for a branch the last commit that came whole. Other settings are the Hub's own: HF_TOKEN,
    HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE.

    **Raises** FileNotFoundError, with the bundled names that come nearest, when there is no such model, or revision;
    PermissionError when the Hub refuses the token; ConnectionError when it does not answer, and the cache does not hold
    all files; ValueError for a `revision` of what is not on the Hub.
    """
    bundled = list_pretrained()
    here = _BUNDLED / name if name in bundled else _folder_here(name)
    if here is not None:
        if revision is not None:
            raise ValueError(f'"{name}" is {here}, not on the Hub: it has no revision {revision!r}')
        return here
    near = difflib.get_close_matches(str(name), bundled)
    hint = f"did you mean {' or '.join(near)}?" if near else f"bundled are {', '.join(bundled)}"
    if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise FileNotFoundError(f'"{name}" is neither a bundled model nor a folder, nor a repo\'s "org/name"; {hint}')

    with answers(f'"{name}" is neither a bundled model nor a folder; of the repo', name, revision, hint):
        return _fetched(name, revision, _plain(token), cache_dir, local_files_only)


def _folder_here(name: str | os.PathLike[str]) -> Path | None:
    try:
        folder = Path(name).expanduser()
        return folder if os.fspath(name) and folder.is_dir() else None
    except (OSError, RuntimeError):  # a name that no path can have, or of no user
        return None


def _fetched(
    repo_id: str,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
) -> Path:
    """The folder of one commit in the Hub's cache. The Hub's library moves the branch there before it fetches; here the
    commit is asked for first, fetched by itself, and the branch moved when all of it is there."""
    from huggingface_hub import HfApi, errors, snapshot_download
    from huggingface_hub.utils import httpx

    options: Any = {"cache_dir": cache_dir, "token": token, **_CALLER}

    def snapshot(commit: str | None, local: bool) -> Path:
        """First the config, and then what it names."""
        fetch = partial(snapshot_download, repo_id, revision=commit, local_files_only=local, **options)
        folder = Path(fetch(allow_patterns=[CONFIG]))
        return Path(fetch(allow_patterns=[CONFIG, CARD, INDEX, *read_config(folder)["sha256"]]))

    if local_files_only:
        return snapshot(revision, True)
    try:
        pinned = revision is not None and re.fullmatch("[0-9a-f]{40}", revision)
        commit = revision if pinned else HfApi(token=token, **_CALLER).model_info(repo_id, revision=revision).sha
        folder = snapshot(commit, False)
    except (
        httpx.TransportError,
        errors.OfflineModeIsEnabled,
        errors.HfHubHTTPError,
        errors.LocalEntryNotFoundError,
    ) as unreachable:
        if getattr(getattr(unreachable, "response", None), "status_code", None) in (401, 403, 404):
            raise
        try:
            return snapshot(revision, True)
        except FileNotFoundError:
            raise unreachable from None
    if not pinned:  # a branch stands for the last commit that came whole
        ref = folder.parents[1] / "refs" / (revision or "main")
        ref.parent.mkdir(parents=True, exist_ok=True)
        aside = ref.with_name(f".{ref.name}-{os.getpid()}")
        aside.write_text(folder.name)
        aside.replace(ref)
    return folder


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model",
    create_pr: bool = False,
    token: str | bool | None = None,
    keep: bool = False,
) -> Any:
    """Bring a model's folder to the repo `repo_id` of the Hub, which is made where there is none, in one commit; none,
    where all is there already. The commit, a `huggingface_hub.CommitInfo`.

    `revision` is a branch, made where there is none. Weights of another save are deleted. The card is the folder's, in
    which `from_pretrained` of the folder becomes that of the repo; with `keep` a card that is there stays, and so do
    the classes' names that can be read, if the folder has none and as many classes.

    **Raises** as `find_folder` when there is no such folder, or the Hub refuses; ValueError when the repo has got
    another commit in the meantime, or its name or the card are not as the Hub wants them.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=_plain(token), **_CALLER)
    folder = Path(folder)
    names = files_of(folder)
    with answers("nothing was pushed to", repo_id, revision):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        info = api.model_info(repo_id, revision=revision)
        there = {file.rfilename for file in info.siblings or ()}
        if keep and CARD in there:
            names.remove(CARD)
        if keep and CONFIG in there:
            _keep_names(folder, Path(api.hf_hub_download(repo_id, CONFIG, revision=info.sha)).parent)
        operations: list[Any] = [CommitOperationAdd(name, folder / name) for name in names if name != CARD]
        if CARD in names:
            operations.append(CommitOperationAdd(CARD, _card_of(folder, repo_id).encode()))
        operations += [CommitOperationDelete(name) for name in sorted(there - set(names)) if is_of_weights(name)]
        return api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
            parent_commit=info.sha,
        )


def _keep_names(folder: Path, theirs: Path) -> None:
    """Give the folder's config the names of the classes in `theirs`."""
    saved = read_config(folder)
    try:
        other = read_config(theirs)
    except ValueError:  # of another library, or a newer hamux-zoo
        return
    same = saved["config"].get("classes") == other.get("config", {}).get("classes")
    if same and "class_names" in other and "class_names" not in saved:
        write_config(folder, saved | {"class_names": other["class_names"]})


def _card_of(folder: Path, repo_id: str) -> str:
    """The folder's card as that of the repo."""

    def at_the_hub(call: re.Match[str]) -> str:
        is_the_folder = call[1] == folder.name or Path(call[1]).resolve() == folder.resolve()
        return f'from_pretrained("{repo_id if is_the_folder else call[1]}")'

    card = re.sub(r'from_pretrained\("([^"]*)"\)', at_the_hub, read_text(folder, CARD))
    if folder.parent == _BUNDLED:  # what a bundled model was made of is brought to the same place
        card = re.sub("(?m)^base_model: ", rf"\g<0>{repo_id.partition('/')[0]}/", card, count=1)
    return card


def _plain(token: str | bool | None) -> str | bool | None:
    """**Raises** ValueError, which does not show it, for a token that no header can hold."""
    from huggingface_hub import get_token

    sent = token if isinstance(token, str) else get_token()
    if token is not False and sent is not None and not re.fullmatch("[!-~]+", sent):
        raise ValueError("the token holds a space, a line break or another character that no token has")
    return token


@contextlib.contextmanager
def answers(what: str, repo_id: str, revision: str | None = None, hint: str = "") -> Iterator[None]:
    """What the Hub answers, in terms of a model: the same errors of Python, whichever of its library's they were."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

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
            f"{where} it is not, or not wholly, in the Hub's cache, and the Hub was not asked or did not answer "
            f"({_said(error.__cause__ or error)}){hint}"
        ) from None
    except errors.GatedRepoError as error:
        raise PermissionError(f"{where} the Hub gives it to those alone who were granted it: {_said(error)}") from None
    except errors.RepositoryNotFoundError:
        raise FileNotFoundError(
            f"{where} the Hub shows no such repo; a private one it shows to a token that may see it (token=, HF_TOKEN)"
            f"{hint}"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise PermissionError(f"{where} the Hub refuses the token, or it may not do this: {_said(error)}") from None
        if status in (409, 412):
            raise ValueError(
                f"{where} it has got another commit in the meantime, and nothing of yours; look at that, and push again"
            ) from None
        if status in (400, 422):
            raise ValueError(f"{where} the Hub does not take it: {_said(error)}") from None
        raise ConnectionError(f"{where} the Hub answers {status}: {_said(error)}") from None
    except (httpx.HTTPError, errors.OfflineModeIsEnabled, RuntimeError) as error:  # RuntimeError: of an upload
        raise ConnectionError(f"{where} the Hub does not answer ({_said(error.__cause__ or error)})") from None


def _said(error: BaseException) -> str:
    """What the Hub says of an error, or else the error of itself, in a line and without a token."""
    said = getattr(error, "server_message", None) or str(error) or type(error).__name__
    return re.sub(r"hf_\w+|Bearer \S+", "(token)", said.strip().splitlines()[0])
