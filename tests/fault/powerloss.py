"""What a disk may hold after the power failed: replays the trace of powerloss.c up to any instant.

The rules are POSIX's, as harsh as a file system without mercy (ext4 without auto_da_alloc, or less) may be:

- fsync of a file makes its contents, size and times durable, and nothing else: not its name.
- fsync of a folder makes the names in it durable as they are now, and nothing else.
- Anything not synced may be on the disk or not, each change by itself and in any order: parts of one write, a new size
  without the bytes (zeros), a name without the contents, a later rename without an earlier one.
- A rename within one folder is one change. So is one between folders as long as nothing is synced; then fsync of one of
  them by who renamed makes that half durable, and only that. (Others' fsync of the folder it left makes it durable as a
  whole: against that no order of calls would help.)
- What the test itself puts into a drop folder is durable at once.

A Disk is advanced record by record; view() gives one of the many disks that a cut here may leave.
"""
import collections
import os
import re
import shutil
import stat
import struct
import subprocess
import time

WRITE, TRUNCATE, SYNC, CREATE, MKDIR, RENAME, UNLINK, RMDIR, LINK, MTIME, DROP, DROP_FOLDER, DONE = range(1, 14)
NAMES = {CREATE, MKDIR, RENAME, UNLINK, RMDIR, LINK}
EXTEND = -1
HEAD = struct.Struct("<IIIIqQQq")

Record = collections.namedtuple("Record", "op time_us id a first second data")


def read_trace(path):
    blob = open(path, "rb").read()
    records, at = [], 0
    while at < len(blob):
        total, op, n1, n2, time_us, dev, ino, a = HEAD.unpack_from(blob, at)
        body = at + HEAD.size
        records.append(Record(op, time_us, (dev, ino), a, os.fsdecode(blob[body:body + n1]),
                              os.fsdecode(blob[body + n1:body + n1 + n2]), blob[body + n1 + n2:at + total]))
        at += total
    return records


def drop(trace, source, target):
    """Moves a finished file into a new folder of a drop folder, as others do, and writes that down."""
    folder = os.path.dirname(target)
    os.mkdir(folder)
    note(trace, DROP_FOLDER, folder, os.stat(folder), 0, b"")
    st = os.stat(source)
    with open(source, "rb") as file:
        note(trace, DROP, os.fspath(target), st, st.st_mtime_ns, file.read())
    os.rename(source, target)


