#!/usr/bin/python3
"""The layers: includes point down only, and a library is used by the module that wraps it, nowhere else.

Prints one line a check, "ok …" or "not ok …" with the offending lines, and exits 1 if any failed.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# The lowest first; those of one row stand side by side and do not see each other.
LAYERS = [["core/base"], ["core/dicom/dict"], ["config"], ["core/worker"],
          ["core/dicom", "core/net", "core/watch", "core/journal"], ["core/postdicom"], ["core/dest"],
          ["core/pipeline"], ["daemon"]]

# header: where it may be included
ONLY_IN = {
    r"sqlite3\.h": ["core/journal/", "daemon/sandbox/store"],
    r"curl/.*": ["core/net/"],
    r"dcmtk/.*": ["core/dicom/", "daemon/dcmferry-dicom/"],
    r"yaml\.h": ["config/"],
    r"seccomp\.h|linux/seccomp\.h|linux/landlock\.h": ["daemon/dcmferry-dicom/"],
    r"microhttpd\.h": ["daemon/"],
    r"systemd/.*": ["daemon/dcmferryd/"],
}
NEVER_IN = {r"uv\.h": ["core/base/", "core/dicom/dict/", "config/"]}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
SOURCES = {".c", ".h", ".cc", ".cpp", ".hpp"}


def sources():
    for top in ("core", "config", "daemon"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in SOURCES:
                yield path.relative_to(ROOT)


def includes(path):
    for number, line in enumerate((ROOT / path).read_text(errors="replace").splitlines(), 1):
        match = INCLUDE.match(line)
        if match:
            yield number, match[2]


def module_of(path):
    """The module with the longest matching folder: core/dicom/dict before core/dicom."""
    names = [name for row in LAYERS for name in row if f"{path}".startswith(name + "/")]
    return max(names, key=len) if names else None


def row_of(module):
    return next(i for i, row in enumerate(LAYERS) if module in row)


def target_of(path, header):
    """Which of our files an include names, if any."""
    for base in (ROOT / path.parent, ROOT, ROOT / "core", ROOT / "daemon"):
        candidate = (base / header).resolve()
        if candidate.is_file() and candidate.is_relative_to(ROOT):
            return candidate.relative_to(ROOT)
    return None


def upward(module):
    for path in sources():
        if module_of(path) != module:
            continue
        for number, header in includes(path):
            target = target_of(path, header)
            other = module_of(target) if target else None
            if other and other != module and row_of(other) >= row_of(module):
                yield f"{path}:{number}: {header} is of {other}, which is not below {module}"


def outside(pattern, allowed):
    for path in sources():
        for number, header in includes(path):
            if re.fullmatch(pattern, header) and not any(f"{path}".startswith(a) for a in allowed):
                yield f"{path}:{number}: {header} belongs in {' and '.join(allowed)}"


def inside(pattern, forbidden):
    for path in sources():
        for number, header in includes(path):
            if re.fullmatch(pattern, header) and any(f"{path}".startswith(a) for a in forbidden):
                yield f"{path}:{number}: {header} has no place in {' and '.join(forbidden)}"


def main():
    checks = [(f"{module} includes what is below it only", upward(module)) for row in LAYERS for module in row]
    checks += [(f"{pattern} is included in {' and '.join(allowed)} only", outside(pattern, allowed))
               for pattern, allowed in ONLY_IN.items()]
    checks += [(f"{pattern} is not included in {' and '.join(forbidden)}", inside(pattern, forbidden))
               for pattern, forbidden in NEVER_IN.items()]
    assert len(list(sources())) > 10, "the sources were not found"
    failed = False
    for name, found in checks:
        found = list(found)
        failed |= bool(found)
        print("not ok" if found else "ok", name)
        for line in found:
            print("   ", line)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
