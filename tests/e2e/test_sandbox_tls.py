"""dcmferry-sandbox over TLS."""

import ssl
import subprocess
import urllib.error

import pytest
import websockets

from pdclient import PART_SIZE
from sandbox import API_KEY
from sandboxing import make, run, sha256  # noqa: F401


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """ca.pem, server.pem/.key for 127.0.0.1, client.pem/.key, and a stranger's CA."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for ca in ("ca", "stranger"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-subj", f"/CN={ca}", "-keyout", f"{ca}.key", "-out", f"{ca}.pem")
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
    for name, ca in (("server", "ca"), ("client", "ca"), ("impostor", "stranger")):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial",
                "-days", "2", "-extfile", "ext", "-out", f"{name}.pem")
    return folder


def tls_context(certificates, client=None):
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    if client:
        context.load_cert_chain(certificates / f"{client}.pem", certificates / f"{client}.key")
    return context


def test_tls(sandboxes, certificates, make):
    sandbox = sandboxes("--tls-cert", certificates / "server.pem", "--tls-key", certificates / "server.key")
    assert sandbox.url.startswith("https://")
    files = [make(3 * PART_SIZE + 7, seed=i) for i in range(4)] + [make(seed=50 + i) for i in range(30)]

    async def go():
        s = await sandbox.session(tls_context(certificates)).open()
        assert s.address.startswith("wss://")
        for _ in range(4):
            await s.add_uploader()
        await s.upload_all(files)
        await s.close()

    run(go())
    assert {digest for _, digest in sandbox.held()} == {sha256(f) for f in files}


def test_tls_client_certificate(sandboxes, certificates, make):
    sandbox = sandboxes("--tls-cert", certificates / "server.pem", "--tls-key", certificates / "server.key",
                        "--tls-client-ca", certificates / "ca.pem")

    async def go():
        s = await sandbox.session(tls_context(certificates, "client")).open()
        await s.upload_all([make()])
        await s.close()
        for client in (None, "impostor"):
            with pytest.raises((OSError, urllib.error.HTTPError)):
                await sandbox.session(tls_context(certificates, client)).open()
            with pytest.raises((OSError, websockets.InvalidStatusCode, websockets.InvalidMessage)):
                await websockets.connect(f"wss://127.0.0.1:{sandbox.port}/?ClientUniqueId={API_KEY}",
                                         ssl=tls_context(certificates, client))

    run(go())
    assert len(sandbox.held()) == 1
