"""A data set of the Hugging Face hub as a source: ``ORG/NAME``, of a revision or a folder ``ORG/NAME@REVISION/FOLDER``.

Where the hub answers, its files are streamed (``hf://``), of one commit whatever is pushed meanwhile. Where it does not
(no network, ``HF_HUB_OFFLINE``), the snapshot in the hub client's cache is read, as far as it was downloaded; which
files it lacks cannot be told from there.
"""

from __future__ import annotations

import functools
import os
import re

from raycurate.errors import UserError

SCHEME = "hub://"
_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<folder>.+?))?/?")


def is_hub(source: object) -> bool:
    """Whether a source is named on the hub."""
    return isinstance(source, str) and source.startswith(SCHEME)


@functools.lru_cache(maxsize=16)
def hub_folder(source: str) -> str:
    """The folder or URI whose files are those of a data set on the hub.

    Raises:
        UserError: a name that is none, or of a data set that is neither reached nor in the cache.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    found = _NAME.fullmatch(source.removeprefix(SCHEME))
    if found is None:
        raise UserError(f"'{source.removeprefix(SCHEME)}' is no name on the hub, such as ORG/NAME or ORG/NAME@REVISION")
    repo, revision, folder = found["repo"], found["revision"], found["folder"]
    below = f"/{folder}" if folder else ""
    try:
        commit = HfApi().dataset_info(repo, revision=revision, timeout=20).sha
        return f"hf://datasets/{repo}@{commit}{below}"
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(f"the hub has no data set {repo}: {str(error).splitlines()[0]}") from None
    except (HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
        not_reached = error
    except Exception as error:  # noqa: BLE001 - the HTTP library's own errors of a network that is not there
        not_reached = RuntimeError(f"{type(error).__name__}: {error}")
    try:
        path = snapshot_download(repo, repo_type="dataset", revision=revision, local_files_only=True) + below
    except (OSError, ValueError, RuntimeError):
        path = None
    if path is None or not os.path.isdir(path):
        raise UserError(
            f"the hub is not reached ({str(not_reached).splitlines()[0]}), and its cache has no {repo}{below}. Where "
            f"there is a network: hf download {repo} --repo-type dataset"
        )
    return path
