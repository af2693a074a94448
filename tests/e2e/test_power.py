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

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = ROOT / "core"
sys.path.insert(0, str(ROOT / "tests/fault"))
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

    def __init__(self, build, root, watches):
        self.build, self.root = build, pathlib.Path(root)
        self.far = other_file_system(root)
        if self.far is None:
            pytest.skip("there is no second file system to write to")
        self.disk = self.root / "ferry/disk"
        self.disk.mkdir(parents=True)
        self.roots = [str(self.disk), str(self.far)]
        self.trace = self.root / "trace"
        self.unsynced = []  # files whose contents, and folders whose name, nobody has synced
        self.expected = {}  # dropped path: (bytes, SOP Instance UID or None)
        self.staging = self.root / "staging"
        self.staging.mkdir()
        self.sandbox = Sandbox(build, self.root / "sandbox").start()
        self.ferry = Ferry(build, self.root / "ferry", {"cloud": self.sandbox.url})
        self.ferry.inbox, self.ferry.state = self.disk, self.disk / "var/state"
        options = {
            "keep": {},
            "move": {"after_upload": {"move": str(self.disk / "sent/{Modality}")}, "rejected": str(self.disk / "rejected"),
                     "prune_empty": True},
            "delete": {"after_upload": "delete"},
            "far": {"after_upload": {"move": str(self.far / "sent/{Modality}")}},
            "custody": {"after_upload": "delete", "custody": "rename"}}
        self.watches = [dict(options[name], path=str(self.disk / name)) for name in watches]
        for name in watches:
            (self.disk / name).mkdir()
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
        disk = powerloss.Disk(self.roots)
        for path in self.unsynced:
            disk.unsync(str(path))
        self.initial_disk = pickle.dumps(disk)
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
        return sum(os.path.exists(path) for path in self.expected if self.watch_of(path) != "keep")

    def watch_of(self, path):
        return path[len(str(self.disk)) + 1:].split("/")[0]

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
        self.names = powerloss.name_syncs(self.records, self.new_disk(), str(self.ferry.daemon), SOURCE)
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
        """What the journal on such a disk says: (error or None, {path: (state, gone)}, {SOP UID: (state, uncertain)}, whether it is
        being rebuilt)."""
        name = str(self.ferry.state / "journal.db")
        parts = tuple(view[name + suffix][0] if view.get(name + suffix) else None for suffix in ("", "-wal", "-journal"))
        if parts not in self.queries:
            self.queries[parts] = query(*parts)
        return self.queries[parts]

    def broken(self, view, dropped, cut, final=False):
        """The promises that such a disk breaks."""
        state = str(self.ferry.state)
        faults, cut_ms = [], self.cut_ms(cut)
        error, files, deliveries, _ = self.journal(view)
        if error:
            faults.append(f"journal: {error}")
        if view.get(f"{state}/journal.damaged"):
            faults.append("journal: marked as damaged")
        backup = view.get(f"{state}/backup.db", (None,))[0]
        if backup not in self.queries:
            self.queries[backup] = query(backup)
        error, backed_up, *_ = self.queries[backup]
        if error:
            faults.append(f"backup: {error}")
        if not final and len(backed_up) < max((files for at, files in self.backups if at <= cut), default=0):
            faults.append("backup: an older one than was reported")
        there = collections.Counter(held[0] for path, held in view.items() if held and "/state/" not in path)
        for path in dropped:
            data, sop = self.expected[path]
            watch = self.watch_of(path)
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
            if held and ("/sent/" in path or "/rejected/" in path) and not path.endswith(".tmp") and held[0] not in whole \
                    and pathlib.Path(path) not in self.unsynced:
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
            code = self.ferry.once(60)  # 3: there were rejects
        finally:
            again.stop()
        log = self.ferry.log()
        assert code in (0, 3) and "Sanitizer" not in log, (what, log[-4000:])
        held = {sha: receipts for (_, sha), (receipts, _) in again.held().items()}
        gone = powerloss.Disk(self.roots).view("all")
        faults = Scene.broken(self, gone, dropped, len(self.records), final=True)
        where = collections.Counter(held[0] for path, held in gone.items() if held and "/state/" not in path)
        for path in dropped:
            data, sop = self.expected[path]
            if sop and held.get(hashlib.sha256(data).hexdigest()) != 1:
                faults.append(f"received {held.get(hashlib.sha256(data).hexdigest(), 0)} times: {path}")
            watch = self.watch_of(path)
            kept = watch not in ("delete", "custody")
            # A rename whose halves were torn shows the file twice; that may stay so, but it may not vanish.
            twice = kept and sum(h is not None and h[0] == data for h in view.values()) > 1
            if where[data] not in (kept, kept + twice) or (path in gone) != (watch == "keep"):
                faults.append(f"stands {where[data]} times: {path}")
        assert not faults, (what, faults, log[-3000:])

    def check(self, rng, ignored=None, stop_at_first=False, near=None):
        """All cuts (`near`: those that many records after an ignored sync), several disks each: [(number of records, mode,
        faults)]."""
        found, looked = [], 0
        missed = [i for i, name in self.names.items() if name == ignored]
        for n, disk, dropped in self.cuts(ignored):
            if near is not None and not any(i < n <= i + near for i in missed):
                continue
            for mode in ["none", *["some"] * SUBSETS]:
                faults = self.broken(disk.view(mode, rng), dropped, n)
                looked += 1
                if faults:
                    found.append((n, mode, faults))
                    if stop_at_first:
                        return found, looked
        return found, looked


