"""The main job on real files: called by daemon/quickstart once everything is built. Uses nothing but the programs."""
import collections
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

BUILD = pathlib.Path("build/release/daemon").resolve()
HERE = pathlib.Path("build/quickstart").resolve()
SAMPLES = pathlib.Path("/usr/lib/python3/dist-packages/pydicom/data")
ACCOUNT_KEY = "11111111-2222-4333-8444-555555555555"
API_KEY = "66666666-7777-4888-9999-aaaaaaaaaaaa"

CONFIG = """\
# Written by daemon/quickstart.
state: {here}/state
watch:
  - path: {here}/inbox
    settle: 1s
    settle_timeout: 5s
    exclude: []
destinations:
  cloud:
    type: postdicom
    router: {router}
    account_key: {{file: {here}/account_key}}
    api_key: {{file: {here}/api_key}}
routes:
  - name: everything
    to: cloud
    folder: Radiology/{{Modality|other}}/{{StudyDate:%Y}}
"""


def fail(text):
    sys.exit(f"quickstart: {text}")


def copy_in(source, inbox):
    """Copies as a modality does: under a temporary name, then renamed into place."""
    files = sorted(p for p in source.rglob("*") if p.is_file() and not p.is_symlink())
    for path in files:
        target = inbox / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.parent / f".{target.name}.part"
        shutil.copyfile(path, part)
        part.rename(target)
    return len(files)


