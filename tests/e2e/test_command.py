"""dcmferry, as people use it: what it takes, what it says, and with which exit status."""
import json
import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile

import pytest

import dicom
from ferry import ferries  # noqa: F401
from test_disk import small_disks  # noqa: F401

STUDY = "1.2.826.0.1.3680043.8.498.1"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="to become another user needs root")


def run(ferry, *arguments, **options):
    """(exit status, stdout, stderr)"""
    r = subprocess.run([ferry.command, "--config", ferry.config, *arguments], capture_output=True, text=True,
                       env=ferry.environment, timeout=120, **options)
    assert "Sanitizer" not in r.stderr and "runtime error" not in r.stderr, r.stderr
    return r.returncode, r.stdout, r.stderr


# ---- Where the daemon is ----

def test_killed_daemon(ferries, sandbox):
    """The socket file outlives a daemon that was killed: nobody listens there."""
    ferry = ferries({"cloud": sandbox.url}).start()
    ferry.kill()
    assert (ferry.state / "control.sock").exists()
    for command in (["status"], ["files"], ["hold", "--all"], ["reload"]):
        code, out, err = run(ferry, *command)
        assert (code, out) == (1, "")
        assert "no daemon listens there" in err and "localhost" not in err, err


@as_root
def test_state_folder_of_another(ferries, sandbox):
    """Who may not look into the state folder is told so."""
    ferry = ferries({"cloud": sandbox.url}).start()
    socket = str(ferry.state / "control.sock")
    nobody = pwd.getpwnam("nobody")
    folder = pathlib.Path(tempfile.mkdtemp())
    try:  # the folders of a test are root's: the socket is reached through one that is open, to a point
        folder.chmod(0o755)
        closed = folder / "closed"
        closed.mkdir(mode=0o700)
        program = shutil.copy(ferry.command, folder)
        for path in (socket, str(closed / "control.sock")):
            r = subprocess.run([program, "--socket", path, "status"], capture_output=True, text=True, user=nobody.pw_uid,
                               group=nobody.pw_gid, extra_groups=[], cwd="/", timeout=60)
            assert r.returncode == 1
            assert "not allowed: run as root or as a member of the service's group" in r.stderr, r.stderr
    finally:
        shutil.rmtree(folder)


def test_reload_of_broken_configuration(ferries, sandbox):
    """The command finds the daemon by what is left of the configuration, and shows what the daemon says of it."""
    ferry = ferries({"cloud": sandbox.url}).start()
    good = ferry.config.read_text()
    ferry.config.write_text(good + "wotch: 3\n")
    code, out, err = run(ferry, "reload")
    assert (code, out) == (1, "")
    assert "wotch" in err and "did you mean" in err, err
    code, out, err = run(ferry, "--json", "reload")
    assert (code, err) == (1, "") and not json.loads(out)["ok"] and "wotch" in json.loads(out)["text"], (out, err)
    ferry.config.write_text(good)
    assert run(ferry, "reload")[0] == 0
    assert run(ferry, "--json", "reload")[0] == 0


# ---- What it takes ----

def test_files_by_bare_words(ferries, sandbox):
    ferry = ferries({"cloud": sandbox.url})
    sop = dicom.write(ferry.inbox / "one.dcm", study=STUDY)
    dicom.write(ferry.inbox / "two.dcm")
    ferry.start()
    ferry.wait_settled(2)
    here = str(ferry.inbox)
    for words, where in (([STUDY], None), ([sop], None), ([f"{here}/one.dcm"], None), (["one.dcm"], here),
                         (["--path", "./one.dcm"], here), (["--path", "inbox/../inbox/one.dcm"], str(ferry.root)),
                         (["--destination", "cloud", STUDY], None)):
        code, out, err = run(ferry, "files", *words, cwd=where)
        assert (code, err) == (0, ""), words
        assert "one.dcm" in out and "two.dcm" not in out, (words, out)
    assert len(ferry.ask("files", sop)) == 1
    assert ferry.ask("files", "1.2.3") == []
    assert run(ferry, "files", "1.2.3")[1] == "no files\n"