class Damaged(Scene):
    """A run that cannot use its journal. `kind`: "found", it finds that out; "marked", the run before did, and died after it
    wrote that down; "lost", there is a log without its database, and no backup."""

    def damage(self, kind):
        self.kept = []  # files of which every byte is kept
        for name, data, kinds in (("journal.db", b"\x5a" * 8192, ("found", "marked")),
                                  ("journal.db-wal", b"\xa5" * 4096, ("marked", "lost")),
                                  ("journal.damaged", b"journal.db.damaged-20261123T120000Z", ("marked",))):
            path = self.ferry.state / name
            if kind in kinds:
                path.write_bytes(data)
                self.kept += [data] if name != "journal.damaged" else []
            else:
                path.unlink(missing_ok=True)
        if kind == "lost":
            (self.ferry.state / "backup.db").unlink()
        self.damaged = self.kept[0] if kind != "lost" else None
        self.log = self.kept[-1] if kind != "found" else None

    def broken(self, view, dropped, cut, final=False):
        state = str(self.ferry.state)
        cut_ms, faults = self.cut_ms(cut), []
        held = {path[len(state) + 1:]: there[0] for path, there in view.items() if there and path.startswith(state)}
        db, log, mark = held.get("journal.db"), held.get("journal.db-wal"), held.get("journal.damaged")
        if not set(self.kept) <= set(held.values()):
            faults.append("the damaged journal is not kept")
        if mark is not None and not mark.startswith(b"journal.db.damaged-"):
            faults.append("the mark says nothing: the daemon cannot start")
        files, deliveries, rebuilding = {}, {}, True
        if db is not None and db == self.damaged:
            if mark is None and log != self.log and self.log:
                faults.append("the damaged journal has lost its log and would not know")
        elif db is None:
            if mark is None and log is None and "backup.db" not in held:
                faults.append("the damage is forgotten")
        elif self.log and log == self.log:
            faults.append("the damaged journal's log beside the restored one")
        else:
            error, files, deliveries, rebuilding = self.journal(view)
            if error:
                faults.append(f"journal: {error}")
            elif not rebuilding and cut < self.rebuilt:
                faults.append("the restored journal is taken for complete")
        there = collections.Counter(h[0] for path, h in view.items() if h and not path.startswith(state))
        for path in dropped:
            data, sop = self.expected[path]
            row = files.get(path)
            if not there[data]:
                faults.append(f"the moved file is nowhere: {path}")
            if not view.get(path) and not (row and row[0] in (DELIVERED, DISPOSED)):
                faults.append(f"gone before it was delivered: {path}")
            if view.get(path) and row and row[1]:
                faults.append(f"back from the dead: {path}")
            known = deliveries.get(sop, (None, 0))
            if not rebuilding and self.received[sop] < cut_ms and not (known[0] in (SENDING, SENT) or known[1]):
                faults.append(f"received, but would be sent again unasked: {path}")
        return faults

    def finish(self):
        super().finish()
        self.rebuilt = len(self.records)  # when the journal was first known as rebuilt
        rng = random.Random(0)
        for n, disk, _ in self.cuts():
            view = disk.view("all", rng)
            error, files, _, rebuilding = self.journal(view)
            if not error and files and not rebuilding:
                self.rebuilt = n - 1
                break
        assert self.rebuilt < len(self.records)


