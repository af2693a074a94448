"""Drop folders as they are in life, routes, the operator's command, and load at the edges, with the real programs."""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import time

import pytest
from pydicom.uid import generate_uid

import dicom
from ferry import ferries  # noqa: F401
from stamp import stamp, wait_delivered  # noqa: F401
from test_ferry import assert_all_held, sha256

QUEUED_EVENTS = pathlib.Path("/proc/sys/fs/inotify/max_queued_events")


def journal(ferry, query):
    """What the journal holds while no daemon runs."""
    db = sqlite3.connect(f"file:{ferry.state}/journal.db?mode=ro", uri=True)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


# ---- Drop folders ----


def test_1200_files_in_nested_folders_at_once(sandbox, ferries, stamp):
    """Half of them a tree that is moved in, half copied in while its folders appear."""
    ferry = ferries({"cloud": sandbox.url}, log_level="info").start()
    sums = stamp.tree(ferry.root / "a", 600) | stamp.tree(ferry.root / "b", 600)
    assert len(sums) == 1200
    (ferry.root / "a").rename(ferry.inbox / "moved")
    shutil.copytree(ferry.root / "b", ferry.inbox / "copied", copy_function=shutil.copyfile)
    wait_delivered(ferry, 1200)
    held = sandbox.held()
    assert {sha for _, sha in held} == sums and {receipts for receipts, _ in held.values()} == {1}


@contextlib.contextmanager
def lowered(limit):
    """The limit of inotify's queue is fixed when a daemon opens its descriptor."""
    with open("/tmp/dcmferry-test-inotify.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = QUEUED_EVENTS.read_text()
        try:
            QUEUED_EVENTS.write_text(str(limit))
        except OSError:
            pytest.skip(f"{QUEUED_EVENTS} is not writable")
        try:
            yield
        finally:
            QUEUED_EVENTS.write_text(before)


def test_inotify_overflow(sandbox, ferries, stamp):
    ferry = ferries({"cloud": sandbox.url}, log_level="notice")
    for i in range(10):
        (ferry.inbox / f"d{i}").mkdir()
    with lowered(16):
        ferry.start()
    ferry.process.send_signal(signal.SIGSTOP)
    sums = set()
    for i in range(200):
        stamp.write(ferry.inbox / f"d{i % 10}" / f"{i}.dcm")
        sums.add(sha256(ferry.inbox / f"d{i % 10}" / f"{i}.dcm"))
    ferry.process.send_signal(signal.SIGCONT)
    wait_delivered(ferry, 200)
    assert "events of a drop folder were lost" in ferry.log()
    assert {sha for _, sha in sandbox.held()} == sums
    stamp.write(ferry.inbox / "d9/after.dcm")
    wait_delivered(ferry, 201)


@pytest.fixture
def read_only(tmp_path):
    """A folder and a read-only view of it."""
    folder, view = tmp_path / "writable", tmp_path / "readonly"
    folder.mkdir()
    view.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "--bind", folder, view], capture_output=True).returncode != 0:
        pytest.skip("bind mounts need root")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", view], check=True)
        yield folder, view
    finally:
        subprocess.run(["umount", "-l", view], check=True)


@pytest.mark.parametrize("after", ["delete", "move"])
def test_a_read_only_source_is_marked_and_left(sandbox, ferries, stamp, tmp_path, read_only, after):
    folder, view = read_only
    sent = tmp_path / "sent"
    sent.mkdir()
    watch = {"path": str(view), "after_upload": after if after == "delete" else {"move": f"{sent}/{{Modality}}"}}
    ferry = ferries({"cloud": sandbox.url}, watch=watch)
    stamp.write(folder / "sub/a.dcm")
    ferry.start()
    ferry.wait(lambda: any("read-only" in row.get("note", "") for row in ferry.files()), 30, "the mark")
    assert (folder / "sub/a.dcm").exists() and len(sandbox.held()) == 1
    before = ferry.files()
    ferry.stop()
    ferry.start()
    ferry.wait(lambda: ferry.status()["reading"] == 0, 20, "the scan")
    stamp.write(folder / "b.dcm")
    ferry.wait(lambda: len([r for r in ferry.files() if "read-only" in r.get("note", "")]) == 2, 30, "the second mark")
    assert [row["id"] for row in before] == [row["id"] for row in ferry.files()][-len(before):]
    assert {receipts for receipts, _ in sandbox.held().values()} == {1}
    assert not list(sent.rglob("*.dcm*"))
    text = command(ferry, "status")[1]
    assert "2 delivered files could not be deleted or moved" in text, text
    text = command(ferry, "files", "--problems")[1]
    assert text.count("read-only source: left as it is") == 2, text
    assert command(ferry, "acknowledge", str(before[0]["id"]))[1] == "1 acknowledged\n"
    assert ferry.status()["left"] == 1 and len(ferry.files("--problems")) == 1
    assert len(ferry.files("--problems", "--acknowledged")) == 2
    subprocess.run(["mount", "-o", "remount,rw,bind", view], check=True)  # mended
    assert command(ferry, "retry", "--all")[1] == "2 to be tried again\n"
    ferry.wait(lambda: not list(folder.rglob("*.dcm")), 30, "the disposal")
    ferry.wait(lambda: {row["state"] for row in ferry.files()} == {"disposed"}, 30, "the journal to know")
    assert ferry.status()["left"] == 0 and ferry.files("--problems") == []


