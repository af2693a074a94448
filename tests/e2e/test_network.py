"""Trust and ways through the network, with the real programs: TLS, HTTP/2 servers, downgrades, proxies, rate, keys."""

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
import threading
import time

import pytest

import dicom
from ferry import Gone, ferries  # noqa: F401
from sandbox import ACCOUNT_KEY
from test_ferry import assert_all_held, sha256

WRONG_KEY = "cccccccc-3333-4333-8333-333333333333"


def drop(ferry, n, prefix="", **keywords):
    """Drops n files; their SHA-256s."""
    paths = [ferry.inbox / f"{prefix}{i}.dcm" for i in range(n)]
    for path in paths:
        dicom.write(path, **keywords)
    return {sha256(path) for path in paths}


def destination(ferry, name="cloud"):
    status = ferry.status()
    return next(d for d in status["destinations"] if d["name"] == name) if status else {"health": "?"}


def wait_health(ferry, text, seconds=30):
    ferry.wait(lambda: text in destination(ferry)["health"], seconds, f"the destination's health to be '{text}'")
    return destination(ferry)


def wait_delivered(ferry, sandbox, sums, seconds=60):
    ferry.wait(lambda: list(ferry.fates().values()) == ["delivered"] * len(sums), seconds,
               f"{len(sums)} files to be delivered")
    assert {sha for _, sha in sandbox.held()} == sums
    assert_all_held(ferry, sandbox)


# ---- TLS ----


class Certificates:
    """Two authorities, a server's certificate of the first, and a client's of each."""

    def __init__(self, folder):
        self.folder = folder
        for ca in ("ca", "other-ca"):
            self._openssl("req", "-x509", *self.KEY, "-days", "2", "-subj", f"/CN=test {ca}", "-keyout", f"{ca}.key",
                          "-out", f"{ca}.pem", "-addext", "basicConstraints=critical,CA:TRUE")
        self._sign("server", "ca", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        self._sign("misnamed", "ca", "subjectAltName=DNS:elsewhere.example.org")
        self._sign("client", "ca", "extendedKeyUsage=clientAuth")
        self._sign("stranger", "other-ca", "extendedKeyUsage=clientAuth")

    KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], check=True, cwd=self.folder, capture_output=True)

    def _sign(self, name, ca, extension):
        (self.folder / f"{name}.ext").write_text(extension + "\n")
        self._openssl("req", *self.KEY, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key",
                      "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")

    def __getitem__(self, name):
        return str(self.folder / name)

    def server(self, name="server", client_ca=False):
        """The sandbox's options."""
        return ["--tls-cert", self[f"{name}.pem"], "--tls-key", self[f"{name}.key"],
                *(["--tls-client-ca", self["ca.pem"]] if client_ca else [])]

    def client(self, name="client"):
        return {"client_cert": self[f"{name}.pem"], "client_key": self[f"{name}.key"]}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_tls_with_an_own_authority_and_a_client_certificate(sandboxes, ferries, certificates):
    cloud = sandboxes(*certificates.server(client_ca=True))
    assert cloud.url.startswith("https://")
    ferry = ferries({"cloud": {"router": cloud.url, "ca_file": certificates["ca.pem"], **certificates.client()}})
    ferry.start()
    sums = drop(ferry, 20) | drop(ferry, 2, "large", size=1_300_000)
    wait_delivered(ferry, cloud, sums)


