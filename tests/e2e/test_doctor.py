"""dcmferry doctor: what it finds of a server whose behaviour is switched both ways, what it leaves there, and what it tells."""
import asyncio
import email.utils
import http.server
import json
import os
import pty
import re
import signal
import stat
import subprocess
import threading
import time

import pytest

import dicom
from ferry import ferries  # noqa: F401
from sandbox import ACCOUNT_KEY, API_KEY
from test_network import PROXY_PASSWORD, Certificates, proxy  # noqa: F401

OTHER_KEY = "cccccccc-3333-4333-8333-333333333333"
SETTLED = ["--destination", "cloud", "--wait", "0"]


def checked(text):
    """Nothing of it is a key, or a program's fault."""
    assert "Sanitizer" not in text and "runtime error" not in text, text
    for key in (ACCOUNT_KEY, API_KEY):
        assert key not in text.lower()
    return text


def doctor(ferry, *arguments, **options):
    """(exit status, stdout, stderr)"""
    r = subprocess.run([ferry.command, "--config", ferry.config, "doctor", *arguments], capture_output=True, text=True,
                       env={**ferry.environment, **options.pop("environment", {})}, timeout=300,
                       stdin=subprocess.DEVNULL, **options)
    return r.returncode, checked(r.stdout), checked(r.stderr)


def report(ferry, *arguments):
    """(exit status, the JSON, {row: its verdict})"""
    code, out, err = doctor(ferry, "--json", "--destination", "cloud", *arguments)
    assert err == "", err
    answer = json.loads(out)
    assert answer["ok"] == (code == 0)
    return code, answer, {row["row"]: row for row in answer["assumptions"]}


def steps(answer, result):
    return {step["step"]: step for step in answer["steps"] if step["result"] == result}


def rows_of(build):
    """{row: values, the default first}, as the sandbox has them."""
    text = subprocess.run([build / "daemon/sandbox/dcmferry-sandbox", "--help"], capture_output=True, text=True,
                          check=True).stdout
    return {row: values.split(" (")[0].split() for row, values in re.findall(r"^  --assume-([a-z-]+)=(.+)$", text, re.M)}


# ---- The assumptions ----

def test_all_holds(build, sandbox, ferries, tmp_path):
    """Of the sandbox as it is every row holds; nothing of the account is in the transcript, and nothing stays there."""

    async def fill():
        s = await sandbox.session().open()
        await s.create_folder("Zzyzxson Quirinius")
        await s.close()

    asyncio.run(fill())
    ferry = ferries({"cloud": sandbox.url})
    transcript = tmp_path / "transcript"
    transcript.write_text("old")
    transcript.chmod(0o644)
    code, text, err = doctor(ferry, "--destination", "cloud", "--yes", "--wait", "3s", "--transcript", transcript)
    assert (code, err) == (0, ""), text
    table = text[text.index("What is assumed"):]
    found = dict(re.findall(r"^holds +([a-z-]+)=(\S+): ", table, re.M))
    assert found == {row: values[0] for row, values in rows_of(build).items()}, table
    assert "does not hold" not in table and "could not" not in table and "--assume" not in table
    assert stat.S_IMODE(transcript.stat().st_mode) == 0o600
    kept = checked(transcript.read_text())
    assert kept == text
    for word in ("ProcessFile", "CreateFolder", "CheckFileExist", "RequestType 7", "524288 bytes", "DCMFERRY^DOCTOR"):
        assert word in kept, word
    for word in ("Zzyzxson", "sandbox@localhost", "Sandbox Hospital", *sandbox.users.values(),
                 *sandbox.institutions.values()):
        assert word not in kept, word
    # Of UUIDs the beginning at most.
    assert not re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-9]", kept)
    tree = sandbox.tree()
    assert [f["Path"] for f in tree["Folders"]] == ["Zzyzxson Quirinius"]
    assert all(o["Deleted"] for o in tree["Orders"]) and tree["Orders"], tree["Orders"]