def query(db_bytes, wal_bytes=None, journal_bytes=None):
    if db_bytes is None:
        stray = wal_bytes is not None or journal_bytes is not None
        return ("a log without a database" if stray else None), {}, {}, False
    if not db_bytes:
        return "the database is empty", {}, {}, False
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
                return found, {}, {}, False
            if db.execute("PRAGMA user_version").fetchone()[0] < 1:
                return "no schema", {}, {}, False
            files = {os.fsdecode(path): (state, gone is not None)
                     for path, state, gone in db.execute("SELECT path, state, gone_ms FROM file ORDER BY id")}
            deliveries = {sop: (state, uncertain) for sop, state, uncertain in
                          db.execute("SELECT sop_instance_uid, state, uncertain FROM delivery ORDER BY id")}
            rebuilding = db.execute("SELECT value FROM meta WHERE key = 'rebuilding'").fetchone()
            return None, files, deliveries, bool(rebuilding and rebuilding[0])
        except sqlite3.DatabaseError as error:
            return str(error), {}, {}, False
        finally:
            db.close()


@pytest.fixture(scope="module")
def scene(build, tmp_path_factory):
    """All disposals, rejects, checkpoints and backups, in two rounds with a quiet time between."""
    s = Scene(build, tmp_path_factory.mktemp("power"), ["move", "delete", "far", "custody"])
    try:
        for made_by_others in (s.far / "sent", s.disk / "rejected", s.disk / "custody" / CUSTODY):
            made_by_others.mkdir()
            s.unsynced.append(made_by_others)
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


def damaged_scene(build, root, kind):
    """The journal is damaged and set aside, the backup is restored; a copy that someone else made stands at a target."""
    s = Damaged(build, root, ["keep", "far"])
    try:
        for i in range(2):
            s.make(f"keep/a{i}.dcm", direct=True)
        s.ferry.start()
        s.settled()
        s.backup()
        s.make("keep/later/b.dcm", direct=True)
        s.settled()
        assert s.ferry.stop() == 0
        s.damage(kind)
        s.trace.unlink()
        for i in range(2):
            s.make(f"far/{i}.dcm", direct=True, modality="CT")
        copy = s.far / "sent/CT/0.dcm"
        copy.parent.mkdir(parents=True)
        shutil.copy2(s.disk / "far/0.dcm", copy)
        s.unsynced.append(copy)
        s.start()
        s.settled()
        s.ferry.wait(lambda: "the journal is rebuilt" in s.ferry.log(), 30, "the journal to be rebuilt")
        assert {receipts for receipts, _ in s.sandbox.held().values()} == {1}  # what was sent before is asked about
        s.finish()
        yield s
    finally:
        s.close()


@pytest.fixture(scope="module")
def found(build, tmp_path_factory):
    yield from damaged_scene(build, tmp_path_factory.mktemp("found"), "found")


@pytest.fixture(scope="module")
def marked(build, tmp_path_factory):
    yield from damaged_scene(build, tmp_path_factory.mktemp("marked"), "marked")


@pytest.fixture(scope="module")
def lost(build, tmp_path_factory):
    yield from damaged_scene(build, tmp_path_factory.mktemp("lost"), "lost")


@pytest.fixture
def scenes(scene, found, marked, lost):
    return {"plain": scene, "found": found, "marked": marked, "lost": lost}


@pytest.mark.parametrize("which", ["plain", "found", "marked", "lost"])
def test_every_cut_keeps_the_promises(scenes, which):
    scene, start = scenes[which], time.monotonic()
    faults, looked = scene.check(random.Random(SEED))
    print(f"seed {SEED}: {len(scene.records)} records, {len(scene.names)} syncs, {looked} disks, "
          f"{time.monotonic() - start:.1f} s")
    assert not faults, (SEED, len(faults), faults[:3])


def restart_after_some(scene, n_cuts, wanted=None):
    rng = random.Random(SEED)
    cuts = [n for n, _, _ in scene.cuts() if wanted is None or wanted(n)]
    chosen = set(rng.sample(range(len(cuts)), min(n_cuts, len(cuts))))
    picked, i = [], 0  # the disk goes on: what is looked at later is made now
    for n, disk, dropped in scene.cuts():
        if wanted is None or wanted(n):
            if i in chosen:
                picked.append((n, disk.view(rng.choice(("none", "some", "all")), rng), set(dropped)))
            i += 1
    for n, view, dropped in picked:
        scene.restart(view, dropped, scene.cut_ms(n), f"seed {SEED}, cut {n}")
    assert picked


