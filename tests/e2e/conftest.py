"""Fixtures of all end-to-end tests. DCMFERRY_BUILD names the build folder (default: build/test)."""

import os
import pathlib
import socket
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from sandbox import Sandbox  # noqa: E402


@pytest.fixture(scope="session")
def build():
    folder = pathlib.Path(os.environ.get("DCMFERRY_BUILD", ROOT / "build/test"))
    if not folder.is_absolute():
        folder = ROOT / folder
    assert (folder / "build.ninja").exists(), f"{folder} is no build folder; set DCMFERRY_BUILD"
    return folder


@pytest.fixture
def free_port():
    """A port that was free a moment ago; where possible let the program choose one itself."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def sandboxes(build, tmp_path):
    """Starts sandboxes: sandboxes(*options) gives a running one; all are stopped in the end, and must stop cleanly."""
    started = []

    def start(*options, **keywords):
        state = keywords.pop("state", tmp_path / f"sandbox{len(started)}")
        sandbox = Sandbox(build, state, *options, **keywords)
        started.append(sandbox)
        return sandbox.start()

    yield start
    codes = [sandbox.stop() for sandbox in started]
    logs = [sandbox.log() for sandbox in started]
    assert all(code in (0, None) for code in codes), f"exit statuses {codes}\n" + "\n".join(l[-4000:] for l in logs)
    assert not any("Sanitizer" in log or "runtime error" in log for log in logs), "\n".join(l[-4000:] for l in logs)


@pytest.fixture
def sandbox(sandboxes):
    """One sandbox without any options."""
    return sandboxes()


def shared(*names):
    """A file of the folder of reference material beside the project, or None where that is not there."""
    path = ROOT.parent.joinpath("shared", *names)
    return path if path.exists() else None


def pydicom_files():
    """The DICOM files that Debian's python3-pydicom carries."""
    import pydicom.data
    return sorted(path for path in pathlib.Path(pydicom.data.__file__).parent.rglob("*") if path.is_file())


@pytest.fixture(scope="session")
def dicom_samples():
    """Real DICOM files: those of python3-pydicom, and the project's reference ones where they are there."""
    samples = [p for p in pydicom_files() if p.suffix == ".dcm"]
    folder = shared("dicom")
    if folder:
        samples += sorted(p for p in folder.iterdir() if p.is_file() and p.name not in ("MANIFEST.tsv", "README.md"))
    return samples