FLIPS = [("parts-in-flight", "one"), ("exists-means", "any-part"), ("exists-scope", "folder"), ("exists-order", "none"),
         ("exists-delay", "1500"), ("part-answer", "last"), ("repeated-part", "refuse"), ("parts-survive", "no"),
         ("session-uuid", "initialize"), ("upload-session-idle", "2"), ("session-lifetime", "3"),
         ("session-lost", "close"), ("displace", "close"), ("displace", "forget"), ("idle-close", "2"), ("pong", "no"),
         ("max-connections", "3"), ("orders-merge", "session"), ("folder-list", "first"),
         ("folder-search", "contains"), ("create-existing", "error"), ("create-existing", "twin"),
         ("create-answer", "none"), ("folder-gone", "ignore"), ("same-instance", "keep"), ("answer-type", "6")]


def test_every_row_is_flipped(build):
    assert {row for row, _ in FLIPS} == set(rows_of(build))
    assert {flip for flip in FLIPS if not flip[1].isdigit()} == \
        {(row, value) for row, values in rows_of(build).items() for value in values[1:]}


@pytest.mark.parametrize("row, value", FLIPS)
def test_a_flipped_row_does_not_hold(sandboxes, ferries, row, value):
    sandbox = sandboxes(f"--assume-{row}={value}")
    ferry = ferries({"cloud": sandbox.url})
    code, answer, rows = report(ferry, "--yes", "--only", row, "--wait", "6s" if value in "23" else "0")
    verdict = rows[row]
    assert verdict["result"] == "does not hold", answer
    assert verdict["advice"], verdict
    if row in ("exists-delay", "upload-session-idle", "session-lifetime", "idle-close"):
        assert int(value) - 1 <= int(verdict["found"]) <= int(value) + (20000 if row == "exists-delay" else 5), verdict
    else:
        assert verdict["found"] == value
    assert code == 0 and not any(not order["Deleted"] for order in sandbox.tree()["Orders"])
    assert not sandbox.tree()["Folders"]


def test_many_flipped_at_once(sandboxes, ferries):
    """One does not hide another, and what the doctor needs for one it does not take for granted in another."""
    flips = dict(flip for flip in FLIPS if flip[0] not in ("exists-means", "displace", "upload-session-idle",
                                                           "session-lifetime", "idle-close"))
    flips["displace"] = "forget"
    flips["exists-delay"] = "600"
    sandbox = sandboxes(*(f"--assume-{row}={value}" for row, value in flips.items()))
    ferry = ferries({"cloud": sandbox.url})
    code, text, _ = doctor(ferry, "--yes", *SETTLED)
    assert code == 0, text
    switches = dict(re.findall(r"--assume-([a-z-]+)=(\S+)", text))
    delay = int(switches.pop("exists-delay"))
    assert 600 <= delay < 20000 and flips.pop("exists-delay")
    assert switches == flips, text
    told = re.findall(r"^could not be told +([a-z-]+):", text, re.M)
    assert sorted(told) == ["idle-close", "session-lifetime", "upload-session-idle"], text
    assert not sandbox.tree()["Folders"]


def test_settings_that_must_change(sandboxes, ferries):
    sandbox = sandboxes("--assume-parts-in-flight=one", "--assume-max-connections=2")
    ferry = ferries({"cloud": {"router": sandbox.url, "pipeline": 4, "connections": 6}})
    code, answer, rows = report(ferry, "--yes", "--only", "parts-in-flight,max-connections", "--wait", "0")
    assert code == 1
    assert rows["parts-in-flight"]["must_change"] and "pipeline: 1" in rows["parts-in-flight"]["advice"]
    assert "connections: 2" in rows["max-connections"]["advice"], rows
    assert set(rows) == {"parts-in-flight", "max-connections"}


def test_what_cannot_be_told_has_its_reason(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url})
    sandbox.faults("answer-error=1:on=upload")
    code, answer, rows = report(ferry, "--yes", "--wait", "0")
    assert rows["parts-in-flight"]["result"] == "could not be told"
    assert "An error on purpose" in rows["parts-in-flight"]["text"], rows
    assert rows["folder-search"]["result"] == "holds"
    assert not sandbox.tree()["Folders"]


# ---- What it leaves, and what it asks ----

@pytest.mark.parametrize("arguments", [["--read-only"], [], ["--json"]])
def test_without_consent_nothing_is_made(sandbox, ferries, arguments):
    ferry = ferries({"cloud": sandbox.url})
    code, text, _ = doctor(ferry, *arguments, *SETTLED)
    assert code == 0 and "folder list" in text, text
    assert "--json" in arguments or "all well" in text
    assert not sandbox.tree()["Folders"] and not sandbox.held()


