"""A running dcmferry-sandbox, and what it holds."""

import hashlib
import json
import os
import pathlib
import queue
import signal
import subprocess
import threading
import urllib.error
import urllib.request

import pdclient

ACCOUNT_KEY = "aaaaaaaa-1111-4111-8111-111111111111"
API_KEY = "bbbbbbbb-2222-4222-8222-222222222222"


class Sandbox:
    """One sandbox with its state folder; may be stopped, killed and started again on the same port."""

    def __init__(self, build, state, *options, account_key=ACCOUNT_KEY, api_key=API_KEY):
        self.program = pathlib.Path(build) / "daemon/sandbox/dcmferry-sandbox"
        self.state = pathlib.Path(state)
        self.account_key, self.api_key = account_key, api_key
        self.options = [str(option) for option in options]
        self.port = 0
        self.process = None
        self.url = None
        self.log_path = self.state.with_name(self.state.name + ".log")
        self.environment = dict(
            os.environ, DCMFERRY_DICOM=str(pathlib.Path(build) / "daemon/dcmferry-dicom/dcmferry-dicom"))

    def start(self, *more, timeout=60):
        """Starts it and waits for its ready line. `more` are options of this start only."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_path, "a") as log:
            self.process = subprocess.Popen(
                [self.program, "--state", self.state, "--port", str(self.port), "--account-key",
                 self.account_key, "--api-key", self.api_key, *self.options, *map(str, more)],
                stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment)
        self.users, self.institutions = {}, {}
        ready = queue.Queue()

        def read(stream):
            for line in stream:
                ready.put(line)
            ready.put("")

        threading.Thread(target=read, args=(self.process.stdout,), daemon=True).start()
        while True:
            line = ready.get(timeout=timeout)
            if line.startswith("listening on "):
                break
            if not line:
                raise AssertionError(f"the sandbox did not start:\n{self.log()[-4000:]}")
            kind, uuid, name = line.split(maxsplit=2)
            {"user": self.users, "institution": self.institutions}[kind][json.loads(name)] = uuid
        self.url = line.split()[-1]
        self.port = int(self.url.rstrip("/").rsplit(":", 1)[1])
        return self

    def stop(self, timeout=60):
        """SIGTERM; its exit status."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process.stdout.close()
        self.process = None
        return code

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process = None

    def running(self):
        return self.process is not None and self.process.poll() is None

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def session(self, context=None):
        return pdclient.Session(self.url, self.account_key, self.api_key, context)

    def faults(self, *faults):
        """Replaces the faults of the running sandbox."""
        request = urllib.request.Request(self.url + "_sandbox/faults", json.dumps(faults).encode(),
                                         {"Content-Type": "application/json"}, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            raise ValueError(error.read().decode()) from None

    def fault_counts(self):
        with urllib.request.urlopen(self.url + "_sandbox/faults", timeout=30) as response:
            return json.loads(response.read())

    # ---- What it holds ----

    def ls(self, *options):
        result = subprocess.run([self.program, "ls", "--state", self.state, *options], capture_output=True,
                                text=True, timeout=120, env=self.environment)
        if result.returncode != 0:
            raise AssertionError(result.stderr)
        return result.stdout

    def tree(self):
        return json.loads(self.ls("--json"))

    def held(self):
        """{(folder path or "", SHA-256): (receipts, SOP Instance UID)} of all instances, each file checked."""
        found = {}

        def orders(path, some):
            for order in some:
                for instance in order["Instances"]:
                    self.check_file(instance)
                    found[path, instance["Sha256"]] = (instance["Receipts"], instance["SopInstanceUid"])

        def folders(some):
            for folder in some:
                orders(folder["Path"], folder["Orders"])
                folders(folder["Folders"])

        tree = self.tree()
        folders(tree["Folders"])
        orders("", tree["Orders"])
        return found

    def check_file(self, instance):
        data = (self.state / instance["File"]).read_bytes()
        assert len(data) == instance["Size"]
        assert hashlib.sha256(data).hexdigest() == instance["Sha256"]
