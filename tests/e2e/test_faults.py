"""A server that misbehaves in every way the sandbox knows: in the end each file is there, whole, in its folder."""

import collections
import os
import re
import shutil
import subprocess

import pytest
from pydicom.uid import generate_uid

import dicom
from ferry import ferries  # noqa: F401
from test_ferry import sha256

SMALL = 60
LARGE = 3  # of three parts each

# Not carried out, or answered after all: then nothing can arrive twice.
LOSES = ["drop-before=9", "lose-request=20", "answer-error=2:on=session:times=2", "http-status=503:times=3",
         "http-status=404:times=2", "refuse-upgrade=503:times=4", "refuse-auth:times=2", "answer-late=300:p=0.2",
         "slow=2000000"]
# Carried out, and the answer is lost: a file of one part is asked for, a part of several is sent again.
DOUBTS = ["drop-after=9", "never-answer=20", "garbage-answer=20", "text-answer=20", "forget-session=25:times=3",
          "displace=30:times=3", "answer-late=1500:p=0.1"]


def all_fault_names(build):
    """What the sandbox itself lists."""
    text = subprocess.run([build / "daemon/sandbox/dcmferry-sandbox", "--help"], capture_output=True, text=True,
                          timeout=60).stdout
    text = text[text.index("NAME is one of"):text.index("Behaviour of the real server")]
    return set(re.findall(r"^  ([a-z-]+)(?:=[A-Z]+)?$", text, re.MULTILINE))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """60 small files and 3 of three parts, of eleven studies: (their folder, {(folder, SHA-256): parts})"""
    folder, sums = tmp_path_factory.mktemp("made"), {}
    for i in range(SMALL + LARGE):
        if i % 6 == 0:
            study, modality = generate_uid(), ("CT", "MR")[i // 6 % 2]
        path = folder / f"{i}.dcm"
        dicom.write(path, study, modality=modality, size=1_100_000 if i >= SMALL else 3000)
        sums[f"In/{modality}", sha256(path)] = 3 if i >= SMALL else 1
    return folder, sums


class Drop:
    def __init__(self, ferry, made):
        folder, self.sums = made
        shutil.copytree(folder, ferry.root / "copy")
        (ferry.root / "copy").rename(ferry.inbox / "dropped")

    def check(self, sandbox):
        """Everything is there; returns how often small and large files came more than once."""
        held = sandbox.held()
        assert set(held) == set(self.sums), (len(held), len(self.sums))
        again = collections.Counter()
        for key, parts in self.sums.items():
            again[parts] += held[key][0] - 1
        return again[1], again[3]


def options(sandbox, **more):
    return {"cloud": dict({"router": sandbox.url, "idle_timeout": "1s", "ping_interval": "1s",
                           "retry": {"min": "100ms", "max": "1s"}}, **more)}


def struck(sandbox):
    return sum(fault["hits"] for fault in sandbox.fault_counts().values())


def deliver(ferries, sandbox, made, *faults, **more):
    sandbox.faults(*faults)
    ferry = ferries(options(sandbox, **more), log_level="notice")
    drop = Drop(ferry, made)
    ferry.start()
    ferry.wait_settled(SMALL + LARGE, 60)
    assert collections.Counter(ferry.fates().values()) == {"delivered": SMALL + LARGE}
    return drop


@pytest.mark.parametrize("fault", LOSES + DOUBTS)
def test_all_is_delivered_in_spite_of(sandbox, ferries, made, fault):
    drop = deliver(ferries, sandbox, made, fault)
    hits = struck(sandbox)
    small, large = drop.check(sandbox)
    print(f"{fault}: struck {hits} times, came again: {small} small, {large} large")
    assert hits > 0 or "slow" in fault  # which is not counted
    if fault in LOSES:
        assert small + large == 0
    assert small == 0 and large <= hits


def test_all_at_once(sandbox, ferries, made):
    faults = ["drop-after=30", "drop-before=40", "lose-request=40", "never-answer=45", "garbage-answer=35:times=5",
              "answer-late=200:p=0.2", "forget-session=70:times=2", "http-status=503:p=0.3:times=5"]
    drop = deliver(ferries, sandbox, made, *faults)
    hits = struck(sandbox)
    small, large = drop.check(sandbox)
    print(f"struck {hits} times, came again: {small} small, {large} large")
    assert hits >= 10 and small + large <= hits


@pytest.mark.parametrize("fault", ["answer-error=7:on=part:times=6", "answer-error=5:on=upload:times=3", "disk-full:times=5",
                                   "answer-error=1:on=general:times=4"])
def test_refusals_that_pass(sandbox, ferries, made, fault):
    """What is refused now and then is tried again: nothing fails, nothing is sent twice."""
    sandbox.faults(fault)
    ferry = ferries(options(sandbox), watch={"after_upload": "delete"}, log_level="notice")
    drop = Drop(ferry, made)
    ferry.start()
    ferry.wait(lambda: ferry.status()["files"]["disposed"] == SMALL + LARGE, 60, "all to be delivered and deleted")
    assert struck(sandbox) > 0
    assert ferry.status()["deliveries"]["failed"] == 0
    assert drop.check(sandbox) == (0, 0)
    assert not list(ferry.inbox.rglob("*.dcm"))


@pytest.mark.parametrize("kind", ["part", "upload", "general"])
def test_a_server_that_refuses_everything_for_a_while(sandbox, ferries, made, kind):
    """"Internal error" for much longer than a file needs to be refused eight times: nothing fails, then all arrives."""
    sandbox.faults(f"answer-error=1:on={kind}")
    ferry = ferries(options(sandbox, retry={"min": "100ms", "max": "1s"}), log_level="notice")
    drop = Drop(ferry, made)
    ferry.start()
    ferry.wait(lambda: struck(sandbox) > 3 * (SMALL + LARGE), 60, "refusals")
    states = ferry.status()["deliveries"]
    assert states["failed"] == states["delivered"] == 0, states
    reasons = {row["deliveries"][0]["reason"] for row in ferry.files() if row["deliveries"][0]["state"] == "waiting"}
    assert any("the server" in reason or "folder" in reason for reason in reasons), reasons
    sandbox.faults()
    ferry.wait_settled(SMALL + LARGE, 60)
    assert set(ferry.fates().values()) == {"delivered"}
    assert drop.check(sandbox) == (0, 0)


def test_what_is_refused_for_long_fails_with_its_reason_and_can_be_sent_again(sandbox, ferries):
    """While other files are taken: those without a folder, which the server refuses here."""
    sandbox.faults("answer-error=1:on=general")
    routes = [{"name": "ct", "match": {"Modality": "CT"}, "to": "cloud", "folder": "In/{Modality}"},
              {"name": "rest", "to": "cloud"}]
    ferry = ferries(options(sandbox, retry={"min": "100ms", "max": "1s"}), routes=routes, log_level="notice",
                    watch={"after_upload": "delete"})
    dicom.write(ferry.inbox / "ct.dcm", modality="CT")
    ferry.start()
    ferry.wait(lambda: struck(sandbox) >= 30, 60, "refusals")
    assert ferry.status()["deliveries"]["failed"] == 0  # nothing is taken: it may be the server
    dicom.write(ferry.inbox / "mr.dcm", modality="MR")
    ferry.wait_settled(2, 60)
    assert ferry.fates() == {"ct.dcm": "failed", "mr.dcm": "delivered"}
    (failed,) = ferry.files("--problems")
    assert "folder" in failed["deliveries"][0]["reason"]
    assert os.path.exists(failed["path"])
    sandbox.faults()
    assert ferry.ask("retry", "--all")["changed"] == 1
    ferry.wait(lambda: ferry.status()["files"]["disposed"] == 2, 60, "all to be delivered and deleted")
    assert {folder: receipts for (folder, _), (receipts, _) in sandbox.held().items()} == {"In/CT": 1, "": 1}


@pytest.mark.parametrize("mode", ["always", "never"])
def test_check_existing(sandbox, ferries, made, mode):
    """The answers to six parts are lost."""
    drop = deliver(ferries, sandbox, made, "never-answer=10:on=part:times=6", check_existing=mode)
    small, large = drop.check(sandbox)
    assert small + large <= 6 + (LARGE if mode == "never" else 0)  # those cannot be asked for: whole, anew


def test_after_a_kill_of_the_server_it_is_asked(sandbox, ferries, made):
    """Answers that were lost with the server: small files are asked for in the next session, and not sent again."""
    sandbox.faults("never-answer=1:on=part")
    ferry = ferries(options(sandbox, idle_timeout="20s", connections=4), log_level="notice")
    drop = Drop(ferry, made)
    ferry.start()
    ferry.wait(lambda: len(sandbox.held()) >= 4, 30, "a first file on each connection")
    arrived = {key for key in sandbox.held() if drop.sums[key] == 1}
    sandbox.kill()
    sandbox.start()
    ferry.ask("retry", "--all")
    ferry.wait_settled(SMALL + LARGE, 60)
    held = sandbox.held()
    assert len(arrived) >= 3 and {held[key][0] for key in arrived} == {1}
    assert drop.check(sandbox)[0] == 0


def test_check_existing_always_finds_what_is_there(sandbox, ferries):
    """A new machine, or a lost journal: `always` sends nothing again, `uncertain` does, and neither loses anything."""
    first = ferries(options(sandbox)).start()
    made = first.root / "made"
    sums = set()
    for i in range(8):
        dicom.write(made / f"{i}.dcm")
        sums.add(sha256(made / f"{i}.dcm"))

    def drop(ferry, mode):
        for path in made.iterdir():
            (ferry.inbox / path.name).write_bytes(path.read_bytes())
        ferry.wait_settled(8)
        assert set(ferry.fates().values()) <= {"delivered", "duplicate"}, (mode, ferry.fates())
        held = sandbox.held()
        assert {sha for _, sha in held} == sums
        return {receipts for receipts, _ in held.values()}

    assert drop(first, "first") == {1}
    first.stop()
    assert drop(ferries(options(sandbox, check_existing="always")).start(), "always") == {1}
    assert drop(ferries(options(sandbox)).start(), "uncertain") == {2}


def test_every_switch_is_tried(build):
    names = {fault.split("=")[0].split(":")[0] for fault in LOSES + DOUBTS} | {"answer-error", "disk-full"}
    assert names == all_fault_names(build)
