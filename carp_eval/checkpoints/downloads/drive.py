"""Files that Google Drive shares, as requests: its folders and the pages before its large files.

gdown knows how those pages are built; the transfer is ours, since gdown's takes up a broken-off file
without looking whether it is still the same.
"""

import gdown
import requests
from gdown.download import get_url_from_gdrive_confirmation
from gdown.exceptions import DownloadError

from carp_eval.checkpoints.downloads.asking import CONNECT_SECONDS, SILENT_SECONDS, Request, reason
from carp_eval.checkpoints.downloads.sources import DriveFile
from carp_eval.errors import CheckpointError

_ADDRESS = "https://drive.google.com/uc?export=download&id="
# Drive shows some of its pages to browsers alone.
_HEADERS = {"User-Agent": "Mozilla/5.0"}


def request(source: DriveFile) -> Request:
    """Return what asks Drive for a file; one in a folder is looked up there first.

    Raises:
        CheckpointError: If the folder cannot be read, or has no such file.
    """
    file_id = _in_folder(source) if source.path else source.id
    return Request(f"{_ADDRESS}{file_id}", headers=_HEADERS, follow=_past_the_page)


def _past_the_page(page: str) -> str:
    """Return the address behind the page which says that a file is too large to be scanned."""
    try:
        return get_url_from_gdrive_confirmation(page)
    except DownloadError as error:
        words = " ".join(str(error).split())
        raise CheckpointError(
            f"Google Drive shows a page instead of the file: {words} "
            "(a quota that is used up is free again after a day; in a browser with a login it often works at once)"
        ) from error


def _in_folder(source: DriveFile) -> str:
    try:
        listed = gdown.download_folder(
            id=source.id,
            quiet=True,
            skip_download=True,
            use_cookies=False,
            timeout=(CONNECT_SECONDS, SILENT_SECONDS),
        )
    except DownloadError as error:
        raise CheckpointError(f"its folder cannot be listed: {' '.join(str(error).split())}") from error
    except requests.exceptions.RequestException as error:
        raise CheckpointError(f"its folder cannot be listed: no connection: {reason(error)}") from error
    found = {file.path.replace("\\", "/"): file.id for file in listed if not isinstance(file, str)}
    if source.path not in found:
        names = ", ".join(sorted(found)[:10]) or "nothing"
        raise CheckpointError(f"its folder has no {source.path}; it has {names}")
    return found[source.path]
