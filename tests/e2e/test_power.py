"""The power fails: what the disk may hold afterwards keeps every promise, and each fsync is needed for that.

The daemon runs once for each scene with tests/fault/powerloss.c before it, which writes down all it does to its files.
Then the power "fails" at every sync point of that record: powerloss.py makes the disks that such a cut may leave (nothing
unsynced, some of it, all of it), and each is looked at; on a sample the daemon is started again, against a server that
holds what it held at the cut. Then every fsync in turn is taken for never made, and a promise must break.
"""
import collections
import hashlib
import http.client
import os
import pathlib
import pickle
import random
import shutil
import socket
import sqlite3
import sys
import tempfile
import time

import pytest
from pydicom.uid import generate_uid

import dicom
from ferry import Ferry
from sandbox import Sandbox

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "fault"))
import powerloss  # noqa: E402

SEED = int(os.environ.get("DCMFERRY_SEED", time.time_ns() % 1_000_000))
SOAK = bool(os.environ.get("DCMFERRY_SOAK"))
RESTARTS = 200 if SOAK else 8
SUBSETS = 20 if SOAK else 2  # random disks at each cut

QUEUED, DELIVERED, DISPOSED, REJECTED, VANISHED = 1, 2, 3, 4, 5  # core/journal/states.h
SENDING, SENT, DUPLICATE = 1, 3, 6
CUSTODY = ".dcmferry"


def other_file_system(than):
    """A folder on another file system, or None."""
    for folder in ("/dev/shm", "/run", "/var/tmp", "/tmp"):
        if os.access(folder, os.W_OK) and os.stat(folder).st_dev != os.stat(than).st_dev:
            return pathlib.Path(tempfile.mkdtemp(prefix="dcmferry-power-", dir=folder))
    return None


