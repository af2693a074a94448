"""The packages under a running systemd: installed, started, watched over, reloaded, stopped, upgraded, removed, as the unit
and the maintainer scripts have it. Needs root; `tests/run systemd` runs it, nothing else does."""
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "tests/e2e")]

import dicom  # noqa: E402
from machine import Machine, Unavailable  # noqa: E402

ACCOUNT_KEY = "aaaaaaaa-1111-4111-8111-111111111111"
API_KEY = "bbbbbbbb-2222-4222-8222-222222222222"
INBOX = "/srv/dicom/inbox"
DROP_IN = "/etc/systemd/system/dcmferryd.service.d/drop-folders.conf"
CONFIG = """\
state: /var/lib/dcmferry
watch:
  - path: /srv/dicom/inbox
    settle: 500ms
    settle_timeout: 2s
    %(watch)s
destinations:
  cloud:
    type: postdicom
    router: http://127.0.0.1:8042/
    account_key: {%(secret)s: %(at)saccount_key}
    api_key: {%(secret)s: %(at)sapi_key}
    retry: {min: 200ms, max: 1s}
routes:
  - name: all
    to: cloud
    folder: In/{Modality}
"""
KEYS_IN_FILES = {"secret": "file", "at": "/etc/dcmferry/"}
CREDENTIALS = {"secret": "credential", "at": ""}


@pytest.fixture(scope="session")
def packages(tmp_path_factory):
    """Built as README says, from a copy of the sources."""
    if not shutil.which("dpkg-buildpackage"):
        pytest.skip("dpkg-buildpackage is not installed")
    source = tmp_path_factory.mktemp("packages") / "dcmferry"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", "build*", "obj-*", "__pycache__"))
    done = subprocess.run(["dpkg-buildpackage", "-us", "-uc", "-b", "-Pnocheck"], cwd=source, capture_output=True, text=True,
                          env={k: v for k, v in os.environ.items() if not k.endswith("SAN_OPTIONS")})
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return [next(source.parent.glob(f"{name}_*.deb")) for name in ("dcmferry", "dcmferry-sandbox")]


@pytest.fixture(scope="session")
def machine(packages, tmp_path_factory):
    """With both packages, a server, and the user and group `modality`, which the drop folder belongs to."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    m = Machine(tmp_path_factory.mktemp("machine"))
    try:
        m.mount()
        m.boot()
        for package in packages:
            shutil.copy(package, m.path("/root"))
        m.packages = [f"/root/{package.name}" for package in packages]
        m.run("dpkg", "-P", "dcmferry-sandbox", "dcmferry", check=False)
        m.run("dpkg", "--force-unsafe-io", "-i", *m.packages)
        m.run("useradd", "--user-group", "--no-create-home", "modality")
        m.run("install", "-d", "-m", "2775", "-o", "modality", "-g", "modality", INBOX)
        m.owner = int(m.ask("id", "-u", "modality")), int(m.ask("id", "-g", "modality"))
        m.run("systemd-run", "--unit=pacs", "dcmferry-sandbox", "--state", "/var/pacs", "--listen", "127.0.0.1", "--port", "8042",
              "--account-key", ACCOUNT_KEY, "--api-key", API_KEY)
        yield m
    except Unavailable as e:
        pytest.skip(str(e))
    finally:
        m.close()


class Service:
    """dcmferryd in the machine, with keys that only it can read and the drop folder's group."""

    def __init__(self, machine):
        self.machine = machine
        group = int(machine.ask("id", "-g", "dcmferry"))
        for name, key in (("account_key", ACCOUNT_KEY), ("api_key", API_KEY)):
            machine.write(f"/etc/dcmferry/{name}", key, 0o640)
            os.chown(machine.path(f"/etc/dcmferry/{name}"), 0, group)
        self.drop_in()
        self.configure()

    def configure(self, watch="after_upload: keep", keys=KEYS_IN_FILES):
        self.machine.write("/etc/dcmferry/dcmferry.yaml", CONFIG % {"watch": watch, **keys})

    def drop_in(self, *lines):
        self.machine.write(DROP_IN, "\n".join(["[Service]", "SupplementaryGroups=modality", *lines, ""]))
        self.machine.run("systemctl", "daemon-reload")

    def start(self):
        self.machine.run("systemctl", "start", "dcmferryd")
        return self

    def pid(self):
        return int(self.machine.show("MainPID"))

    def drop(self, name, data=None, **attributes):
        """As the modality does: its own file, which others may not read, renamed into place."""
        path = self.machine.path("/srv/dicom") / f".{pathlib.Path(name).name}"
        target = self.machine.path(INBOX) / name
        if data is None:
            dicom.write(str(path), **attributes)
        else:
            path.write_bytes(data)
        if target.parent != self.machine.path(INBOX):
            target.parent.mkdir(exist_ok=True)
            os.chown(target.parent, *self.machine.owner)
            target.parent.chmod(0o2775)
        os.chown(path, *self.machine.owner)
        path.chmod(0o640)
        path.rename(target)
        return target

    def file(self, name):
        """What the daemon knows of the file; None: nothing yet."""
        answer = self.machine.run("dcmferry", "--json", "files", "--path", f"{INBOX}/{name}", check=False)
        rows = json.loads(answer.stdout) if answer.returncode == 0 else []
        return rows[0] if rows else None

    def wait(self, name, *states, seconds=30):
        self.machine.until(lambda: (self.file(name) or {}).get("state") in states, seconds, f"{name} to be {states}")
        return self.file(name)


