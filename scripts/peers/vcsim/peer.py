"""Signs in at vcsim with VMware's own client."""

import os
import ssl
from urllib.parse import urlsplit

from pyVim.connect import SmartConnect


def content():
    """The vCenter at VCSIM_URL, as VCSIM_USERNAME."""
    url = urlsplit(os.environ["VCSIM_URL"])
    return SmartConnect(
        host=url.hostname,
        port=url.port,
        path=url.path,
        user=os.environ["VCSIM_USERNAME"],
        pwd=os.environ["VCSIM_PASSWORD"],
        sslContext=ssl.create_default_context(cafile=os.environ["VCSIM_CA_FILE"]),
    ).RetrieveContent()
