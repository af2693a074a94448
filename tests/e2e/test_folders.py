"""The folders that files are moved to: who may read them, and what is left of them."""
import os

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