@pytest.fixture
def service(machine):
    s = Service(machine)
    yield s
    machine.run("systemctl", "stop", "dcmferryd", check=False)
    machine.run("systemctl", "reset-failed", "dcmferryd", check=False)


def test_the_installation_starts_nothing_yet(machine):
    user = machine.ask("getent", "passwd", "dcmferry").split(":")
    assert user[5:] == ["/var/lib/dcmferry", "/usr/sbin/nologin"]
    st = machine.path("/etc/dcmferry").stat()
    assert (st.st_mode & 0o7777, st.st_uid, st.st_gid) == (0o750, 0, int(user[3]))
    assert machine.show("LoadState") == "loaded" and machine.show("ActiveState") == "inactive"
    assert machine.run("systemctl", "is-enabled", "dcmferryd", check=False).stdout.strip() == "disabled"


def test_what_check_prints_is_what_it_takes(machine, service):
    service.configure('after_upload: {move: "/srv/dicom/sent/{Modality}"}\n    rejected: /srv/dicom/rejected')
    before = machine.run("dcmferry", "check", check=False)
    assert before.returncode == 1, before.stdout + before.stderr
    lines = [line for line in before.stdout.splitlines() if line.startswith("ReadWritePaths=")]
    assert lines == ["ReadWritePaths=/srv/dicom"]
    assert "good" in [line for line in before.stdout.splitlines() if INBOX in line][0]  # by the unit's group
    for line in before.stdout.splitlines():
        if "install -d" in line:
            machine.run("sh", "-c", line[line.index("install -d"):])
    service.drop_in(*lines)
    machine.run("dcmferry", "check")
    service.start()
    inode = service.drop("a.dcm").stat().st_ino
    service.drop("b.dcm", b"this is not an image, but it is long enough to be one" * 10)
    assert service.wait("a.dcm", "disposed")["deliveries"][0]["state"] == "delivered"
    assert machine.path("/srv/dicom/sent/CT/a.dcm").stat().st_ino == inode  # renamed, not copied
    service.wait("b.dcm", "rejected")
    machine.until(lambda: machine.path("/srv/dicom/rejected/b.dcm").exists(), 20, "it to be moved")
    assert not list(machine.path(INBOX).iterdir())
    machine.until(lambda: "1 files delivered" in machine.show("StatusText"), 30, "the status")