def test_numbers_are_whole_in_json(ferries, sandbox):
    """A time in nanoseconds has more digits than a double."""
    ferry = ferries({"cloud": sandbox.url})
    path = ferry.inbox / "one.dcm"
    dicom.write(path)
    os.utime(path, ns=(1_700_000_000_123_456_789, 1_700_000_000_123_456_789))
    ferry.start()
    ferry.wait_settled(1)
    assert '"mtime_ns":1700000000123456789' in run(ferry, "--json", "files")[1].replace(" ", "")


def test_where_is_this_file(ferries, sandbox):
    """Also one that has no fate: what keeps it out, or what it waits for."""
    root = pathlib.Path(tempfile.mkdtemp())
    try:
        ferry = ferries({"cloud": sandbox.url})
        ferry.write_config({"cloud": sandbox.url}, watch=[
            {"exclude": ["*.tmp", "old/**"], "include": ["*.dcm", "*/*.dcm"], "settle_timeout": "60s", "recursive": True},
            {"path": str(root), "mode": "poll", "settle": "60s", "settle_timeout": "60s", "recursive": False}])
        sop = dicom.write(ferry.inbox / "good.dcm", study=STUDY)
        whole = (ferry.inbox / "good.dcm").read_bytes()
        for name, data in (("a.tmp", whole), ("old/b.dcm", whole), (".c.dcm", whole), ("d.ima", whole), ("cut.dcm", whole[:-50]),
                           ("empty.dcm", b"")):
            (ferry.inbox / name).parent.mkdir(exist_ok=True)
            (ferry.inbox / name).write_bytes(data)
        (ferry.inbox / "link.dcm").symlink_to("good.dcm")
        (root / "young.dcm").write_bytes(whole)
        (root / "sub").mkdir()
        (root / "sub/deep.dcm").write_bytes(whole)
        ferry.start()
        ferry.wait(lambda: ferry.fates() == {"good.dcm": "delivered"} and ferry.status()["incomplete"] == 2, 30, "the good one")

        def where(path):
            return ferry.ask("where", str(path))

        for path, state, why in (
                (ferry.inbox / "a.tmp", "excluded", "excluded by the pattern *.tmp"),
                (ferry.inbox / "old/b.dcm", "excluded", "excluded by the pattern old/**"),
                (ferry.inbox / ".c.dcm", "excluded", "begin with a dot"),
                (ferry.inbox / "d.ima", "excluded", "no pattern of `include`"),
                (ferry.inbox / "cut.dcm", "incomplete", "cut short"),
                (ferry.inbox / "empty.dcm", "incomplete", "empty"),
                (ferry.inbox / "link.dcm", "link", "symbolic link"),
                (ferry.inbox / "none.dcm", "absent", "no file"),
                (ferry.inbox, "folder", "drop folder"),
                (root / "young.dcm", "settling", "`settle`"),
                (root / "sub/deep.dcm", "excluded", "not `recursive`"),
                ("/etc/hostname", "outside", "no drop folder")):
            answer = where(path)
            assert answer["files"] == [] and answer["state"] == state and why in answer["why"], (path, answer)
        answer = where(ferry.inbox / "good.dcm")
        assert [f["state"] for f in answer["files"]] == ["delivered"] and "why" not in answer
        code, out, err = run(ferry, "where", "a.tmp", cwd=ferry.inbox)
        assert (code, err) == (0, "") and out == "excluded  a.tmp\n    excluded by the pattern *.tmp\n", out
        for uid in (STUDY, sop):
            assert f"delivered  {ferry.inbox}/good.dcm" in run(ferry, "where", uid)[1]
        assert "no file of that study or instance was read yet; 2 are" in run(ferry, "where", "1.2.3")[1]
        assert run(ferry, "where")[0] == 2 and run(ferry, "where", "a", "b")[0] == 2
        (ferry.inbox / "good.dcm").unlink()
        ferry.ask("retry", "--all")  # looks at once
        ferry.wait(lambda: where(ferry.inbox / "good.dcm").get("state") == "absent", 30, "its leaving to be seen")
    finally:
        shutil.rmtree(root)