class Scene:
    """One recorded run of the daemon."""

    def __init__(self, build, root):
        self.build, self.root = build, pathlib.Path(root)
        self.far = other_file_system(root)
        if self.far is None:
            pytest.skip("there is no second file system to write to")
        self.disk = self.root / "ferry/disk"
        self.disk.mkdir(parents=True)
        self.roots = [str(self.disk), str(self.far)]
        self.trace = self.root / "trace"
        self.expected = {}  # dropped path: (bytes, SOP Instance UID or None)
        self.staging = self.root / "staging"
        self.staging.mkdir()
        self.sandbox = Sandbox(build, self.root / "sandbox").start()
        self.ferry = Ferry(build, self.root / "ferry", {"cloud": self.sandbox.url})
        self.ferry.inbox, self.ferry.state = self.disk / "move", self.disk / "var/state"
        for name in ("move", "delete", "far", "custody"):
            (self.disk / name).mkdir()
        self.watches = [
            {"path": str(self.disk / "move"), "after_upload": {"move": str(self.disk / "sent/{Modality}")},
             "rejected": str(self.disk / "rejected"), "prune_empty": True},
            {"path": str(self.disk / "delete"), "after_upload": "delete"},
            {"path": str(self.disk / "far"), "after_upload": {"move": str(self.far / "sent/{Modality}")}},
            {"path": str(self.disk / "custody"), "after_upload": "delete", "custody": "rename"}]
        self.configure()

    def configure(self):
        self.ferry.write_config({"cloud": {"router": self.sandbox.url, "connections": 2}},
                                watch=[dict(w, settle="200ms", settle_timeout="1s") for w in self.watches])

    def make(self, path, direct, **attributes):
        """A finished DICOM file at `path` below the disk, there from the start (`direct`) or dropped now."""
        target = self.disk / path
        made = target if direct else self.staging / target.name
        sop = dicom.write(made, seed=path, size=1500, **attributes)
        self.put(made, target, sop)

    def junk(self, path, direct):
        target = self.disk / path
        made = target if direct else self.staging / target.name
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_bytes(b"no DICOM at all: " + path.encode() * 20)
        self.put(made, target, None)

    def put(self, made, target, sop):
        self.expected[str(target)] = (made.read_bytes(), sop)
        if made != target:
            powerloss.drop(self.trace, made, target)

    def start(self, *arguments):
        """Runs the daemon under the recorder."""
        self.initial_disk = pickle.dumps(powerloss.Disk(self.roots))
        self.initial_drops = set(self.expected)
        e = self.ferry.environment
        e.update(LD_PRELOAD=str(self.build / "tests/fault/powerloss.so"), DCMFERRY_POWERLOSS_TRACE=str(self.trace),
                 DCMFERRY_POWERLOSS_ROOTS=":".join(self.roots),
                 ASAN_OPTIONS=":".join(filter(None, [e.get("ASAN_OPTIONS"), "verify_asan_link_order=0"])))
        try:
            self.ferry.start(*arguments, wait=False)
        finally:
            del e["LD_PRELOAD"]

    def settled(self):
        self.ferry.wait_settled(len(self.expected), 60)
        self.ferry.wait(lambda: self.undisposed() == 0, 60, "the sources to be dealt with")

    def undisposed(self):
        return sum(os.path.exists(path) for path in self.expected)

    def backup(self):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(str(self.ferry.state / "control.sock"))
        connection.request("POST", "/backup")
        assert connection.getresponse().status == 200
        connection.close()
        powerloss.note(self.trace, powerloss.DONE, "", os.stat("/"), len(self.expected), b"")

    def finish(self):
        assert self.ferry.stop() == 0
        assert self.sandbox.stop() == 0
        self.records = powerloss.read_trace(self.trace)
        self.names = powerloss.name_syncs(self.records, self.new_disk(), str(self.ferry.daemon))
        db = sqlite3.connect(self.sandbox.state / "store.db")
        self.received = dict(db.execute("SELECT sop_uid, received_ms FROM instances"))
        db.close()
        self.queries = {}
        self.backups = [(i + 1, r.a) for i, r in enumerate(self.records) if r.op == powerloss.DONE]

    def new_disk(self):
        return pickle.loads(self.initial_disk)

    def close(self):
        for program in (self.ferry, self.sandbox):
            if program.running():
                program.kill()
        shutil.rmtree(self.far, ignore_errors=True)

    # ---- Cuts ----

    def cuts(self, ignored=None):
        """At each sync point and each change of names: (number of records that happened, disk, dropped files so far)."""
        disk, dropped = self.new_disk(), set(self.initial_drops)
        for i, record in enumerate(self.records):
            if i in self.names and self.names[i] != ignored:
                yield i, disk, dropped
            disk.apply(record, self.names.get(i) == ignored)
            if record.op == powerloss.DROP:
                dropped.add(record.first)
            if record.op in powerloss.NAMES or i in self.names:
                yield i + 1, disk, dropped

    def cut_ms(self, n):
        """As late as the cut can be: whatever the server had by then it keeps."""
        last = self.records[min(n, len(self.records) - 1)].time_us
        return last // 1000

    def journal(self, view):
        """What the journal on such a disk says: (error or None, {path: (state, gone)}, {SOP UID: (state, uncertain)})."""
        name = str(self.ferry.state / "journal.db")
        parts = tuple(view[name + suffix][0] if view.get(name + suffix) else None for suffix in ("", "-wal", "-journal"))
        if parts not in self.queries:
            self.queries[parts] = query(*parts)
        return self.queries[parts]

    def broken(self, view, dropped, cut, final=False):
        """The promises that such a disk breaks."""
        state = str(self.ferry.state)
        faults, cut_ms = [], self.cut_ms(cut)
        error, files, deliveries = self.journal(view)
        if error:
            faults.append(f"journal: {error}")
        if view.get(f"{state}/journal.damaged"):
            faults.append("journal: marked as damaged")
        backup = view.get(f"{state}/backup.db", (None,))[0]
        if backup not in self.queries:
            self.queries[backup] = query(backup)
        error, backed_up, _ = self.queries[backup]
        if error:
            faults.append(f"backup: {error}")
        if not final and len(backed_up) < max((files for at, files in self.backups if at <= cut), default=0):
            faults.append("backup: an older one than was reported")
        there = collections.Counter(held[0] for path, held in view.items() if held and "/state/" not in path)
        for path in dropped:
            data, sop = self.expected[path]
            watch = path[len(str(self.disk)) + 1:].split("/")[0]
            taken = path.replace(f"/{watch}/", f"/{watch}/{CUSTODY}/", 1)
            row = files.get(path) or files.get(taken)
            stands = [p for p in (path, taken) if view.get(p)]
            if row and row[0] == VANISHED:
                faults.append(f"false alarm: {path}")
            if row and row[1] and stands:
                faults.append(f"back from the dead: {path}")
            if any(view[p][0] != data for p in stands):
                faults.append(f"altered: {path}")
            if not stands and not (row and row[0] in (DELIVERED, DISPOSED, REJECTED)):
                faults.append(f"gone before it was delivered: {path}")
            if watch in ("move", "far") and not there[data]:
                faults.append(f"the moved file is nowhere: {path}")
            if final:
                continue
            if sop and row and row[0] in (DELIVERED, DISPOSED) and self.received[sop] > cut_ms:
                faults.append(f"delivered before it was received: {path}")
            if sop and self.received[sop] < cut_ms and not (
                    deliveries.get(sop, (None, 0))[0] in (SENDING, SENT) or deliveries.get(sop, (None, 0))[1]):
                faults.append(f"received, but would be sent again unasked: {path}")
        whole = {data for data, _ in self.expected.values()}
        for path, held in view.items():
            if held and ("/sent/" in path or "/rejected/" in path) and not path.endswith(".tmp") and held[0] not in whole:
                faults.append(f"not whole: {path}")
        return faults

    def restart(self, view, dropped, cut_ms, what):
        """Starts the daemon on such a disk, and a server that has what it had then."""
        powerloss.write_disk(view, self.roots)
        again = Sandbox(self.build, self.root / "again")
        shutil.rmtree(again.state, ignore_errors=True)
        shutil.copytree(self.sandbox.state, again.state, ignore=shutil.ignore_patterns("*.sock", "*.lock"))
        db = sqlite3.connect(again.state / "store.db")
        db.execute("DELETE FROM instances WHERE received_ms >= ?", (cut_ms,))
        db.commit()
        db.close()
        again.port = self.sandbox.port
        again.start()
        self.ferry.log_path.write_text("")
        try:
            code = self.ferry.once(60)
        finally:
            again.stop()
        log = self.ferry.log()
        assert code == 0 and "Sanitizer" not in log, (what, log[-4000:])
        held = {sha: receipts for (_, sha), (receipts, _) in again.held().items()}
        gone = powerloss.Disk(self.roots).view("all")
        faults = self.broken(gone, dropped, len(self.records), final=True)
        where = collections.Counter(held[0] for path, held in gone.items() if held and "/state/" not in path)
        for path in dropped:
            data, sop = self.expected[path]
            if sop and held.get(hashlib.sha256(data).hexdigest()) != 1:
                faults.append(f"received {held.get(hashlib.sha256(data).hexdigest(), 0)} times: {path}")
            kept = "/delete/" not in path and "/custody/" not in path
            if where[data] != kept or path in gone:
                faults.append(f"stands {where[data]} times: {path}")
        assert not faults, (what, faults, log[-3000:])

    def check(self, rng, ignored=None, stop_at_first=False):
        """All cuts, several disks each: [(number of records, mode, faults)]."""
        found, looked = [], 0
        for n, disk, dropped in self.cuts(ignored):
            for mode in ["none", *["some"] * SUBSETS]:
                faults = self.broken(disk.view(mode, rng), dropped, n)
                looked += 1
                if faults:
                    found.append((n, mode, faults))
                    if stop_at_first:
                        return found, looked
        return found, looked


