#!/usr/bin/python3
"""The Debian packages: packages.py BUILDFOLDER. Nothing is installed twice, and each file gets into one package, the right
one; what building them leaves in the source tree is no change of it. (That all of it gets into one is dh_missing's.)
"""
import fnmatch
import json
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
UNIT = "usr/lib/systemd/system/dcmferryd.service"  # debian/rules gives it to dh_installsystemd, for it to be restarted
LEFT_BY_A_BUILD = ["debian/.debhelper/generated/x", "debian/files", "debian/dcmferry.dcmferryd.service", "debian/debhelper-build-stamp", "debian/tmp/usr/x",
                   "debian/{package}/usr/x", "debian/{package}.substvars", "debian/{package}.postinst.debhelper",
                   "debian/{package}.debhelper.log", "obj-x86_64-linux-gnu/build.ninja"]


def destinations(build):
    """As Debian's prefix and folders have them."""
    folders = {"{prefix}": "usr", "{bindir}": "usr/bin", "{sbindir}": "usr/sbin", "{libexecdir}": "usr/libexec",
               "{datadir}": "usr/share", "{mandir}": "usr/share/man"}
    plan = json.loads((build / "meson-info/intro-install_plan.json").read_text())
    for kind in plan.values():
        for file in kind.values():
            first, rest = file["destination"].split("/", 1)
            yield f"{folders[first]}/{rest}"


def patterns():
    """{package: what its .install file names}"""
    return {path.stem: path.read_text().split() for path in sorted((ROOT / "debian").glob("*.install"))}


def faults(build):
    installed, packages = list(destinations(build)), patterns()
    if UNIT not in installed or not packages:
        yield "the unit is not installed, or nothing is into a package"
    for file in sorted({f for f in installed if installed.count(f) > 1}):
        yield f"{file} is installed twice"
    for file in sorted(set(installed)):
        takers = [package for package, names in packages.items()
                  if any(fnmatch.fnmatch(file, name) or file.startswith(name + "/") for name in names)]
        wanted = [] if file == UNIT else ["dcmferry-sandbox" if "sandbox" in file else "dcmferry"]
        if takers != wanted:
            yield f"{file} is in {takers}, should be in {wanted}"
    if (ROOT / ".git").exists() and shutil.which("git"):
        for package in packages:
            for name in LEFT_BY_A_BUILD:
                name = name.format(package=package)
                if subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT).returncode == 1:
                    yield f"{name} is not in .gitignore"


found = list(faults(pathlib.Path(sys.argv[1])))
print("\n".join(found) or "ok")
sys.exit(bool(found))
