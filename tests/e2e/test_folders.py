"""The folders that files are moved to: who may read them, and what is left of them."""
import hashlib
import os

import pytest

import dicom
from ferry import ferries  # noqa: F401


def test_folders_that_are_made_are_for_whom_the_first_is_for(sandbox, ferries):
    """The daemon's umask is 0077; the people who are to look at the rejects are not the daemon."""
    ferry = ferries({"cloud": sandbox.url})
    sent, rejected = ferry.root / "sent", ferry.root / "rejected"
    group = 12345 if os.geteuid() == 0 else os.getegid()
    for folder, mode in ((sent, 0o2750), (rejected, 0o755)):
        folder.mkdir()
        os.chown(folder, -1, group)
        folder.chmod(mode)
    ferry.write_config({"cloud": sandbox.url}, watch={"after_upload": {"move": f"{sent}/{{Modality}}/{{path:1}}"},
                                                      "rejected": str(rejected)})
    ferry.start()
    dicom.write(ferry.inbox / "sub/a.dcm")
    (ferry.inbox / "sub/deep").mkdir(exist_ok=True)
    (ferry.inbox / "sub/deep/b").write_bytes(b"no DICOM, but long enough" * 20)
    ferry.wait(lambda: (sent / "CT/sub/a.dcm").exists() and (rejected / "sub/deep/b").exists(), 30, "both to be moved")
    made = {path: path.stat() for path in (sent / "CT", sent / "CT/sub", rejected / "sub", rejected / "sub/deep")}
    assert {oct(st.st_mode & 0o7777) for path, st in made.items() if sent in path.parents} == {"0o2750"}
    assert {oct(st.st_mode & 0o7777) for path, st in made.items() if rejected in path.parents} == {"0o755"}
    assert {st.st_gid for st in made.values()} == {group}


@pytest.mark.parametrize("after", ["delete", "move"])
def test_a_version_that_comes_at_the_last_instant(build, sandbox, ferries, after):
    """It takes the path of the delivered one after that was looked at and before it goes."""
    ferry = ferries({"cloud": sandbox.url})
    sent = ferry.root / "sent"
    ferry.write_config({"cloud": sandbox.url}, watch={"after_upload": after if after == "delete" else {"move": str(sent)}})
    old, new = ferry.inbox / "a.dcm", ferry.root / "new.dcm"
    dicom.write(old, seed=1)
    dicom.write(new, seed=2)
    sums = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (old, new)}
    e = ferry.environment
    e.update(LD_PRELOAD=str(build / "tests/fault/swapped.so"), DCMFERRY_SWAP_PATH=str(old), DCMFERRY_SWAP_FILE=str(new),
             ASAN_OPTIONS=":".join(filter(None, [e.get("ASAN_OPTIONS"), "verify_asan_link_order=0"])))
    try:
        ferry.start(wait=False)
    finally:
        del e["LD_PRELOAD"]
    ferry.wait(lambda: {sha for _, sha in sandbox.held()} == sums, 30, "both versions to be delivered")
    ferry.wait(lambda: not old.exists(), 30, "the second one to go too")
    assert not new.exists() and not list(ferry.inbox.iterdir())
    if after == "move":
        assert hashlib.sha256((sent / "a.dcm").read_bytes()).hexdigest() in sums and len(list(sent.iterdir())) == 1