@pytest.mark.parametrize("wrong, server, says", [
    ("authority", {}, "certificate"),
    ("name", {"name": "misnamed"}, "subject name"),
    ("no client certificate", {"client_ca": True}, "client certificate"),
    ("foreign client certificate", {"client_ca": True}, "client certificate"),
])
def test_without_trust_nothing_is_sent_and_nothing_lost(sandboxes, ferries, certificates, wrong, server, says):
    cloud = sandboxes(*certificates.server(**server))
    good = {"router": cloud.url, "ca_file": certificates["ca.pem"], **certificates.client()}
    bad = dict(good)
    if wrong == "authority":
        bad["ca_file"] = certificates["other-ca.pem"]
    elif wrong == "no client certificate":
        del bad["client_cert"], bad["client_key"]
    elif wrong == "foreign client certificate":
        bad.update(certificates.client("stranger"))
    ferry = ferries({"cloud": bad}).start()
    sums = drop(ferry, 5)
    ferry.wait(lambda: ferry.status()["files"]["queued"] == 5, 30, "the files to be journalled")
    error = wait_health(ferry, "refuses")["error"]
    assert says in error, error
    doctor = subprocess.run([ferry.command, "--config", ferry.config, "doctor", "--destination", "cloud"],
                            capture_output=True, text=True, env=ferry.environment, timeout=120)
    assert doctor.returncode == 1 and says in doctor.stdout, doctor
    assert ferry.status()["files"]["queued"] == 5 and not cloud.held()
    if wrong == "name":  # the server mends it
        cloud.stop()
        cloud.options = [str(o) for o in certificates.server()]
        cloud.start()
        ferry.ask("retry", "--destination", "cloud")
    else:
        ferry.write_config({"cloud": good})
        assert ferry.ask("reload")["ok"]
    wait_delivered(ferry, cloud, sums)


class Front:
    """Ends TLS in front of a sandbox, offering HTTP/2 before HTTP/1.1, and may rewrite what goes through."""

    def __init__(self, certificates, port, backend_tls, request=None, response=None):
        self.certificates, self.backend = certificates, port
        self.request, self.response = request or (lambda data: data), response or (lambda data: data)
        self.selected = []
        self.backend_context = None
        if backend_tls:
            self.backend_context = ssl.create_default_context(cafile=certificates["ca.pem"])
        self.loop = asyncio.new_event_loop()
        started = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self.thread.start()
        assert started.wait(20)
        self.url = f"https://localhost:{self.port}/"

    def _run(self, started):
        asyncio.set_event_loop(self.loop)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificates["server.pem"], self.certificates["server.key"])
        context.set_alpn_protocols(["h2", "http/1.1"])
        server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context))
        self.port = server.sockets[0].getsockname()[1]
        self.loop.call_soon(started.set)
        self.loop.run_forever()

    async def _pump(self, reader, writer, rewrite):
        try:
            while data := await reader.read(65536):
                writer.write(rewrite(data))
                await writer.drain()
        except (OSError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def _serve(self, reader, writer):
        self.selected.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        try:
            far = await asyncio.open_connection("localhost", self.backend, ssl=self.backend_context)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pump(reader, far[1], self.request), self._pump(far[0], writer, self.response))

    def stop(self):
        async def cancel():
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.loop.stop()
        asyncio.run_coroutine_threadsafe(cancel(), self.loop)
        self.thread.join(20)


@pytest.fixture
def fronts(certificates):
    made = []

    def make(*arguments, **keywords):
        made.append(Front(certificates, *arguments, **keywords))
        return made[-1]

    yield make
    for front in made:
        front.stop()


def test_a_server_that_would_rather_speak_http2(sandboxes, ferries, certificates, fronts):
    cloud = sandboxes(*certificates.server())
    front = fronts(cloud.port, True)
    ferry = ferries({"cloud": {"router": front.url, "ca_file": certificates["ca.pem"]}}).start()
    sums = drop(ferry, 10) | drop(ferry, 1, "large", size=1_300_000)
    wait_delivered(ferry, cloud, sums)
    assert len(front.selected) >= 4 and set(front.selected) <= {"http/1.1", None}, front.selected


def same_length(old, new):
    return new + b"/" * (len(old) - len(new))


