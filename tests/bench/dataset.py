"""Many small DICOM files, fast: one template, its UIDs patched in place."""
import os
import struct

CT = b"1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_LITTLE = b"1.2.840.10008.1.2.1"
ROOT = b"1.2.826.0.1.3680043.10.1999"
STUDY_FILES = 500


def element(group, number, vr, value):
    if len(value) % 2:
        value += b"\0" if vr in (b"UI", b"OB") else b" "
    head = struct.pack("<HH2s", group, number, vr)
    if vr in (b"OB", b"OW"):
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def uid(kind, n):
    """All of one length, so that they can be patched."""
    return b"%s.%d.1%09d" % (ROOT, kind, n)


def template(size):
    """A CT image of `size` bytes (or the least that holds the header), and where study, series and instance UID lie."""
    meta = (element(2, 1, b"OB", b"\0\1") + element(2, 2, b"UI", CT) + element(2, 3, b"UI", uid(3, 0))
            + element(2, 0x10, b"UI", EXPLICIT_LITTLE) + element(2, 0x12, b"UI", ROOT))
    data = (element(8, 0x16, b"UI", CT) + element(8, 0x18, b"UI", uid(3, 0)) + element(8, 0x20, b"DA", b"20261123")
            + element(8, 0x60, b"CS", b"CT") + element(0x10, 0x10, b"PN", b"Bench^Mark")
            + element(0x10, 0x20, b"LO", b"BENCH1") + element(0x20, 0xD, b"UI", uid(1, 0))
            + element(0x20, 0xE, b"UI", uid(2, 0)))
    file = b"\0" * 128 + b"DICM" + element(2, 0, b"UL", struct.pack("<I", len(meta))) + meta + data
    pixels = max(16, size - len(file) - 12 - 4 * 8 - 10) & ~1
    file += (element(0x28, 0x10, b"US", struct.pack("<H", 1))
             + element(0x28, 0x11, b"US", struct.pack("<H", min(pixels, 65534)))
             + element(0x28, 0x100, b"US", struct.pack("<H", 8)) + element(0x7FE0, 0x10, b"OB", os.urandom(pixels)))

    def places(text):
        at, found = file.find(text), []
        while at >= 0:
            found.append(at)
            at = file.find(text, at + 1)
        return found

    return bytearray(file), places(uid(1, 0)), places(uid(2, 0)), places(uid(3, 0))


def make(folder, files, size, first=0, study_files=STUDY_FILES):
    """Writes `files` instances into sub-folders of one study each; returns their paths in order."""
    data, studies, series, instances = template(size)
    length = len(uid(1, 0))
    paths = []
    for n in range(first, first + files):
        if n % study_files == 0 or n == first:
            study = f"{folder}/study{n // study_files:06d}"
            os.makedirs(study, exist_ok=True)
            for places, kind in ((studies, 1), (series, 2)):
                for at in places:
                    data[at:at + length] = uid(kind, n // study_files)
        for at in instances:
            data[at:at + length] = uid(3, n)
        path = f"{study}/IM{n:07d}.dcm"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        os.write(fd, data)
        os.close(fd)
        paths.append(path)
    return paths