def test_unexpected_words(ferries, sandbox):
    ferry = ferries({"cloud": sandbox.url})  # it need not run
    for words in (["status", "now"], ["files", "1.2", "3.4"], ["retry", "--all", "7"], ["hold", "7"], ["release", "x"],
                  ["reload", "it"], ["doctor", "cloud"], ["check", "all"], ["status", "--wotch"], ["files", "--limit"]):
        code, out, err = run(ferry, *words)
        assert (code, out) == (2, ""), words
        assert err.startswith(f"dcmferry {words[0]}: "), (words, err)
    assert run(ferry, "nosuch")[0] == 2
    assert run(ferry, "--nosuch")[0] == 2


def test_common_options_anywhere(ferries, sandbox):
    ferry = ferries({"cloud": sandbox.url})
    missing = str(ferry.root / "missing.yaml")
    for words in (["check", "--config", missing], ["check", f"--config={missing}"], ["-c", missing, "check"]):
        code, _, err = run(ferry, *words)
        assert code == 1 and err.startswith(f"{missing}: "), err
        assert ":0:" not in err
    code, out, err = run(ferry, "status", "--help")
    assert (code, err) == (0, "") and "--watch" in out and "doctor" not in out
    assert "--offset" in run(ferry, "--help")[1]
    code, _, err = run(ferry, "status", "--config")
    assert code == 2 and "missing" in err


# ---- What it says ----

def test_unknown_names(ferries, sandbox):
    ferry = ferries({"cloud": sandbox.url, "spare": sandbox.url},
                    routes=[{"name": "all", "to": ["cloud"]}])
    dicom.write(ferry.inbox / "one.dcm", study=STUDY)
    ferry.start()
    ferry.wait_settled(1)
    for act in ("retry", "hold", "release"):
        for option, wrong, right in (("destination", "clod", "spare"), ("delivery", "999", "1"), ("file", "999", "1"),
                                     ("study", "1.2.3", STUDY)):
            code, out, err = run(ferry, act, f"--{option}", wrong)
            assert (code, out) == (1, "") and f"no {option} " in err, (act, option, err)
            code, out, err = run(ferry, act, f"--{option}", right)
            assert (code, err) == (0, "") and out.startswith("0 "), (act, option, out, err)


