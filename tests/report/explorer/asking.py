"""Asks a server as a stranger would: any header, any path, nothing followed."""

import http.client
import json
from urllib.parse import urlsplit


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.content = response.read()

    @property
    def told(self):
        return json.loads(self.content)


def ask(address, path="/", *, method=None, body=None, **headers):
    """Ask for a path as it is written; underscores in the names of headers stand for hyphens."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.putrequest(
        method or ("GET" if body is None else "POST"),
        path,
        skip_host="Host" in sent,
        skip_accept_encoding=True,
    )
    if body is not None and not {"Content-Length", "Transfer-Encoding"} & sent.keys():
        sent["Content-Length"] = str(len(body))
    for name, value in sent.items():
        connection.putheader(name, value)
    connection.endheaders()
    if body:
        connection.send(body)
    with connection.getresponse() as response:
        answer = Answer(response)
    connection.close()
    return answer
