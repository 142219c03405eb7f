"""Google Drive's pages on 127.0.0.1, reached as the web is: through a proxy, over TLS, under Drive's own names."""

import contextlib
import shlex
import socket
import ssl
import subprocess

from tests.checkpoints.http_server import Server

HOSTS = ("drive.google.com", "drive.usercontent.google.com")
FOLDER = "https://drive.google.com/embeddedfolderview"
FILE = "https://drive.google.com/uc"
BEHIND = "https://drive.usercontent.google.com/download"


class Drive(Server):
    """A proxy that is every host it is asked for; what it serves has whole addresses."""

    def __init__(self, folder):
        super().__init__()
        self.certificate = folder / "certificate.pem"
        key = folder / "key.pem"
        names = ",".join(f"DNS:{host}" for host in HOSTS)
        command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={HOSTS[0]} -keyout {key}"
        command += f" -out {self.certificate} -addext subjectAltName={names}"
        command += " -addext keyUsage=digitalSignature,keyCertSign"
        subprocess.run(shlex.split(command), check=True, capture_output=True)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(self.certificate, key)
        self.http.RequestHandlerClass.do_CONNECT = lambda handler: self.connect(handler)

    def connect(self, handler):
        host = handler.path.partition(":")[0]
        handler.send_response(200)
        handler.end_headers()
        try:
            handler.connection = self.tls.wrap_socket(handler.connection, server_side=True)
        except (ssl.SSLError, OSError):
            handler.close_connection = True
            return
        handler.rfile = handler.connection.makefile("rb")
        handler.wfile = handler.connection.makefile("wb", buffering=0)
        handler.tunnel = f"https://{host}"
        handler.close_connection = False
        while not handler.close_connection:
            handler.handle_one_request()
        # The server closes the socket that it knows of, which is not the one that TLS has taken over.
        with contextlib.suppress(OSError):
            handler.connection.shutdown(socket.SHUT_RDWR)
        handler.connection.close()

    def answer(self, handler):
        handler.path = getattr(handler, "tunnel", "") + handler.path
        super().answer(handler)

    def show(self, address, page):
        self.put(address, b"", page=page.encode(), script=["html"] * 9)

    def folder(self, folder_id, title, files=(), folders=()):
        links = [
            f'<a href="https://drive.google.com/file/d/{id}/view?usp=drive_web">{name}</a>'
            for id, name in files
        ]
        links += [f'<a href="https://drive.google.com/drive/folders/{id}">{name}</a>' for id, name in folders]
        self.show(
            f"{FOLDER}?id={folder_id}", f"<html><head><title>{title}</title></head>{''.join(links)}</html>"
        )

    def file(self, file_id, content, *, scanned=False, **how):
        """A file; one that is too large to be scanned has a page before it."""
        how["headers"] = {"Content-Disposition": 'attachment; filename="f.pth"'}
        asked = f"{FILE}?export=download&id={file_id}"
        if scanned:
            self.put(asked, content, **how)
            return asked
        fields = {"id": file_id, "export": "download", "confirm": "t", "uuid": "u-1"}
        inputs = "".join(
            f'<input type="hidden" name="{name}" value="{value}">' for name, value in fields.items()
        )
        self.show(
            asked,
            "<html><head><title>Google Drive - Virus scan warning</title></head><body>"
            f'<form id="download-form" action="{BEHIND}" method="get">{inputs}</form></body></html>',
        )
        behind = f"{BEHIND}?{'&'.join(f'{name}={value}' for name, value in fields.items())}"
        self.put(behind, content, **how)
        return behind
