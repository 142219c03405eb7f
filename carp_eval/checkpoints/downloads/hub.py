"""Files of the Hub, as requests: its address, and the login of its own client.

The transfer is ours, since `hf_hub_download` of today throws a broken-off file away and begins anew.
"""

import os

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.utils import build_hf_headers

from carp_eval.checkpoints.downloads.asking import Request
from carp_eval.checkpoints.downloads.sources import HubFile


def request(source: HubFile) -> Request:
    """Return what asks the Hub for a file; private repositories are asked with the Hub's own login."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    url = hf_hub_url(source.repo_id, source.path, revision=source.revision, endpoint=endpoint)
    return Request(url, headers=build_hf_headers(library_name="carp-eval"))


def offline() -> bool:
    """Tell whether the user asked that nothing be fetched: HF_HUB_OFFLINE."""
    return bool(constants.HF_HUB_OFFLINE)