@pytest.mark.parametrize("how, says", [("http", "without TLS"), ("ws", "without TLS"), ("host", "allowed_hosts")])
def test_a_router_that_leads_astray_is_not_followed(sandboxes, ferries, certificates, fronts, how, says):
    """An https router that hands out http or ws addresses, or those of a foreign host: no key goes there."""
    cloud = sandboxes(*([] if how == "http" else certificates.server()))
    rewrite = {}
    if how == "host":  # the sandbox names the host that it was asked as
        rewrite["request"] = lambda data: data.replace(b"Host: localhost:", b"Host: pacs.invalid:")
    elif how == "ws":
        rewrite["response"] = lambda data: data.replace(b'"wss://localhost:%d/socket"' % front.port,
                                                        b'"ws://localhost:%d/socket/"' % front.port)
    front = fronts(cloud.port, how != "http", **rewrite)
    ferry = ferries({"cloud": {"router": front.url, "ca_file": certificates["ca.pem"]}}).start()
    drop(ferry, 3)
    error = wait_health(ferry, "refuses")["error"]
    assert says in error, error
    assert ferry.status()["files"]["queued"] == 3 and not cloud.held()
    if how == "host":  # what the operator allows is another matter: then it only cannot be resolved
        ferry.write_config({"cloud": {"router": front.url, "ca_file": certificates["ca.pem"],
                                      "allowed_hosts": ["pacs.invalid"]}})
        assert ferry.ask("reload")["ok"]
        assert "allowed_hosts" not in wait_health(ferry, "not reachable").get("error", "")
    assert ferry.status()["files"]["queued"] == 3 and not cloud.held()


# ---- Proxies ----

PROXY_PASSWORD = "s3cret-Qz81"


class Proxy:
    """tinyproxy, on its own address so that its log shows who came through."""

    def __init__(self, folder, port, password=None):
        self.url = f"http://127.0.0.1:{port}"
        self.log_path = folder / "tinyproxy.log"
        config = folder / "tinyproxy.conf"
        config.write_text(f'Port {port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 100\nLogFile "{self.log_path}"\n'
                          "LogLevel Connect\n" + (f"BasicAuth ferry {password}\n" if password else ""))
        self.process = subprocess.Popen(["tinyproxy", "-d", "-c", config], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)

    def requests(self):
        """[(method, address)]"""
        lines = [line.split("Request (file descriptor ", 1)[1].split("): ", 1)[1].split()
                 for line in self.log_path.read_text().splitlines() if "Request (file descriptor" in line]
        return [(line[0], line[1]) for line in lines]

    def stop(self):
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def proxy(tmp_path, free_port):
    made = []

    def make(password=None):
        if not shutil.which("tinyproxy"):
            pytest.skip("tinyproxy is not installed")
        made.append(Proxy(tmp_path, free_port, password))
        return made[-1]

    yield make
    for p in made:
        p.stop()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("password", [None, PROXY_PASSWORD])
def test_through_a_proxy(sandboxes, ferries, certificates, proxy, tls, password):
    """HTTP and WebSocket both; while it refuses the password, or misses one, nothing goes past it."""
    cloud = sandboxes(*(certificates.server() if tls else []))
    through = proxy(password)
    options = {"router": cloud.url, "proxy": through.url}
    if tls:
        options["ca_file"] = certificates["ca.pem"]
    first = dict(options)
    ferry = ferries({"cloud": options})
    secret = ferry.root / "proxy_password"
    if password:
        secret.write_text("not this one")
        secret.chmod(0o600)
        options.update(proxy_user="ferry", proxy_password={"file": str(secret)})
        ferry.write_config({"cloud": first})
    ferry.start()
    sums = drop(ferry, 6) | drop(ferry, 1, "large", size=1_300_000)
    if password:
        for config in (first, options):
            ferry.write_config({"cloud": config})
            assert ferry.ask("reload")["ok"]
            error = wait_health(ferry, "refuses")["error"]
            assert "proxy" in error or "access refused" in error, error
            ferry.wait(lambda: ferry.status()["files"]["queued"] == 7, 30, "all files to be taken in")
            assert not cloud.held()
        secret.write_text(password)  # read again by itself, as the keys are
    wait_delivered(ferry, cloud, sums)
    asked = through.requests()
    tunnels = [address for method, address in asked if method == "CONNECT"]
    assert len(tunnels) >= 2, asked  # the session's WebSocket and one for uploads at least
    if not tls:
        assert any(method == "GET" for method, _ in asked), asked
    assert password is None or password not in ferry.log()