def test_credentials_and_deletion(machine, service):
    service.configure("after_upload: delete\n    prune_empty: true", CREDENTIALS)
    os.chown(machine.path("/etc/dcmferry/api_key"), 0, 0)
    machine.path("/etc/dcmferry/api_key").chmod(0o600)
    lacking = machine.run("dcmferry", "check", check=False)
    assert lacking.returncode == 1
    lines = [line for line in lacking.stdout.splitlines() if line.startswith(("ReadWritePaths=", "LoadCredential="))]
    assert lines == [f"ReadWritePaths={INBOX}", "LoadCredential=account_key:/etc/dcmferry/account_key",
                     "LoadCredential=api_key:/etc/dcmferry/api_key"]
    service.drop_in(*lines)
    machine.run("dcmferry", "check")
    service.start()
    service.drop("sub/a.dcm")
    service.wait("sub/a.dcm", "disposed")
    machine.until(lambda: not list(machine.path(INBOX).iterdir()), 20, "the folder to go, too")


def test_workers_lock_themselves_in(machine, service):
    service.start()
    deep = b"".join(struct.pack("<HH4sIHHI", 8, 0x1140, b"SQ\0\0", 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
                    for _ in range(100_000))
    service.drop("hostile.dcm", b"\0" * 128 + b"DICM" + struct.pack("<HH2sH", 2, 16, b"UI", 20) + b"1.2.840.10008.1.2.1\0" + deep)
    service.drop("a.dcm")
    service.wait("a.dcm", "delivered")
    service.wait("hostile.dcm", "rejected")

    daemon, = machine.daemons()
    workers = machine.children(daemon["Pid"])
    assert workers and daemon["Seccomp"] == "2"
    for worker in workers:
        assert worker["Name"] == "dcmferry-dicom" and worker["NoNewPrivs"] == "1"
        assert int(worker["Seccomp_filters"]) == int(daemon["Seccomp_filters"]) + 1
        assert int(worker["CapEff"], 16) == int(worker["CapBnd"], 16) == 0
    for name in ("hostile.dcm", "a.dcm"):
        (machine.path(INBOX) / name).unlink()


def test_reloads(machine, service):
    service.start()
    service.configure("after_upload: kepp")
    refused = machine.run("systemctl", "reload", "dcmferryd", check=False)
    assert refused.returncode == 1
    machine.until(lambda: "dcmferry.yaml:6:" in machine.log(), 10, "the fault with its place")
    assert machine.show("ActiveState") == "active" and machine.show("MainPID") != "0"
    service.configure("after_upload: keep\n    exclude: ['*.not']")
    machine.run("systemctl", "reload", "dcmferryd")
    assert machine.show("SubState") == "running"
    service.drop("b.not")
    service.drop("c.dcm")
    service.wait("c.dcm", "delivered")
    assert service.file("b.not") is None


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_it_is_started_again(machine, service, how):
    """The watchdog ends a daemon that does not answer; what was dropped meanwhile is delivered."""
    service.drop_in("WatchdogSec=2", "RestartSec=100ms")
    service.start()
    pid = service.pid()
    os.kill(int(machine.daemons()[0]["Pid"]), how)
    service.drop(f"{how.name}.dcm")
    machine.until(lambda: service.pid() not in (0, pid), 40, "another process")
    service.wait(f"{how.name}.dcm", "delivered")
    assert machine.show("NRestarts") == "1"


def test_it_waits_for_a_share_that_comes_late_but_not_for_a_faulty_file(machine, service):
    service.drop_in("RestartSec=200ms")
    machine.path(INBOX).rename(machine.path("/srv/dicom/aside"))
    assert machine.run("systemctl", "start", "dcmferryd", check=False).returncode == 1
    machine.path("/srv/dicom/aside").rename(machine.path(INBOX))
    machine.until(lambda: machine.show("ActiveState") == "active", 20, "the next try")
    machine.run("systemctl", "stop", "dcmferryd")
    service.configure("after_upload: kepp")
    assert machine.run("systemctl", "start", "dcmferryd", check=False).returncode == 1
    assert machine.show("ActiveState") == "failed" and machine.show("ExecMainStatus") == "2"


def test_a_stop_in_the_middle_is_orderly(machine, service):
    """Also one that takes longer than the unit allows by itself."""
    service.drop_in("TimeoutStopSec=1")
    service.start()

    def fault(text):
        machine.run("curl", "-sf", "-d", text, "http://127.0.0.1:8042/_sandbox/faults")

    fault('["answer-late=3000:on=part"]')
    service.drop("late.dcm")
    machine.until(lambda: json.loads(machine.ask("dcmferry", "--json", "status"))["destinations"][0]["in_flight"], 30,
                  "the upload")
    machine.run("systemctl", "stop", "dcmferryd")
    assert machine.show("Result") == "success" and machine.show("ExecMainStatus") == "0"
    fault("[]")
    service.start()
    service.wait("late.dcm", "delivered")


def test_the_journal_has_the_fields(machine, service):
    service.start()
    service.drop("field.dcm", study="1.2.3.4.5.6")
    service.wait("field.dcm", "delivered")

    def entries():
        out = machine.ask("journalctl", "-u", "dcmferryd", "-o", "json", "--all")
        return [json.loads(line) for line in out.splitlines()]

    def told():
        return [e for e in entries() if e.get("DCMFERRY_STUDY") == "1.2.3.4.5.6" and "study delivered" in e["MESSAGE"]]

    machine.until(told, 30, "the study's line")
    entry = told()[0]
    assert "study=1.2.3.4.5.6" in entry["MESSAGE"] and entry["PRIORITY"] == "6"
    assert entry["SYSLOG_IDENTIFIER"] == "dcmferryd" and entry["DCMFERRY_FILES"] == "1"
    assert "CODE_FILE" not in entry
    private = [*dicom.PATIENT_NAME.split("^"), dicom.PATIENT_ID, ACCOUNT_KEY, API_KEY, "field.dcm"]
    leaked = [e["MESSAGE"] for e in entries() if any(word in str(e) for word in private)]
    assert not leaked, leaked[:3]


def test_the_unit_is_watched_and_hardened(machine, service):
    service.start()
    assert (machine.show("WatchdogUSec"), machine.show("Restart")) == ("1min", "on-failure")
    machine.run("systemd-analyze", "verify", "dcmferryd.service")
    machine.run("systemd-analyze", "security", "--no-pager", "--threshold=16", "dcmferryd.service")


def test_an_upgrade_restarts_a_removal_keeps_a_purge_takes(machine, service):
    service.start()
    machine.run("systemctl", "enable", "dcmferryd")
    service.drop("kept.dcm")
    service.wait("kept.dcm", "delivered")
    pid = service.pid()
    machine.run("dpkg", "--force-unsafe-io", "-i", machine.packages[0])
    assert service.pid() not in (0, pid)
    machine.run("dpkg", "-r", "dcmferry-sandbox", "dcmferry")
    assert not machine.daemons()
    for path in ("/etc/dcmferry/dcmferry.yaml", "/etc/dcmferry/api_key", "/var/lib/dcmferry/journal.db", f"{INBOX}/kept.dcm"):
        assert machine.path(path).exists(), path
    machine.run("dpkg", "--force-unsafe-io", "-i", *machine.packages)
    service.start()
    assert service.file("kept.dcm")["state"] == "delivered"
    machine.run("dpkg", "-P", "dcmferry-sandbox", "dcmferry")
    for path in ("/etc/dcmferry", "/var/lib/dcmferry", "/etc/systemd/system/multi-user.target.wants/dcmferryd.service"):
        assert not os.path.lexists(machine.path(path)), path
    assert machine.path(f"{INBOX}/kept.dcm").exists()