def test_the_daemon_goes_on_after_cuts(scene):
    """The same with the real daemon: it starts on such a disk, and in the end everything is where it belongs."""
    restart_after_some(scene, RESTARTS)


@pytest.mark.parametrize("which", ["found", "marked", "lost"])
def test_the_daemon_goes_on_after_cuts_of_a_recovery(scenes, which):
    damaged = scenes[which]
    in_place = max(i for i, r in enumerate(damaged.records)
                   if r.op == powerloss.RENAME and r.second.endswith("/journal.db"))
    unmarked = max(i for i, r in enumerate(damaged.records)
                   if r.op == powerloss.UNLINK and r.first.endswith("/journal.damaged"))
    # The new journal is in place, the mark is still there; and anywhere else.
    restart_after_some(damaged, 1, lambda n: in_place < n <= unmarked)
    restart_after_some(damaged, RESTARTS // 4, lambda n: n < damaged.rebuilt)


# Each fsync of the daemon, and in which scene a promise breaks without it: "call < who wants it"; SQLite's by their file.
NEEDED = [
    ("plain", "SQLite: folder after journal.db-wal"),
    ("plain", "SQLite: journal.db"),
    ("plain", "SQLite: journal.db-journal"),
    ("plain", "SQLite: journal.db-wal"),
    ("plain", "make_one < move_away"),
    ("plain", "make_one < open_files"),
    ("plain", "make_one < make_root"),
    ("plain", "make_one < take_custody"),
    ("plain", "fsutil_unlink < move_away"),
    ("plain", "fsutil_unlink < take_from"),
    ("found", "fsutil_write_file 1 < journal_recover_mark"),
    ("lost", "fsutil_write_file 2 < journal_recover_mark"),
    ("found", "is_finished_copy < move_away"),
    ("plain", "journal_backup_publish < back_up"),
    ("plain", "make_copy < move_away"),
    ("plain", "move_by_copy < move_away"),
    ("plain", "sync_both 1 < back_up"),
    ("plain", "sync_both 1 < move_away"),
    ("plain", "sync_both 1 < put_in_place"),
    ("lost", "sync_both 1 < put_in_place"),
    ("plain", "sync_both 1 < take_custody"),
    ("plain", "sync_both 2 < move_away"),
    ("plain", "sync_both 2 < take_custody"),
]
# Those without which nothing breaks in any scene. Each of our own is a call that others need, made here too.
HARMLESS = {
    "SQLite: journal.db.new": "the fsync of journal_backup_publish follows before anyone relies on it",
    "SQLite: journal.db.new-journal": "a journal.db.new that was not finished is thrown away",
    "SQLite: folder after journal.db.new-journal": "the same",
    "SQLite: folder after journal.db-journal": "one sector is written under it: the header, when WAL mode is set",
    "journal_backup_publish < put_in_place": "SQLite's own commit has just synced the file",
    "sync_both 1 < set_aside": "the mark is durable, and SQLite syncs the folder while it makes journal.db.new",
    "fsutil_unlink < restore": "a mark that comes back is known by the set-aside file beside the new one, and removed",
}


def test_all_fsyncs_are_known(scenes):
    seen = {name for scene in scenes.values() for name in scene.names.values()}
    assert seen == {*(name for _, name in NEEDED), *HARMLESS}
    shown = {name.split(" < ")[0] for _, name in NEEDED}
    assert set(powerloss.call_sites(SOURCE).values()) <= shown  # each call in the sources


@pytest.mark.parametrize("which,name", NEEDED)
def test_without_this_fsync_a_promise_breaks(scenes, which, name):
    for attempt in range(500):  # some need an unlucky disk, soon after
        faults, looked = scenes[which].check(random.Random(SEED + attempt), name, stop_at_first=True,
                                             near=None if attempt < 5 else 40)
        if faults:
            print(f"after {looked} disks: {faults[0]}")
            return
    raise AssertionError(f"seed {SEED}: {looked} disks are fine without it, again and again")


@pytest.mark.parametrize("name", HARMLESS)
def test_without_this_fsync_nothing_breaks(scenes, name):
    for scene in scenes.values():
        faults, _ = scene.check(random.Random(SEED), name, stop_at_first=True)
        assert not faults, f"seed {SEED}: it belongs to those that are needed: {faults}"