def start(arguments, log, ready, process_name):
    out = open(log, "w")
    process = subprocess.Popen(arguments, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            fail(f"{process_name} ended at once; its log:\n{pathlib.Path(log).read_text()}")
        found = ready()
        if found:
            return process, found
        time.sleep(0.05)
    fail(f"{process_name} is not ready after 30 s; its log is {log}")


def sandbox_address():
    for line in (HERE / "sandbox.log").read_text().splitlines():
        for word in line.split():
            if word.startswith("http://127.0.0.1:"):
                return word
    return None


def ask(*arguments):
    command = [BUILD / "dcmferry/dcmferry", "--socket", HERE / "state/control.sock", "--json", *arguments]
    answer = subprocess.run(command, capture_output=True, text=True)
    return json.loads(answer.stdout) if answer.returncode == 0 else None


def all_files():
    files = []
    while True:
        page = ask("files", "--limit", "1000", "--offset", str(len(files)))
        if page is None:
            fail("the daemon does not answer; its log is build/quickstart/dcmferryd.log")
        files += page
        if len(page) < 1000:
            return files


def wait_until_settled(dropped):
    """Shows progress until every file has its fate and nothing is on its way."""
    tty = sys.stdout.isatty()
    last = ""
    while True:
        s = ask("status")
        if s is None:
            fail("the daemon is gone; its log is build/quickstart/dcmferryd.log")
        files, deliveries = s["files"], s["deliveries"]
        known = sum(files.values())
        under_way = deliveries["queued"] + deliveries["sending"] + deliveries["waiting"]
        line = (f"{known}/{dropped} files taken in, {deliveries['delivered']} delivered, "
                f"{deliveries['duplicate']} duplicates, {deliveries['conflict']} conflicts, "
                f"{files['rejected']} rejected, {under_way} under way")
        if line != last:
            print(f"\r\033[K{line}" if tty else line, end="" if tty else "\n", flush=True)
            last = line
        if known >= dropped and under_way == 0 and s["reading"] == 0:
            if tty:
                print()
            return
        if s.get("trouble"):
            fail(f"the daemon is in trouble: {s['trouble']}")
        time.sleep(0.3)


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def report(dropped):
    held = json.loads(subprocess.run([BUILD / "sandbox/dcmferry-sandbox", "ls", "--json", "--state", HERE / "sandbox"],
                                     capture_output=True, text=True, check=True).stdout)
    in_folder = collections.defaultdict(set)

    def walk(folders):
        for folder in folders:
            for order in folder["Orders"]:
                in_folder[folder["Path"]].update(i["Sha256"] for i in order["Instances"])
            walk(folder["Folders"])

    walk(held["Folders"])
    matched, wrong, fates, reasons = 0, [], collections.Counter(), collections.Counter()
    files = all_files()
    for f in files:
        for d in f["deliveries"]:
            fates[d["state"]] += 1
            if d["state"] in ("delivered", "duplicate"):
                if sha256(f["path"]) in in_folder[d["folder"]]:
                    matched += 1
                else:
                    wrong.append(f["path"])
        if not f["deliveries"]:
            fates[f["state"]] += 1
        if f["state"] == "rejected":
            reasons[f["reason"]] += 1
    print("\nThe sandbox holds, compared with what was dropped:")
    for path in sorted(in_folder):
        print(f"  {path}: {len(in_folder[path])} instances")
    print("\nWhat became of the files:")
    for fate, n in sorted(fates.items()):
        print(f"  {n:5} {fate}")
    if reasons:
        print("\nRejected because:")
        for reason, n in reasons.most_common():
            print(f"  {n:5} {reason}")
    good = fates["delivered"] + fates["duplicate"]
    print(f"\n{matched} of {good} delivered files are in the right folder with equal SHA-256; "
          f"{len(files)} of {dropped} dropped files are accounted for.")
    for path in wrong:
        print(f"  NOT FOUND AS DELIVERED: {path}")
    ended = sum(fates[s] for s in ("delivered", "duplicate", "conflict", "rejected"))
    return not wrong and good > 0 and len(files) == dropped and ended == dropped


def stop(process):
    if process and process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def refuse_second_pair():
    """An earlier --keep may still run on this folder: it must not lose its journal under its feet."""
    try:
        pids = [int(p) for p in (HERE / "pids").read_text().split()]
    except OSError:
        return
    alive = []
    for pid in pids:
        try:
            if str(BUILD).encode() in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                alive.append(pid)
        except OSError:
            pass  # gone
    if alive:
        fail(f"the pair of an earlier --keep still runs: kill {' '.join(map(str, alive))}")


def main():
    keep = "--keep" in sys.argv
    folders = [a for a in sys.argv[1:] if a != "--keep"]
    source = pathlib.Path(folders[0]) if folders else SAMPLES
    if not source.is_dir():
        fail(f"{source} is not a folder")
    if not any(p.is_file() for p in source.rglob("*")):
        fail(f"there is no file in {source}")
    refuse_second_pair()
    shutil.rmtree(HERE, ignore_errors=True)
    (HERE / "inbox").mkdir(parents=True)
    for name, key in (("account_key", ACCOUNT_KEY), ("api_key", API_KEY)):
        (HERE / name).write_text(key + "\n")
        (HERE / name).chmod(0o600)
    os.environ["DCMFERRY_DICOM"] = str(BUILD / "dcmferry-dicom/dcmferry-dicom")
    sandbox = daemon = None
    done = False
    try:
        sandbox, router = start([BUILD / "sandbox/dcmferry-sandbox", "--state", HERE / "sandbox", "--listen", "127.0.0.1",
                                 "--port", "0", "--account-key", ACCOUNT_KEY, "--api-key", API_KEY],
                                HERE / "sandbox.log", sandbox_address, "dcmferry-sandbox")
        config = HERE / "dcmferry.yaml"
        config.write_text(CONFIG.format(here=HERE, router=router))
        daemon, _ = start([BUILD / "dcmferryd/dcmferryd", "--config", config], HERE / "dcmferryd.log",
                          lambda: ask("status"), "dcmferryd")
        print(f"dcmferryd watches {HERE}/inbox and delivers to the sandbox at {router}")
        dropped = copy_in(source, HERE / "inbox")
        print(f"dropped {dropped} files of {source}")
        wait_until_settled(dropped)
        done = report(dropped)
        if keep:
            (HERE / "pids").write_text(f"{daemon.pid} {sandbox.pid}\n")
            print(f"\nStill running: dcmferryd (pid {daemon.pid}), dcmferry-sandbox (pid {sandbox.pid}).\n"
                  f"  drop more:  cp FILE.dcm {HERE}/inbox/\n"
                  f"  look:       {BUILD}/dcmferry/dcmferry --config {config} status\n"
                  f"  what is there: {BUILD}/sandbox/dcmferry-sandbox ls -l --state {HERE}/sandbox\n"
                  f"  stop:       kill {daemon.pid} {sandbox.pid}")
    finally:
        if not keep or not done:
            stop(daemon)
            stop(sandbox)
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