def test_files_tell_where_and_why(ferries, sandbox):
    """Where a file went, and what its deliveries wait for, stand in the text."""
    rejected, sent = "rejected", "sent"
    ferry = ferries({"cloud": sandbox.url, "later": "http://127.0.0.1:9/"})
    ferry.write_config({"cloud": sandbox.url, "later": "http://127.0.0.1:9/"},
                       [{"name": "sr", "match": {"Modality": "SR"}, "to": "later"}, {"name": "all", "to": "cloud"}],
                       {"rejected": str(ferry.root / rejected), "after_upload": {"move": str(ferry.root / sent)}})
    (ferry.inbox / "bad.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 500)
    dicom.write(ferry.inbox / "good.dcm")
    dicom.write(ferry.inbox / "held.dcm", modality="SR")
    ferry.start()
    ferry.wait(lambda: len(ferry.files()) == 3 and not (ferry.inbox / "good.dcm").exists()
               and not (ferry.inbox / "bad.dcm").exists(), 60, "the files to be put away")
    ferry.wait(lambda: run(ferry, "files")[1].count("moved to") == 2, 30, "where they went to be written down")
    out = run(ferry, "files")[1]
    assert f"moved to {ferry.root / rejected}/" in out and f"moved to {ferry.root / sent}/" in out, out
    ferry.wait(lambda: ferry.ask("hold", "--destination", "later") and ferry.fates()["held.dcm"] == "held", 30, "a hold")
    assert f"(held)  {ferry.inbox}/held.dcm" in run(ferry, "files", "held.dcm", cwd=ferry.inbox)[1]
    assert "1 try)" in out and "1 tries" not in out


def test_conflict_is_visible(ferries, sandbox):
    ferry = ferries({"cloud": sandbox.url}).start()
    sop = dicom.write(ferry.inbox / "first.dcm", study=STUDY, series="1.2.3.4", seed=1)
    ferry.wait_settled(1)
    dicom.write(ferry.inbox / "other.dcm", study=STUDY, series="1.2.3.4", sop=sop, seed=2)
    ferry.wait(lambda: ferry.fates().get("other.dcm") == "conflict", 60, "the conflict")
    out = run(ferry, "files", STUDY)[1]
    assert f"queued (conflict)  {ferry.inbox}/other.dcm" in out and f"delivered  {ferry.inbox}/first.dcm" in out, out


def test_a_held_destination(ferries, sandbox):
    """What comes later is held too, over a restart, until the destination is released."""
    ferry = ferries({"cloud": sandbox.url, "spare": sandbox.url}, routes=[{"name": "all", "to": "cloud"}]).start()

    def since(name):
        return {d["name"]: d.get("held_since") for d in ferry.status()["destinations"]}[name]

    assert since("cloud") is None
    code, out, err = run(ferry, "hold", "--destination", "cloud")
    assert (code, err) == (0, "") and out.startswith("0 held\n") and "comes later" in out, out
    held = since("cloud")
    assert held and since("spare") is None
    dicom.write(ferry.inbox / "one.dcm", study=STUDY)
    ferry.wait(lambda: ferry.fates() == {"one.dcm": "held"}, 30, "the hold")
    assert ferry.stop() == 0
    dicom.write(ferry.inbox / "two.dcm")
    ferry.start()
    ferry.wait(lambda: ferry.fates() == {"one.dcm": "held", "two.dcm": "held"}, 30, "the hold after a restart")
    assert since("cloud") == held
    assert f"held by an operator since {held}" in run(ferry, "status")[1]
    assert "comes later" not in run(ferry, "hold", "--study", STUDY)[1]
    code, out, _ = run(ferry, "release", "--study", STUDY)
    assert code == 0 and out.startswith("1 released\nbut nothing is sent"), out
    ferry.wait(lambda: ferry.fates()["one.dcm"] == "held", 30, "the hold to hold")
    assert not sandbox.held()
    code, out, err = run(ferry, "hold", "--destination", "clod")
    assert code == 1 and "no destination" in err
    assert run(ferry, "release", "--destination", "cloud")[:2] == (0, "2 released\n")
    ferry.wait(lambda: ferry.fates() == {"one.dcm": "delivered", "two.dcm": "delivered"}, 30, "the deliveries")
    assert since("cloud") is None
    dicom.write(ferry.inbox / "three.dcm")
    ferry.wait(lambda: ferry.fates().get("three.dcm") == "delivered", 30, "the one that came later")


def test_once_with_a_held_destination(ferries, sandbox):
    """It ends: nothing will become of it."""
    ferry = ferries({"cloud": sandbox.url}).start()
    assert run(ferry, "hold", "--destination", "cloud")[0] == 0
    assert ferry.stop() == 0
    dicom.write(ferry.inbox / "one.dcm")
    assert ferry.once() == 3
    ferry.process = None


def test_acknowledged_problems(ferries, sandbox):
    """They leave the list, after a restart too, and come back when something new happens."""
    ferry = ferries({"cloud": sandbox.url}).start()
    sop = dicom.write(ferry.inbox / "first.dcm", study=STUDY, series="1.2.3.4", seed=1)
    ferry.wait_settled(1)
    dicom.write(ferry.inbox / "other.dcm", study=STUDY, series="1.2.3.4", sop=sop, seed=2)
    for name in ("c", "d"):
        (ferry.inbox / name).write_bytes(b"no DICOM, but long enough" * 20)
    ferry.wait(lambda: ferry.fates() == {"first.dcm": "delivered", "other.dcm": "conflict", "c": "rejected",
                                         "d": "rejected"}, 60, "the fates")

    def problems(*more):
        return {os.path.basename(row["path"]): row for row in ferry.files("--problems", *more)}

    assert set(problems()) == {"other.dcm", "c", "d"}
    code, out, err = run(ferry, "acknowledge", str(problems()["c"]["id"]), str(problems()["other.dcm"]["id"]))
    assert (code, out, err) == (0, "1 acknowledged\n1 acknowledged\n", "")
    assert set(problems()) == {"d"}
    assert ferry.stop() == 0
    ferry.start()
    assert set(problems()) == {"d"}
    listed = problems("--acknowledged")
    assert set(listed) == {"other.dcm", "c", "d"} and "acknowledged" not in listed["d"] and listed["c"]["acknowledged"]
    assert run(ferry, "files", "--problems", "--acknowledged")[1].count("  acknowledged\n") == 2
    assert run(ferry, "acknowledge", "--all")[1] == "1 acknowledged\n" and problems() == {}
    assert run(ferry, "files", "--problems")[1] == "no files\n"
    dicom.write(ferry.inbox / "other.dcm", study=STUDY, series="1.2.3.4", sop=sop, seed=3)
    ferry.wait(lambda: set(problems()) == {"other.dcm"}, 60, "the new conflict")
    assert run(ferry, "acknowledge", "999")[0] == 1
    assert run(ferry, "acknowledge")[0] == 2 and run(ferry, "acknowledge", "c")[0] == 2


def test_watch_into_a_pipe(ferries, sandbox):
    ferry = ferries({"cloud": sandbox.url}).start()
    with subprocess.Popen([ferry.command, "--config", ferry.config, "status", "--watch"], stdout=subprocess.PIPE) as p:
        lines = [p.stdout.readline() for _ in range(8)]  # more than one look
        p.terminate()
    assert all(b"\033" not in line for line in lines) and b"" not in lines


# ---- check ----

@pytest.fixture
def open_folder():
    """A folder that every user reaches; those of a test are its own user's."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dcmferry-check-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


class Checked:
    """A configuration below `folder` whose service's user is `nobody`."""

    def __init__(self, build, folder, watch=None, destination=None):
        self.command = build / "daemon/dcmferry/dcmferry"
        self.environment = dict(os.environ)
        self.folder = folder
        self.config, self.inbox, self.state = folder / "c.yaml", folder / "inbox", folder / "state"
        self.key = folder / "key"
        self.key.write_text("a-key")
        self.key.chmod(0o600)
        for made in (self.inbox, self.state):
            made.mkdir(mode=0o755)
        self.nobody(self.key, self.inbox, self.state)
        key = {"file": str(self.key)}
        options = dict({"type": "postdicom", "router": "https://router.example/", "account_key": key, "api_key": key},
                       **(destination or {}))
        self.config.write_text(json.dumps({"state": str(self.state), "watch": [dict({"path": str(self.inbox)}, **(watch or {}))],
                                           "destinations": {"cloud": options}, "routes": [{"name": "all", "to": "cloud"}]}))
        self.config.chmod(0o644)

    def nobody(self, *paths):
        for path in paths:
            shutil.chown(path, "nobody")

    def check(self, user="nobody"):
        return run(self, "check", "--user", user)


@as_root
def test_check_reads_keys_as_the_service(build, open_folder):
    (open_folder / "tls.key").write_text("x")
    (open_folder / "tls.key").chmod(0o600)
    secret = {"file": str(open_folder / "key")}
    checked = Checked(build, open_folder, destination={
        "proxy": "http://proxy.example:3128", "proxy_user": "u", "proxy_password": secret,
        "client_cert": str(open_folder / "c.yaml"), "client_key": str(open_folder / "tls.key")})
    code, out, err = checked.check()
    assert code == 1 and "client_key" in err and "account_key" not in err, (out, err)
    checked.nobody(open_folder / "tls.key")
    assert checked.check()[::2] == (0, "")
    shutil.chown(checked.key, "root")
    code, out, err = checked.check()
    assert code == 1 and all(key in err for key in ("account_key", "api_key", "proxy_password")), err
    assert checked.check("root")[0] == 0


@as_root
def test_check_tries_every_folder_as_the_service(build, open_folder):
    moved, rejected = open_folder / "moved", open_folder / "rejected"
    checked = Checked(build, open_folder, {"after_upload": {"move": f"{moved}/{{StudyDate}}"}, "rejected": str(rejected)})
    code, out, err = checked.check()
    assert code == 1 and "rejected" in err and "after_upload.move" in err, (out, err)  # who should make them?
    shutil.chown(open_folder, "nobody")
    assert checked.check()[::2] == (0, "")  # the daemon makes them itself
    for folder in (moved, rejected, checked.state, checked.inbox):
        folder.mkdir(exist_ok=True)
        shutil.chown(folder, "root")
        code, out, err = checked.check()
        assert code == 1 and f"{folder}: files in it cannot be made" in out, (folder, out, err)
        checked.nobody(folder)
    assert checked.check()[::2] == (0, "")
    assert not list(checked.inbox.iterdir()) and not list(moved.iterdir())


def test_check_without_the_user(build, open_folder):
    checked = Checked(build, open_folder) if os.geteuid() == 0 else pytest.skip("needs root")
    code, out, err = checked.check("nosuchuser")
    assert code == 1 and "no user 'nosuchuser'" in err and "systemd-sysusers" in err, (out, err)


@as_root
def test_check_warns_of_a_small_state_folder(build, open_folder, small_disks):
    checked = Checked(build, open_folder)
    assert "warning" not in checked.check()[1]
    small_disks(checked.state, 2048)
    checked.nobody(checked.state)
    code, out, err = checked.check()
    assert (code, err) == (0, "") and "warning: only 2.1 MB are left" in out, (out, err)


@as_root
def test_check_leaves_to_systemd_what_it_does(build, open_folder):
    """Credentials are there only when systemd starts the service."""
    checked = Checked(build, open_folder, destination={"api_key": {"credential": "api_key"}})
    checked.environment.pop("CREDENTIALS_DIRECTORY", None)
    code, out, err = checked.check()
    assert (code, err) == (0, "") and "systemd sees to it" in out, (out, err)


@as_root
def test_drop_in_lets_the_unit_start(build, open_folder):
    """Folders are made first, quoted as the unit wants them, and hidden ones get a remark."""
    odd = open_folder / "it's 100% \"sent\""
    odd.mkdir(mode=0o755)
    checked = Checked(build, odd, {"after_upload": {"move": str(odd / "moved/{StudyDate}")}})
    out = checked.check()[1]
    folder = str(odd / "moved").replace("'", "'\\''")
    assert f"install -d -o nobody -m 0750 '{folder}'" in out, out
    unit = str(odd).replace("%", "%%").replace('"', "\"'\"'\"")
    assert f'\nReadWritePaths="{unit}"\n' in out, out  # above both, so that a rename moves files
    assert "/etc/systemd/system/dcmferryd.service.d/drop-folders.conf" in out
    assert "systemctl daemon-reload && systemctl restart dcmferryd" in out
    assert "does not see" in out and "\nPrivateTmp=no\n" in out  # it lies below /tmp
    (odd / "moved").mkdir()
    assert "install -d" not in checked.check()[1]