def test_names_that_are_not_utf8(sandbox, ferries, stamp):
    ferry = ferries({"cloud": sandbox.url}, routes=[{"name": "all", "to": "cloud", "folder": "In/{path:1}"}])
    sent = ferry.root / "sent"
    sent.mkdir()
    ferry.write_config({"cloud": sandbox.url}, watch={"after_upload": {"move": f"{sent}/{{Modality}}"}},
                       routes=[{"name": "all", "to": "cloud", "folder": "In/{path:1}"}])
    ferry.start()
    names = [b"caf\xe9/\xff\xfe.dcm", b"caf\xe9/new\nline.dcm", "\u0444\u0430\u0439\u043b/\u4e2d.dcm".encode(), b'"quoted"/\\.dcm',
             b"caf\xe9/" + b"x" * 240 + b".dcm"]
    sums = set()
    for name in names:
        path = pathlib.Path(os.fsdecode(os.fsencode(ferry.inbox) + b"/" + name))
        stamp.write(path)
        sums.add(sha256(path))
    ferry.wait(lambda: ferry.status()["files"]["disposed"] == len(names), 30, "all to be delivered and moved")
    assert {sha for _, sha in sandbox.held()} == sums
    assert {os.path.basename(p) for p in os.listdir(os.fsencode(sent / "CT"))} == {os.path.basename(n) for n in names}
    assert len(ferry.files()) == len(names)
    text = subprocess.run([ferry.command, "--config", ferry.config, "files"], capture_output=True, env=ferry.environment,
                          timeout=60).stdout
    assert text.decode("utf-8").count("disposed") == len(names)  # and it is UTF-8


@pytest.mark.parametrize("follow", [False, True])
def test_symlinks(sandbox, ferries, stamp, follow):
    """Out of the tree they are never followed, whatever is configured."""
    ferry = ferries({"cloud": sandbox.url}, watch={"follow_symlinks": follow, "after_upload": "delete"})
    outside = ferry.root / "outside"
    stamp.write(outside / "secret.dcm")
    stamp.write(ferry.inbox / "own/real.dcm")
    own = sha256(ferry.inbox / "own/real.dcm")
    (ferry.inbox / "folder").symlink_to(outside)
    (ferry.inbox / "file.dcm").symlink_to(outside / "secret.dcm")
    (ferry.inbox / "loop").symlink_to(ferry.inbox)
    (ferry.inbox / "dangling.dcm").symlink_to(ferry.root / "nothing")
    ferry.start()
    ferry.wait(lambda: not (ferry.inbox / "own/real.dcm").exists(), 30, "the real file to go")
    (ferry.inbox / "later").symlink_to(outside)  # also when it appears later
    stamp.write(ferry.inbox / "last.dcm")
    ferry.wait(lambda: not (ferry.inbox / "last.dcm").exists(), 30, "the last file to go")
    assert (outside / "secret.dcm").exists()
    secret = sha256(outside / "secret.dcm")
    assert own in {sha for _, sha in sandbox.held()} and secret not in {sha for _, sha in sandbox.held()}
    assert len(sandbox.held()) == 2