def note(trace, op, path, st, a, data):
    first = os.fsencode(path)
    head = HEAD.pack(HEAD.size + len(first) + len(data), op, len(first), 0, time.time_ns() // 1000, st.st_dev, st.st_ino, a)
    fd = os.open(trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, head + first + data)  # one write: whole among the daemon's records
    os.close(fd)


class File:
    __slots__ = ("durable", "mtime", "pending")

    def __init__(self, data=b"", mtime=0):
        self.durable, self.mtime, self.pending = bytes(data), mtime, []

    def sync(self, _thread):
        self.durable, self.mtime = self.contents(lambda change: [change])
        self.pending = []

    def contents(self, choose):
        """Bytes and mtime with what `choose` makes of each pending change: a list of changes."""
        if not self.pending:
            return self.durable, self.mtime
        data, mtime = bytearray(self.durable), self.mtime
        for kind, at, piece in (part for change in self.pending for part in choose(change)):
            if kind == MTIME:
                mtime = at
                continue
            if kind == TRUNCATE:
                del data[at:]
            if at > len(data):
                data.extend(bytes(at - len(data)))
            if kind == WRITE:
                data[at:at + len(piece)] = piece
        return bytes(data), mtime


class Step:
    """One change of names, which may have an effect in two folders."""
    __slots__ = ("thread", "target")

    def __init__(self, thread):
        self.thread, self.target = thread, None  # the folder renamed to, if that is another one


class Folder:
    __slots__ = ("names", "live", "pending")

    def __init__(self):
        self.names = {}  # durable
        self.live = {}
        self.pending = []  # (Step, name, node or None)

    def sync(self, thread):
        for step, name, node in self.pending:
            set_name(self.names, name, node)
            if step.target not in (None, self) and step.thread != thread:
                step.target.sync_step(step)
        self.pending = []

    def sync_step(self, step):
        for entry in [entry for entry in self.pending if entry[0] is step]:
            set_name(self.names, *entry[1:])
            self.pending.remove(entry)


def set_name(names, name, node):
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


class Disk:
    def __init__(self, roots):
        """The folders as they are now, all of it durable."""
        self.roots = {str(root): Folder() for root in roots}
        self.by_id = {}
        for root, folder in self.roots.items():
            self._load(root, folder)

    def _load(self, path, folder):
        st = os.stat(path)
        self.by_id[st.st_dev, st.st_ino] = folder
        for entry in os.scandir(path):
            st = entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                node = Folder()
                self._load(entry.path, node)
            elif stat.S_ISREG(st.st_mode):
                node = File(open(entry.path, "rb").read(), st.st_mtime_ns)
                self.by_id[st.st_dev, st.st_ino] = node
            else:
                continue
            folder.names[entry.name] = folder.live[entry.name] = node

    def find(self, path):
        """(folder, name) of a path, or None if it is not below a root."""
        for root, folder in self.roots.items():
            if path.startswith(root + "/"):
                parts = path[len(root) + 1:].split("/")
                for part in parts[:-1]:
                    folder = folder.live[part]
                return folder, parts[-1]
        return None

    def node(self, path):
        found = self.find(path)
        return found and found[0].live.get(found[1])

    def name_of(self, node):
        """Its last name, for people."""
        def look(folder, path):
            for name, other in folder.live.items():
                if other is node:
                    return name
                if isinstance(other, Folder) and (found := look(other, name)):
                    return found
            return None
        return next((n for n in (look(folder, root) for root, folder in self.roots.items()) if n), "?")

    def unsync(self, path):
        """Takes a file's contents, or a folder's name, for written but never synced."""
        node = self.node(path)
        if isinstance(node, Folder):
            folder, name = self.find(path)
            folder.pending.append((Step(None), name, folder.names.pop(name)))
            return
        node.pending = [(WRITE, 0, node.durable), (MTIME, node.mtime, None)]
        node.durable, node.mtime = b"", 0

    def _name(self, step, place, node):
        folder, name = place
        set_name(folder.live, name, node)
        folder.pending.append((step, name, node))

    def apply(self, record, ignore_sync=False):
        op, step = record.op, Step(record.a)
        if op == DONE:
            return
        if op in (WRITE, TRUNCATE, MTIME, SYNC):
            node = self.by_id.get(record.id)
            if node is None:
                return
            if op == WRITE:
                node.pending.append((WRITE, record.a, record.data))
            elif op in (TRUNCATE, MTIME):
                node.pending.append((op, record.a, None))
            elif not ignore_sync:
                node.sync(record.a)
            return
        place = self.find(record.first)
        if op in (DROP, DROP_FOLDER):
            node = File(record.data, record.a) if op == DROP else Folder()
            self.by_id[record.id] = node
            place[0].live[place[1]] = place[0].names[place[1]] = node
        elif op in (CREATE, MKDIR):
            node = File() if op == CREATE else Folder()
            self.by_id[record.id] = node
            self._name(step, place, node)
        elif op in (UNLINK, RMDIR):
            self._name(step, place, None)
        else:
            target = self.find(record.second)
            node = place[0].live[place[1]]
            if op == RENAME and place[0] is not target[0]:
                step.target = target[0]
            self._name(step, target, node)
            if op == RENAME:
                self._name(step, place, None)

    def view(self, mode, rng=None):
        """{path: (bytes, mtime_ns) of a file, None of a folder}. mode: "none" of what is not synced is there, "all" of it,
        or "some"."""
        if mode == "none":
            step_kept, choose = (lambda step: False), (lambda change: [])
        elif mode == "all":
            step_kept, choose = (lambda step: True), (lambda change: [change])
        else:
            chance, tears, decided = rng.choice((0.15, 0.5, 0.85)), rng.random() < 0.5, {}

            def step_kept(step):
                return decided.setdefault(step, rng.random() < chance)

            def choose(change):
                kind, at, data = change
                if kind == WRITE and tears:
                    return [(WRITE, at + i, data[i:i + 512]) for i in range(0, len(data), 512) if rng.random() < chance]
                if rng.random() < chance:
                    return [change]
                if kind == WRITE and rng.random() < 0.3:
                    return [(EXTEND, at + len(data), None)]  # the new size without the bytes
                return []

        found, contents = {}, {}

        def walk(path, folder):
            found[path] = None
            names = dict(folder.names)
            for step, name, node in folder.pending:
                if step_kept(step):
                    set_name(names, name, node)
            for name, node in names.items():
                below = f"{path}/{name}"
                if isinstance(node, Folder):
                    walk(below, node)
                else:
                    if node not in contents:  # it may have two names
                        contents[node] = node.contents(choose)
                    found[below] = contents[node]

        for root, folder in self.roots.items():
            walk(root, folder)
        return found


def write_disk(view, roots):
    """Makes the folders look like that."""
    for root in roots:
        for entry in os.scandir(root):
            shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
    for path, held in view.items():
        if held is None:
            os.makedirs(path, exist_ok=True)
    for path, held in view.items():
        if held is not None:
            with open(path, "wb") as file:
                file.write(held[0])
            os.chmod(path, 0o600)
            os.utime(path, ns=(held[1], held[1]))


# ---- Which fsync is it? ----

CALL = re.compile(r"\b(?:fsync|fdatasync|folder_sync|folder_sync_above|sync_left)\(")
SYNCS = ("folder_sync", "folder_sync_above", "sync_left")  # they sync for others, as does:
PUBLISH = "journal_backup_publish"
HELPERS = ("fsutil.c", "folder.c")


def call_sites(source):
    """Every fsync in the daemon's sources: {(function, line): name}, numbered where a function has several."""
    found = {}
    for path in sorted(source.rglob("*.c")):
        function, lines = None, {}
        for number, line in enumerate(path.read_text().splitlines(), 1):
            header = re.match(r"[a-z].*?(\w+)\(", line)
            if header and not line.endswith(";"):
                function = header.group(1)
            if CALL.search(line) and line.startswith(" ") and function not in SYNCS:
                lines.setdefault(function, []).append(number)
        for function, numbers in lines.items():
            for i, number in enumerate(numbers, 1):
                found[function, number] = f"{function} {i}" if len(numbers) > 1 else function
    return found


def name_syncs(records, disk, program, source):
    """{index: name} of the fsyncs of files and folders that the disk knows when they come; the disk is used up.

    "site < caller": the call as call_sites() names it, and the function that wanted something made durable. SQLite's are
    named after their file, a folder's after the file synced before it.
    """
    prefix = os.path.basename(program) + "+"
    addresses = sorted({frame[len(prefix):] for r in records if r.op == SYNC for frame in r.second.split()
                        if frame.startswith(prefix)})
    where, calls = symbolise(program, addresses), call_sites(source)
    names, before = {}, ""
    for i, r in enumerate(records):
        node = disk.by_id.get(r.id) if r.op == SYNC else None
        disk.apply(r)
        if node is None:
            continue
        frames = r.second.split()
        own = [place for frame in frames if frame.startswith(prefix) for place in where[frame[len(prefix):]]]
        if any(frame.startswith("libsqlite3") for frame in frames[:6]):
            name = disk.name_of(node)
            names[i] = f"SQLite: folder after {before}" if isinstance(node, Folder) else f"SQLite: {name}"
            before = name
            continue
        function, _, line = next(place for place in own if place[0] not in SYNCS)
        assert (function, line) in calls, f"no fsync in {function}, line {line}: the build is not that of these sources"
        caller = next(place[0] for place in own if place[1] not in HELPERS and place[0] != PUBLISH)
        names[i] = f"{calls[function, line]} < {caller}"
    return names


def symbolise(program, addresses):
    """{return address: [(function, file, line)]}, the innermost inlined function first."""
    asked = "\n".join(hex(int(a, 16) - 1) for a in addresses)
    out = subprocess.run(["addr2line", "-a", "-i", "-f", "-e", program], input=asked, capture_output=True, text=True,
                         check=True).stdout.splitlines()
    found, current, order = {}, None, iter(addresses)
    while out:
        if out[0].startswith("0x"):
            current = found[next(order)] = []
            del out[0]
            continue
        file, _, line = out[1].split(" ")[0].rpartition(":")
        current.append((out[0], os.path.basename(file), int(line) if line.isdigit() else 0))
        del out[:2]
    return found