@pytest.mark.parametrize("word", ["y", "n"])
def test_it_asks_at_a_terminal(sandbox, ferries, word):
    ferry = ferries({"cloud": sandbox.url})
    ours, theirs = pty.openpty()
    process = subprocess.Popen([ferry.command, "--config", ferry.config, "doctor", *SETTLED, "--only", "pong"],
                               stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ferry.environment)
    os.write(ours, f"{word}\n".encode())
    text = checked(process.communicate(timeout=120)[0].decode())
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0 and "Go on? [y/N]" in text, text
    for announced in ('"dcmferry doctor"', "DCMFERRY^DOCTOR", "delete"):
        assert announced in text[:text.index("Go on?")]
    assert ("pong=yes" in text) == (word == "y")
    assert sandbox.tree()["Orders"] == [] and not sandbox.tree()["Folders"]


def test_kept_and_named(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url})
    code, text, _ = doctor(ferry, "--yes", *SETTLED, "--keep", "--folder", "IT/doctor", "--only", "orders-merge")
    assert code == 0 and 'in "IT/doctor"' in text and "to remove it" in text, text
    (top,) = sandbox.tree()["Folders"]
    (folder,) = top["Folders"]
    assert folder["Path"] == "IT/doctor"
    assert len(sandbox.held()) == 2
    code, answer, _ = report(ferry, "--yes", "--wait", "0", "--folder", "IT/doctor", "--only", "orders-merge")
    assert code == 0 and "1 folders" in steps(answer, "warning")["left before"]["text"]
    assert len([held for held in sandbox.held() if held[0]]) == 2, "what was there before it stays"


def test_what_is_not_its_own_is_not_deleted(sandbox, ferries, tmp_path):
    """Somebody's study comes into its folder meanwhile, and another is in the account."""
    path = tmp_path / "theirs.dcm"
    dicom.write(path)
    data = path.read_bytes()
    ferry = ferries({"cloud": sandbox.url})
    process = subprocess.Popen([ferry.command, "--config", ferry.config, "doctor", "--destination", "cloud", "--yes",
                                "--json", "--only", "idle-close", "--wait", "8s"], stdout=subprocess.PIPE,
                               stdin=subprocess.DEVNULL, text=True, env=ferry.environment)

    async def intrude():
        s = await sandbox.session().open()
        uuid = None
        for name in ("dcmferry doctor", None, "A"):
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                found = [f for f in (await s.list_folders(uuid) if uuid else await s.list_folders())["SubFolderList"]
                         if name in (None, f["FolderName"])]
                if found:
                    break
                await asyncio.sleep(0.05)
            uuid = found[0]["FolderUuid"]
        await s.upload(await s.initialize(), 0, data, uuid)
        await s.close()

    asyncio.run(intrude())
    answer = json.loads(checked(process.communicate(timeout=120)[0]))
    assert process.returncode == 0
    left = steps(answer, "warning")["left behind"]
    assert "delete by hand" in left["advice"] and "not of its patient" in left["text"], left
    live = [o for o in all_orders(sandbox.tree()) if not o["Deleted"]]
    assert len(live) == 1 and len(live[0]["Instances"]) == 1
    assert dicom.PATIENT_ID not in json.dumps(answer)


def all_orders(node):
    return node["Orders"] + [order for folder in node["Folders"] for order in all_orders(folder)]


def test_interrupted_it_cleans_up(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url})
    process = subprocess.Popen([ferry.command, "--config", ferry.config, "doctor", "--destination", "cloud", "--yes",
                                "--only", "create-answer,exists-delay,idle-close", "--wait", "10m"],
                               stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT,
                               text=True, env=ferry.environment)
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("waiting 600 s"):
            break
    process.send_signal(signal.SIGINT)
    text = checked("".join(seen) + process.communicate(timeout=60)[0])
    assert process.returncode == 1 and "interrupted" in text, text
    assert re.search("^holds +exists-delay=0", text, re.M) and re.search("^could not be told +idle-close", text, re.M)
    assert not sandbox.tree()["Folders"] and all(o["Deleted"] for o in sandbox.tree()["Orders"])


# ---- The daemon ----