def test_a_dead_proxy_is_not_gone_around(sandbox, ferries, proxy):
    through = proxy()
    ferry = ferries({"cloud": {"router": sandbox.url, "proxy": through.url}})
    through.process.terminate()
    through.process.wait(20)
    ferry.start()
    drop(ferry, 2)
    wait_health(ferry, "not reachable")
    assert ferry.status()["files"]["queued"] == 2 and not sandbox.held()


# ---- Rate ----


def test_rate_limit(sandbox, ferries):
    """4 MB at 1 MB/s take some four seconds, and the limit is the destination's, not a connection's."""
    ferry = ferries({"cloud": {"router": sandbox.url, "rate_limit": "1MB/s", "connections": 4}})
    sums = drop(ferry, 8, size=500_000)
    begin = time.monotonic()
    ferry.start()
    wait_delivered(ferry, sandbox, sums)
    took = time.monotonic() - begin
    assert took >= 2, took
    ferry.write_config({"cloud": {"router": sandbox.url}})
    assert ferry.ask("reload")["ok"]
    more = drop(ferry, 8, "more", size=500_000)
    wait_delivered(ferry, sandbox, sums | more)


# ---- Keys ----


@pytest.mark.parametrize("which", ["account_key", "api_key"])
def test_refused_keys_are_read_again(sandbox, ferries, which):
    ferry = ferries({"cloud": sandbox.url})
    good = (ferry.root / which).read_text()
    (ferry.root / which).write_text(WRONG_KEY)
    ferry.start()
    sums = drop(ferry, 5)
    error = wait_health(ferry, "refuses our keys")["error"]
    assert WRONG_KEY not in error
    ferry.wait(lambda: ferry.status()["files"]["queued"] == 5, 30, "the files to be journalled")
    assert all(d["attempts"] == 0 for f in ferry.files() for d in f["deliveries"])
    part = ferry.root / "new_key"
    part.write_text(good)
    part.chmod(0o600)
    os.rename(part, ferry.root / which)
    wait_delivered(ferry, sandbox, sums)
    assert destination(ferry)["health"] == "healthy"
    assert WRONG_KEY not in ferry.log()


def test_keys_that_are_gone_stop_the_destination_alone(sandboxes, ferries):
    near, far = sandboxes(), sandboxes()
    ferry = ferries({"near": near.url, "far": far.url})
    own = ferry.root / "own_key"
    own.write_text(ACCOUNT_KEY)
    own.chmod(0o600)
    ferry.write_config({"near": near.url, "far": {"router": far.url, "account_key": {"file": str(own)}}})
    ferry.start()
    own.unlink()  # after the check at the start, before the first use
    sums = drop(ferry, 5)
    ferry.wait(lambda: len(near.held()) == 5, 30, "the other destination to have all")
    ferry.wait(lambda: "refuses" in destination(ferry, "far")["health"], 30, "the destination to stand still")
    own.write_text(ACCOUNT_KEY)
    ferry.wait(lambda: {sha for _, sha in far.held()} == sums, 30, "the rest")


def test_reload_by_signal_keeps_going_when_the_file_is_bad(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}).start()
    good = ferry.config.read_text()
    ferry.config.write_text("state: [\n")
    ferry.process.send_signal(signal.SIGHUP)
    ferry.wait(lambda: "refused, the old one stays" in ferry.log(), 20, "the log to say so")
    with pytest.raises(Gone):
        ferry.ask("status")  # the command reads the same file
    ferry.config.write_text(good)
    ferry.process.send_signal(signal.SIGHUP)
    ferry.wait(lambda: "the new configuration is in force" in ferry.log(), 20, "the log to say so")
    wait_delivered(ferry, sandbox, drop(ferry, 3))