def query(db_bytes, wal_bytes=None, journal_bytes=None):
    if db_bytes is None:
        stray = wal_bytes is not None or journal_bytes is not None
        return ("a log without a database" if stray else None), {}, {}
    if not db_bytes:
        return "the database is empty", {}, {}
    with tempfile.TemporaryDirectory(prefix="dcmferry-power-", dir="/dev/shm") as folder:
        path = os.path.join(folder, "journal.db")
        pathlib.Path(path).write_bytes(db_bytes)
        if wal_bytes:
            pathlib.Path(path + "-wal").write_bytes(wal_bytes)
        if journal_bytes:
            pathlib.Path(path + "-journal").write_bytes(journal_bytes)
        db = sqlite3.connect(path)
        try:
            found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                return found, {}, {}
            if db.execute("PRAGMA user_version").fetchone()[0] < 1:
                return "no schema", {}, {}
            files = {os.fsdecode(path): (state, gone is not None)
                     for path, state, gone in db.execute("SELECT path, state, gone_ms FROM file ORDER BY id")}
            deliveries = {sop: (state, uncertain) for sop, state, uncertain in
                          db.execute("SELECT sop_instance_uid, state, uncertain FROM delivery ORDER BY id")}
            return None, files, deliveries
        except sqlite3.DatabaseError as error:
            return str(error), {}, {}
        finally:
            db.close()