def test_include_and_exclude(sandbox, ferries, stamp):
    ferry = ferries({"cloud": sandbox.url}, watch={"include": ["*.dcm", "ima/**"], "exclude": ["*.part", "trash/**"]})
    for name in ("a.dcm", "B.DCM", "sub/c.dcm", "ima/no-suffix", "d.txt", "e.dcm.part", "trash/f.dcm", ".hidden.dcm",
                 ".hidden/g.dcm"):
        stamp.write(ferry.inbox / name)
    ferry.start()
    wait_delivered(ferry, 4)
    (ferry.inbox / "e.dcm.part").rename(ferry.inbox / "e.dcm")  # only now a file
    wait_delivered(ferry, 5)
    assert set(ferry.by_name()) == {"a.dcm", "B.DCM", "sub/c.dcm", "ima/no-suffix", "e.dcm"}


def test_unreadable_files_are_taken_once_they_can_be_read(sandbox, ferries, stamp):
    """As root nothing is unreadable: the daemon runs as nobody where it can."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    ferry = ferries({"cloud": sandbox.url}, watch={"poll_interval": "1s", "rescan": "1m"})
    ferry.state.mkdir()
    for path in (ferry.state, ferry.root / "account_key", ferry.root / "api_key", ferry.config):
        os.chown(path, 65534, 65534)
    for path in [ferry.root, *ferry.root.parents]:
        if path.stat().st_uid == 0 and path.stat().st_mode & 0o005 != 0o005 and len(path.parts) > 2:
            path.chmod(path.stat().st_mode | 0o055)
    # The build may lie in a folder that is closed to others: the programs come along.
    ferry.daemon = shutil.copy(ferry.daemon, ferry.root / "dcmferryd")
    ferry.environment["DCMFERRY_DICOM"] = str(shutil.copy(ferry.environment["DCMFERRY_DICOM"], ferry.root / "dcmferry-dicom"))
    stamp.write(ferry.inbox / "closed.dcm")
    (ferry.inbox / "closed.dcm").chmod(0)
    stamp.write(ferry.inbox / "open.dcm")
    (ferry.inbox / "open.dcm").chmod(0o644)
    ferry.start(prefix=("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"))
    wait_delivered(ferry, 1)
    assert ferry.fates().get("closed.dcm", "unknown") != "delivered"
    ferry.wait(lambda: unreadable(ferry) == [str(ferry.inbox / "closed.dcm")], 20, "it to be shown")
    shown = subprocess.run([ferry.command, "--config", ferry.config, "status"], capture_output=True, text=True).stdout
    assert "cannot be read" in shown and "closed.dcm" in shown
    answer = ferry.ask("where", str(ferry.inbox / "closed.dcm"))
    assert answer["state"] in ("unreadable", "incomplete") and "denied" in answer["why"].lower(), answer
    (ferry.inbox / "closed.dcm").chmod(0o644)
    wait_delivered(ferry, 2, 60)
    assert unreadable(ferry) == []


def unreadable(ferry):
    return ferry.status()["drop_folders"][0].get("unreadable", [])


# ---- Routes ----


def test_the_higher_priority_goes_first(sandbox, ferries):
    sandbox.faults("refuse-auth")
    routes = [{"name": "urgent", "match": {"Modality": "CR"}, "to": "cloud", "folder": "Urgent", "priority": 50},
              {"name": "rest", "to": "cloud", "folder": "Rest"}]
    ferry = ferries({"cloud": {"router": sandbox.url, "connections": 1}}, routes=routes).start()
    for i in range(12):
        dicom.write(ferry.inbox / f"low{i}.dcm")
    ferry.wait(lambda: ferry.status()["files"]["queued"] == 12, 30, "the low ones to wait")
    for i in range(4):
        dicom.write(ferry.inbox / f"high{i}.dcm", modality="CR")
    ferry.wait(lambda: ferry.status()["files"]["queued"] == 16, 30, "the high ones to wait")
    sandbox.faults()
    ferry.ask("retry", "--destination", "cloud")
    wait_delivered(ferry, 16)
    route = {d["id"]: d["route"] for row in ferry.files() for d in row["deliveries"]}
    order = [route[line["delivery"]] for line in map(json.loads, ferry.log().splitlines())
             if line.get("message") == "delivery settled" and line["state"] == "delivered"]
    assert len(order) == 16
    # The probe may have been a low one that was under way when the high ones came.
    assert order[:6].count("urgent") == 4, order


def test_all_true_lets_the_next_route_have_it_too(sandboxes, ferries):
    near, far = sandboxes(), sandboxes()
    routes = [{"name": "copy", "match": {"Modality": "CT"}, "to": "far", "folder": "Copies", "all": True},
              {"name": "rest", "to": ["near"], "folder": "Main/{Modality}"}]
    ferry = ferries({"near": near.url, "far": far.url}, routes=routes, watch={"after_upload": "delete"}).start()
    for i in range(6):
        dicom.write(ferry.inbox / f"{i}.dcm", modality=("CT", "MR")[i % 2])
    ferry.wait(lambda: ferry.status()["files"]["disposed"] == 6, 30, "all to be delivered and deleted")
    assert len(near.held()) == 6 and {folder for folder, _ in near.held()} == {"Main/CT", "Main/MR"}
    assert len(far.held()) == 3 and {folder for folder, _ in far.held()} == {"Copies"}
    assert {sha for _, sha in far.held()} == {sha for folder, sha in near.held() if folder == "Main/CT"}


def test_a_copy_made_first_keeps_nothing_from_the_other_routes(sandboxes, ferries):
    """The report of a CT comes first and is taken by a route with `all: true` only; also over a restart."""
    near, far = sandboxes(), sandboxes()
    routes = [{"name": "reports", "match": {"Modality": "SR"}, "to": "far", "all": True},
              {"name": "ct", "match": {"Modality": "CT"}, "to": "near"}]
    ferry = ferries({"near": near.url, "far": far.url}, routes=routes).start()
    study = generate_uid()
    dicom.write(ferry.inbox / "report.dcm", study, modality="SR", sop_class=dicom.SR)
    wait_delivered(ferry, 1)
    dicom.write(ferry.inbox / "image.dcm", study)
    wait_delivered(ferry, 2)
    assert ferry.stop() == 0
    ferry.start()
    dicom.write(ferry.inbox / "later.dcm", study, modality="OT")
    wait_delivered(ferry, 3)
    went = {name: {d["destination"] for d in row["deliveries"]} for name, row in ferry.by_name().items()}
    assert went == {"report.dcm": {"far"}, "image.dcm": {"near", "far"}, "later.dcm": {"near", "far"}}


@pytest.mark.parametrize("scope, folder", [("study", "CT"), ("series", "Rest"), ("instance", "Rest")])
def test_scope(sandbox, ferries, scope, folder):
    """Where the report of a CT goes: with its study, or by itself. A second instance of its series goes along."""
    routes = [{"name": "ct", "match": {"Modality": "CT"}, "to": "cloud", "folder": "CT", "scope": scope},
              {"name": "rest", "to": "cloud", "folder": "Rest", "scope": scope}]
    ferry = ferries({"cloud": sandbox.url}, routes=routes).start()
    study, image, report = generate_uid(), generate_uid(), generate_uid()
    dicom.write(ferry.inbox / "image.dcm", study, image)
    wait_delivered(ferry, 1)
    dicom.write(ferry.inbox / "report.dcm", study, report, modality="SR", sop_class=dicom.SR)
    # Of the image's series, though it says otherwise.
    dicom.write(ferry.inbox / "same-series.dcm", study, image, modality="OT")
    wait_delivered(ferry, 3)
    folders = {name: row["deliveries"][0]["folder"] for name, row in ferry.by_name().items()}
    assert folders == {"image.dcm": "CT", "report.dcm": folder,
                       "same-series.dcm": "Rest" if scope == "instance" else "CT"}


def test_a_route_rejects_with_its_reason(sandbox, ferries):
    routes = [{"name": "no", "match": {"Modality": ["OT", "SC"], "not": {"path": "anyway/**"}}, "reject": "not of this house"},
              {"name": "rest", "to": "cloud", "folder": "In"}]
    ferry = ferries({"cloud": sandbox.url}, routes=routes)
    rejected = ferry.root / "rejected"
    rejected.mkdir()
    ferry.write_config({"cloud": sandbox.url}, routes=routes, watch={"rejected": str(rejected)})
    ferry.start()
    dicom.write(ferry.inbox / "sub/no.dcm", modality="OT")
    dicom.write(ferry.inbox / "anyway/yes.dcm", modality="OT")
    dicom.write(ferry.inbox / "yes.dcm")
    wait_delivered(ferry, 2)
    ferry.wait(lambda: (rejected / "sub/no.dcm").exists(), 30, "the reject to be moved")
    row = ferry.by_name()["sub/no.dcm"]
    assert row["state"] == "rejected" and "not of this house" in row["reason"] and not row["deliveries"]
    assert len(sandbox.held()) == 2


# ---- Load ----


def test_reload_under_load(sandbox, ferries, stamp):
    """Nothing is sent twice, nothing forgotten; files that come during a reload as well."""
    ferry = ferries({"cloud": sandbox.url}, log_level="info").start()
    sums = set()
    for k in range(6):
        sums |= stamp.tree(ferry.root / "next", 60)
        (ferry.root / "next").rename(ferry.inbox / f"batch{k}")
        ferry.write_config({"cloud": {"router": sandbox.url, "connections": 1 + k}},
                           routes=[{"name": "all", "to": "cloud", "folder": f"Batch{k}"}])
        assert ferry.ask("reload")["ok"]
    stamp.write(ferry.inbox / "last.dcm")
    sums.add(sha256(ferry.inbox / "last.dcm"))
    wait_delivered(ferry, 361)
    held = sandbox.held()  # the study in each folder that one of its files was sent to
    assert {sha for _, sha in held} == sums
    assert {receipts for receipts, _ in held.values()} == {1}
    assert ferry.by_name()["last.dcm"]["deliveries"][0]["folder"] == "Batch5"


def test_sigterm_under_load_leaves_nothing_in_doubt(sandbox, ferries, stamp):
    """What is in flight finishes, the rest is as if it had never begun."""
    ferry = ferries({"cloud": sandbox.url}, watch={"after_upload": "delete"}, top="shutdown_timeout: 20s", log_level="info")
    sandbox.faults("answer-late=50")
    sums = stamp.tree(ferry.inbox / "tree", 300)
    stops = 0
    while stops < 3:
        ferry.start()
        ferry.wait(lambda: len(sandbox.held()) >= 30 * (stops + 1), 30, "some to be delivered")
        begin = time.monotonic()
        assert ferry.stop() == 0
        assert time.monotonic() - begin < 15
        assert journal(ferry, "SELECT count(*) FROM delivery WHERE uncertain OR state = 1") == [(0,)]
        stops += 1
    sandbox.faults()
    ferry.start()
    ferry.wait(lambda: ferry.status()["files"]["disposed"] == 300, 60, "all to be delivered and deleted")
    held = sandbox.held()
    assert {sha for _, sha in held} == sums and {receipts for receipts, _ in held.values()} == {1}


def test_sigterm_does_not_wait_for_answers_that_never_come(sandbox, ferries, stamp):
    ferry = ferries({"cloud": {"router": sandbox.url, "connections": 4}}, top="shutdown_timeout: 1s", log_level="info")
    sandbox.faults("never-answer=1:on=part")
    sums = stamp.tree(ferry.inbox / "tree", 40)
    ferry.start()
    ferry.wait(lambda: len(sandbox.held()) >= 4, 30, "the first to arrive")
    begin = time.monotonic()
    assert ferry.stop() == 0
    took = time.monotonic() - begin
    assert 0.5 < took < 8, took
    (doubts,), = journal(ferry, "SELECT count(*) FROM delivery WHERE uncertain")
    # Four were carried; a few more were handed to the uploader and waited there for a connection.
    assert 4 <= doubts <= 16, doubts
    sandbox.faults()
    ferry.start()
    wait_delivered(ferry, 40)
    held = sandbox.held()
    assert {sha for _, sha in held} == sums and {receipts for receipts, _ in held.values()} == {1}


def make_large(path, size, frames):
    """A multi-frame instance with a hole for pixels; each MiB begins with its number."""
    small = path.with_name("small.dcm")
    dicom.write(small, size=1000, NumberOfFrames=frames)
    head = small.read_bytes()
    at = head.rindex(b"\xe0\x7f\x10\x00OB\0\0")
    small.unlink()
    with open(path, "wb") as f:
        f.write(head[:at] + b"\xe0\x7f\x10\x00OB\0\0" + size.to_bytes(4, "little"))
        begin = f.tell()
        f.truncate(begin + size)
        for i in range(0, size - 8, 1 << 20):
            os.pwrite(f.fileno(), i.to_bytes(8, "little"), begin + i)


def is_sanitized(program):
    data = program.read_bytes()
    return b"__asan_init" in data or b"__tsan_init" in data


def memory_peak(pid):
    """KiB"""
    return next(int(line.split()[1]) for line in open(f"/proc/{pid}/status") if line.startswith("VmHWM"))


@pytest.mark.parametrize("size", [
    pytest.param(300_000_000, id="300MB"),
    pytest.param(0xFFFFFFFE, id="4GB", marks=pytest.mark.skipif(
        not {"DCMFERRY_SOAK", "DCMFERRY_LARGE"} & set(os.environ), reason="tests/run --soak, or tests/run release"))])
def test_a_large_file_in_little_memory(sandbox, ferries, tmp_path, size):
    if shutil.disk_usage(tmp_path).free < 3 * size:
        pytest.skip("there is too little room for so large a file")
    ferry = ferries({"cloud": sandbox.url}, log_level="info")
    sanitized = is_sanitized(ferry.daemon)
    if sanitized and size < 1 << 30:
        size = 120_000_000
    make_large(ferry.root / "large.dcm", size, 1000)
    ferry.start()
    (ferry.root / "large.dcm").rename(ferry.inbox / "large.dcm")
    ferry.wait(lambda: ferry.fates() == {"large.dcm": "delivered"}, 60 + size / 10e6, "the large file to be delivered")
    row, = ferry.files()
    delivery = row["deliveries"][0]
    peak = memory_peak(ferry.process.pid)
    print(f"{size} bytes: the daemon's memory was {peak} KiB at most{' (with sanitizers)' if sanitized else ''}")
    if not sanitized:
        assert peak <= 64 * 1024
    digest = subprocess.run(["sha256sum", ferry.inbox / "large.dcm"], capture_output=True, text=True, check=True).stdout[:64]
    assert delivery["sha256"] == digest
    instances = [p for p in (sandbox.state / "instances").rglob("*.dcm")]
    assert [p.stem for p in instances] == [digest] and instances[0].stat().st_size == row["size"]
    assert subprocess.run(["cmp", instances[0], ferry.inbox / "large.dcm"]).returncode == 0
    ferry.stop()
    for path in (instances[0], ferry.inbox / "large.dcm"):  # pytest keeps the folders of some runs
        path.unlink()


# ---- The operator ----


def command(ferry, *arguments):
    """(exit status, stdout, stderr)"""
    done = subprocess.run([ferry.command, "--config", ferry.config, *arguments], capture_output=True, text=True, timeout=60,
                          env=ferry.environment)
    assert "Sanitizer" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_status_and_files_for_people(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}, routes=[{"name": "ct", "match": {"Modality": "CT"}, "to": "cloud", "folder": "CTs"}])
    ferry.start()
    study = generate_uid()
    sop = dicom.write(ferry.inbox / "a.dcm", study)
    dicom.write(ferry.inbox / "b.dcm", modality="MR")
    (ferry.inbox / "c.dcm").write_bytes(b"no DICOM, but long enough" * 20)
    ferry.wait(lambda: ferry.fates() == {"a.dcm": "delivered", "b.dcm": "held", "c.dcm": "rejected"}, 30, "three fates")
    code, text, _ = command(ferry, "status")
    assert code == 0 and f"{ferry.inbox}" in text and "cloud: healthy" in text
    assert "held 1" in text and "rejected 1" in text and "delivered 1" in text and "TROUBLE" not in text
    for arguments in (["--study", study], ["--instance", sop], ["--path", str(ferry.inbox / "a.dcm")], ["--destination", "cloud"]):
        code, text, _ = command(ferry, "files", *arguments)
        assert code == 0 and "a.dcm" in text and "delivered" in text and "CTs" in text, text
        assert "b.dcm" not in text and "c.dcm" not in text, text
    code, text, _ = command(ferry, "files", "--problems")
    assert code == 0 and "a.dcm" not in text and "b.dcm" in text and "c.dcm" in text and "DICOM" in text, text
    code, text, _ = command(ferry, "files", "--study", "1.2.3")
    assert (code, text) == (0, "no files\n")
    code, text, _ = command(ferry, "files", "--limit", "1", "--offset", "1")
    assert text.count(".dcm") == 1
    assert command(ferry, "files", "--limit", "many")[0] == 1
    assert command(ferry, "nonsense")[0] == 2
    ferry.stop()
    code, _, error = command(ferry, "status")
    assert code == 1 and "no daemon" in error, error


def test_logs_name_paths_only_when_told_to(sandbox, ferries):
    """The fixture looks for leaks in every test's log; here, that it would find some."""
    ferry = ferries({"cloud": sandbox.url})
    ferry.config.write_text(ferry.config.read_text().replace("log: {", "log: {paths: true, "))
    ferry.start()
    (ferry.inbox / "a.dcm").write_bytes(b"no DICOM, but long enough" * 20)
    ferry.wait(lambda: ferry.fates() == {"a.dcm": "rejected"}, 30, "the reject")
    ferry.stop()
    assert str(ferry.inbox) in ferry.log()
    ferry.log_path.unlink()
