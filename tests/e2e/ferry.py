"""The real daemon, run by the tests: its configuration, its life, and what its control socket says."""
import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

import dicom
from sandbox import ACCOUNT_KEY, API_KEY


class Gone(Exception):
    """The daemon does not answer (any more)."""


class Ferry:
    """One daemon with its state folder below `root`. `destinations`: {name: router URL or dict of options}."""

    def __init__(self, build, root, destinations, routes=None, watch=None, top="", log_level="debug"):
        self.daemon = build / "daemon/dcmferryd/dcmferryd"
        self.command = build / "daemon/dcmferry/dcmferry"
        self.root = pathlib.Path(root)
        self.inbox = self.root / "inbox"
        self.state = self.root / "state"
        self.config = self.root / "dcmferry.yaml"
        self.log_path = self.root / "dcmferryd.log"
        self.process = None
        self.environment = dict(os.environ,
                                DCMFERRY_DICOM=str(build / "daemon/dcmferry-dicom/dcmferry-dicom"))
        self.inbox.mkdir(parents=True, exist_ok=True)
        for name, key in (("account_key", ACCOUNT_KEY), ("api_key", API_KEY)):
            path = self.root / name
            path.write_text(key)
            path.chmod(0o600)
        self.write_config(destinations, routes, watch, top, log_level)

    def write_config(self, destinations, routes=None, watch=None, top="", log_level="debug"):
        """YAML is a superset of JSON: the parts are written as JSON flow values."""
        watches = watch if isinstance(watch, list) else [watch or {}]
        watches = [dict({"path": str(self.inbox), "settle": "1s", "settle_timeout": "3s"}, **w) for w in watches]
        all_destinations = {}
        for name, options in destinations.items():
            options = options if isinstance(options, dict) else {"router": options}
            all_destinations[name] = dict({"type": "postdicom",
                                           "account_key": {"file": str(self.root / "account_key")},
                                           "api_key": {"file": str(self.root / "api_key")},
                                           "retry": {"min": "200ms", "max": "2s"}}, **options)
        routes = routes or [{"name": "all", "to": list(all_destinations), "folder": "In/{Modality|none}"}]
        self.config.write_text(f"state: {self.state}\n"
                               f"log: {{level: {log_level}, format: json}}\n"
                               f"{top}\n"
                               f"watch: {json.dumps(watches)}\n"
                               f"destinations: {json.dumps(all_destinations)}\n"
                               f"routes: {json.dumps(routes)}\n")

    # ---- Life ----

    def start(self, *arguments, wait=True, prefix=()):
        with open(self.log_path, "a") as log:
            self.process = subprocess.Popen([*prefix, self.daemon, "--config", self.config, *arguments],
                                            stdout=log, stderr=subprocess.STDOUT, env=self.environment)
        if wait:
            self.wait(lambda: self.status() is not None, 30, "the daemon to answer")
        return self

    def once(self, timeout=120):
        self.start("--once", wait=False)
        return self.process.wait(timeout)

    def stop(self, timeout=60):
        """SIGTERM; returns the exit status."""
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
        self.process = None
        return code

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def running(self):
        return self.process is not None and self.process.poll() is None

    # ---- Questions ----

    def ask(self, *arguments):
        answer = subprocess.run([self.command, "--config", self.config, "--json", *arguments],
                                capture_output=True, text=True, env=self.environment, timeout=120)
        if answer.returncode != 0 and not answer.stdout:
            raise Gone(answer.stderr)
        return json.loads(answer.stdout)

    def status(self):
        try:
            return self.ask("status")
        except Gone:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.log()[-4000:]}")
            return None

    def files(self, *arguments):
        files = []
        while True:
            page = self.ask("files", "--limit", "1000", "--offset", str(len(files)), *arguments)
            files += page
            if len(page) < 1000:
                return files

    def by_name(self):
        """{path relative to the drop folder: row}; the newest row of a path."""
        rows = {}
        for row in self.files():
            rows.setdefault(os.path.relpath(row["path"], self.inbox), row)
        return rows

    def fates(self):
        """{relative path: state of its only delivery, or of the file if it has none}"""
        return {name: row["deliveries"][0]["state"] if row["deliveries"] else row["state"]
                for name, row in self.by_name().items()}

    def log(self):
        return self.log_path.read_text(errors="replace")

    # ---- Waiting ----

    def wait(self, condition, seconds, what):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.05)
        raise AssertionError(f"waited {seconds} s for {what}\n{self.log()[-6000:]}")

    def wait_settled(self, files, seconds=90):
        """Until that many files are known and nothing is on its way."""
        def settled():
            s = self.status()
            if s is None:
                return False
            d = s["deliveries"]
            return (sum(s["files"].values()) >= files and s["reading"] == 0
                    and d["queued"] + d["sending"] + d["waiting"] == 0)
        self.wait(settled, seconds, f"{files} files to have their fate")
        return self.status()


@pytest.fixture
def ferries(build, tmp_path):
    """Makes daemons: ferries({name: url}, routes=…, watch=…). All are stopped in the end; none may have leaked a name, an
    ID, a path or a key into its log, nor have met a sanitizer."""
    made = []

    def make(destinations, **keywords):
        ferry = Ferry(build, tmp_path / f"ferry{len(made)}", destinations, **keywords)
        made.append(ferry)
        return ferry

    yield make
    codes = [ferry.stop() for ferry in made]
    for ferry, code in zip(made, codes):
        log = ferry.log() if ferry.log_path.exists() else ""
        assert code in (0, None), f"exit status {code}\n{log[-4000:]}"
        assert "Sanitizer" not in log and "runtime error" not in log, log[-6000:]
        private = [*dicom.PATIENT_NAME.split("^"), dicom.PATIENT_ID, ACCOUNT_KEY, API_KEY, str(ferry.root.parent)]
        leaked = [line for line in log.splitlines() if any(word in line for word in private)]
        assert not leaked, leaked[:5]