def test_the_daemon_stands_aside(sandboxes, ferries):
    """With a server on which two clients displace each other: the daemon pauses, its files wait and then go."""
    sandbox = sandboxes("--assume-displace=close")
    ferry = ferries({"cloud": sandbox.url}).start()
    dicom.write(ferry.inbox / "before.dcm")
    ferry.wait_settled(1)
    process = subprocess.Popen([ferry.command, "--config", ferry.config, "doctor", "--destination", "cloud", "--yes",
                                "--only", "displace,upload-session-idle", "--wait", "9s"], stdout=subprocess.PIPE,
                               stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, text=True, env=ferry.environment)
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("waiting"):
            break
    (status,) = ferry.status()["destinations"]
    assert status["paused"] and status["in_flight"] == 0
    human = subprocess.run([ferry.command, "--config", ferry.config, "status"], capture_output=True, text=True,
                           env=ferry.environment, timeout=60).stdout
    assert "paused for dcmferry doctor" in human
    dicom.write(ferry.inbox / "meanwhile.dcm")
    ferry.wait(lambda: ferry.fates().get("meanwhile.dcm") == "queued", 30, "the file to be journalled")
    assert process.poll() is None
    text = checked("".join(seen) + process.communicate(timeout=120)[0])
    assert process.returncode == 0, text
    assert re.search("^does not hold +displace=close", text, re.M)
    assert re.search("^holds +upload-session-idle=0", text, re.M), text  # nobody displaced the doctor for that long
    ferry.wait_settled(2)
    assert set(ferry.fates().values()) == {"delivered"}
    assert not ferry.status()["destinations"][0]["paused"]
    assert "pauses for dcmferry doctor" in ferry.log() and "goes on after" in ferry.log()


def test_it_works_without_a_daemon_and_without_its_socket(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url})
    code, answer, _ = report(ferry, "--read-only")
    assert code == 0 and "none is running" in steps(answer, "ok")["daemon"]["text"]
    ferry.start()
    ferry.kill()
    assert report(ferry, "--read-only")[0] == 0


# ---- The way there ----

def failing(ferry, step, *words, environment={}):
    """What failed is this step, and its texts say these words."""
    code, out, _ = doctor(ferry, "--json", "--yes", *SETTLED, environment=environment)
    answer = json.loads(out)
    (failed,) = [s for s in answer["steps"] if s["result"] == "failed"]
    assert code == 1 and failed["step"] == step and failed["advice"], answer
    for word in words:
        assert word in failed["text"] + failed["advice"], failed
    return answer


@pytest.mark.parametrize("which", ["account_key", "api_key"])
def test_wrong_keys(sandbox, ferries, which):
    ferry = ferries({"cloud": sandbox.url})
    (ferry.root / which).write_text(OTHER_KEY)
    answer = failing(ferry, "router", "refused", "account_key and api_key")
    assert OTHER_KEY not in json.dumps(answer)
    (ferry.root / which).write_text("not a key")
    code, answer, _ = report(ferry)
    assert code == 1 and "not a GUID" in steps(answer, "warning")[which]["text"]


def test_unreadable_keys(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url})
    (ferry.root / "api_key").unlink()
    failing(ferry, "keys", "api_key", "dcmferry check")


def test_dead_router(ferries, sandbox, free_port):
    ferry = ferries({"cloud": f"http://127.0.0.1:{free_port}/"})
    failing(ferry, "connection to the router", f"port {free_port}", "refused", "proxy:")


def test_unknown_name(ferries, sandbox):
    ferry = ferries({"cloud": "https://router.invalid/"})
    failing(ferry, "name of the router", "router.invalid", "resolv.conf")


@pytest.mark.parametrize("variable", [None, "http_proxy"])
def test_dead_proxy(ferries, sandbox, free_port, variable):
    """Configured, or from the environment."""
    proxy = f"http://user:s3cret@127.0.0.1:{free_port}"
    options = {"router": sandbox.url}
    if not variable:
        options["proxy"] = proxy.replace("user:s3cret@", "")
    ferry = ferries({"cloud": options})
    environment = {variable: proxy, "no_proxy": ""} if variable else {}
    answer = failing(ferry, "connection to the proxy", f"port {free_port}", environment=environment)
    assert "s3cret" not in json.dumps(answer)
    if variable:
        assert variable in steps(answer, "warning")["proxy"]["text"]
        excepted = {**environment, "no_proxy": "example.org, 127.0.0.1"}
        assert doctor(ferry, "--read-only", *SETTLED, environment=excepted)[0] == 0