@pytest.fixture(scope="module")
def scene(build, tmp_path_factory):
    """All disposals, rejects, checkpoints and backups, in two rounds with a quiet time between."""
    s = Scene(build, tmp_path_factory.mktemp("power"))
    try:
        for part in (0, 1):
            for watch in ("move", "delete", "far", "custody"):
                for i in range(3):
                    s.make(f"{watch}/sub{i % 2 if part == 0 else f'-{i}'}/{watch}{part}{i}.dcm", direct=part == 0, modality=("CT", "MR")[i % 2])
            s.junk(f"move/junk{part}/junk", direct=part == 0)
            if part == 0:
                s.start()
            s.settled()
            s.backup()
            wal = s.ferry.state / "journal.db-wal"
            s.ferry.wait(lambda: not wal.stat().st_size, 30, "the log to be emptied")
        s.finish()
        yield s
    finally:
        s.close()


def test_every_cut_keeps_the_promises(scene):
    start = time.monotonic()
    found, looked = scene.check(random.Random(SEED))
    print(f"seed {SEED}: {len(scene.records)} records, {len(scene.names)} syncs, {looked} disks, "
          f"{time.monotonic() - start:.1f} s")
    assert not found, (SEED, len(found), found[:3])


def test_the_daemon_goes_on_after_cuts(scene):
    """The same with the real daemon: it starts on such a disk, and in the end everything is where it belongs."""
    rng = random.Random(SEED)
    count = sum(1 for _ in scene.cuts())
    chosen = sorted(rng.sample(range(count), min(RESTARTS, count)))
    picked = []  # the disk goes on: what is looked at later is made now
    for i, (n, disk, dropped) in enumerate(scene.cuts()):
        if i in chosen:
            picked.append((n, disk.view(rng.choice(("none", "some", "all")), rng), set(dropped)))
    for n, view, dropped in picked:
        scene.restart(view, dropped, scene.cut_ms(n), f"seed {SEED}, cut {n}")


# Each fsync of the daemon, and that a promise breaks without it. "site < who wants it"; SQLite's after their file.
NEEDED = [
    "SQLite: folder after journal.db-wal",
    "SQLite: journal.db",
    "SQLite: journal.db-journal",
    "SQLite: journal.db-wal",
    "fsutil_mkdirs < move_away",
    "fsutil_mkdirs < open_files",
    "fsutil_mkdirs < open_watches",
    "fsutil_mkdirs < take_custody",
    "fsutil_unlink < move_away",
    "fsutil_unlink < touch_work",
    "journal_backup_publish < back_up",
    "make_copy < move_away",
    "move_by_copy < move_away",
    "sync_both 1 < back_up",
    "sync_both 1 < move_away",
    "sync_both 1 < put_in_place",
    "sync_both 1 < take_custody",
    "sync_both 2 < move_away",
    "sync_both 2 < take_custody",
]
# And those without which nothing breaks, because:
HARMLESS = {
    "SQLite: journal.db.new": "the fsync of journal_backup_publish follows before anyone relies on it",
    "SQLite: journal.db.new-journal": "a journal.db.new that was not finished is thrown away",
    "SQLite: folder after journal.db.new-journal": "the same",
    "SQLite: folder after journal.db-journal": "one sector is written under it: the header, when WAL mode is set",
    "journal_backup_publish < put_in_place": "SQLite's own commit has just synced the file; needed for backups",
}


def test_all_fsyncs_are_known(scene):
    assert set(scene.names.values()) == {*NEEDED, *HARMLESS}


@pytest.mark.parametrize("name", NEEDED)
def test_without_this_fsync_a_promise_breaks(scene, name):
    for attempt in range(20):  # some need an unlucky disk
        found, looked = scene.check(random.Random(SEED + attempt), name, stop_at_first=True)
        if found:
            print(f"after {looked} disks: {found[0]}")
            return
    raise AssertionError(f"seed {SEED}: {looked} disks are fine without it")


@pytest.mark.parametrize("name", HARMLESS)
def test_without_this_fsync_nothing_breaks(scene, name):
    found, _ = scene.check(random.Random(SEED), name, stop_at_first=True)
    assert not found, f"seed {SEED}: move it to those that are needed: {found}"