def test_through_a_proxy(sandbox, ferries, proxy):  # noqa: F811
    through = proxy(PROXY_PASSWORD)
    ferry = ferries({"cloud": sandbox.url})
    secret = ferry.root / "proxy_password"
    secret.write_text(PROXY_PASSWORD)
    secret.chmod(0o600)
    ferry.write_config({"cloud": {"router": sandbox.url, "proxy": through.url, "proxy_user": "ferry",
                                  "proxy_password": {"file": str(secret)}}})
    code, answer, rows = report(ferry, "--yes", "--wait", "0", "--only", "pong,max-connections")
    assert code == 0 and "connection to the proxy" in steps(answer, "ok")
    assert {row["result"] for row in rows.values()} == {"holds"}
    assert PROXY_PASSWORD not in json.dumps(answer)
    secret.write_text("not this one")
    failing(ferry, "router", "proxy")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("server, authority, says", [("server", "other-ca.pem", "certificate"),
                                                     ("misnamed", "ca.pem", "subject name")])
def test_bad_tls(sandboxes, ferries, certificates, server, authority, says):
    cloud = sandboxes(*certificates.server(server))
    ferry = ferries({"cloud": {"router": cloud.url, "ca_file": certificates[authority]}})
    failing(ferry, "router", says, "ca_file")


def test_good_tls(sandboxes, ferries, certificates):
    cloud = sandboxes(*certificates.server(client_ca=True))
    good = {"router": cloud.url, "ca_file": certificates["ca.pem"], **certificates.client()}
    ferry = ferries({"cloud": good})
    code, answer, rows = report(ferry, "--yes", "--wait", "0", "--only", "parts-in-flight,pong")
    assert code == 0 and "TLS" in steps(answer, "ok")
    assert {row["result"] for row in rows.values()} == {"holds"}
    ferry.write_config({"cloud": {k: v for k, v in good.items() if not k.startswith("client")}})
    failing(ferry, "router", "client")


def test_unknown_user(sandbox, ferries):
    ferry = ferries({"cloud": {"router": sandbox.url, "user": "nobody@example.org"}})
    failing(ferry, "user and institution", "user", "institution:")


def test_websockets_that_do_not_get_through(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url})
    sandbox.faults("refuse-upgrade=502")
    failing(ferry, "WebSocket", "proxy or firewall")


def test_busy_server(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url})
    sandbox.faults("http-status=503")
    failing(ferry, "router", "503", "later")


@pytest.fixture
def stub():
    """A router whose clock is wrong, and whose answer is somebody's page."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response_only(200)
            self.send_header("Date", email.utils.formatdate(time.time() + 7200, usegmt=True))
            self.end_headers()
            self.wfile.write(b"<html>Please log in, " + self.path.encode() + b"</html>")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_clock_and_captive_portal(ferries, sandbox, stub):
    ferry = ferries({"cloud": stub})
    answer = failing(ferry, "router", "not a JSON object", "may not be PostDICOM")
    skew = re.search(r"it is (\d+) s behind", steps(answer, "warning")["clock"]["text"])
    assert skew and abs(int(skew[1]) - 7200) < 120 and "NTP" in steps(answer, "warning")["clock"]["advice"]


# ---- Wrong use ----

@pytest.mark.parametrize("arguments", [["--only", "pongs"], ["--wait", "soon"], ["--folder", "//"], ["--folders", "a"]])
def test_wrong_use(sandbox, ferries, arguments):
    ferry = ferries({"cloud": sandbox.url})
    code, out, err = doctor(ferry, "--destination", "cloud", *arguments)
    assert (code, out) == (2, "") and err.startswith("dcmferry doctor: "), err


def test_destination_that_is_not_there(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url})
    code, out, err = doctor(ferry, "--destination", "clod")
    assert (code, out) == (1, "") and "no such destination" in err
    assert doctor(ferry)[0] == 2
    ferry.config.write_text(ferry.config.read_text() + "wotch: 3\n")
    code, out, err = doctor(ferry, "--destination", "cloud")
    assert (code, out) == (1, "") and "wotch" in err and "did you mean" in err


def test_transcript_that_cannot_be_written(sandbox, ferries, tmp_path):
    ferry = ferries({"cloud": sandbox.url})
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "no" / "where", tmp_path / "link"):
        code, out, err = doctor(ferry, "--read-only", "--destination", "cloud", "--transcript", path)
        assert (code, out) == (1, "") and "transcript" in err
