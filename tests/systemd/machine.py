"""A machine of its own for the packages: an overlay over this one's root, booted with systemd by systemd-nspawn, without
network. What happens in it lives in a tmpfs and is gone with it."""
import pathlib
import shutil
import subprocess
import time


class Unavailable(Exception):
    """Such a machine cannot be had here."""


class Machine:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.root = self.folder / "root"
        self.log_path = self.folder / "console.log"
        self.process = self.leader = None

    def mount(self):
        for program in ("systemd-nspawn", "nsenter"):
            if not shutil.which(program):
                raise Unavailable(f"{program} is not installed")
        layers = self.folder / "layers"
        for path in (self.root, layers):
            path.mkdir(parents=True)
        self.do("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", layers)
        (layers / "upper").mkdir()
        (layers / "work").mkdir()
        self.do("mount", "-t", "overlay", "-o", f"lowerdir=/,upperdir={layers}/upper,workdir={layers}/work", "overlay",
                self.root)
        # This machine's own disks, its policy of starting nothing, and a dcmferry of its own do not count.
        (self.root / "etc/fstab").write_text("")
        (self.root / "usr/sbin/policy-rc.d").unlink(missing_ok=True)
        for pattern in ("etc/dcmferry", "var/lib/dcmferry", "srv/dicom", "var/pacs", "var/log/journal", "usr/local/*/dcmferry*",
                        "usr/local/lib/*/dcmferry*", "usr/local/lib/systemd/system/dcmferry*",
                        "etc/systemd/system/dcmferry*", "etc/systemd/system/*.wants/dcmferry*"):
            for path in self.root.glob(pattern):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def do(self, *command):
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if done.returncode != 0:
            raise Unavailable(f"{command[0]}: {done.stderr.strip()}")

    def boot(self):
        """To basic.target only: nothing of what this machine runs is started in it."""
        command = ["systemd-nspawn", "--quiet", "--register=no", "--private-network", "--link-journal=no",
                   "--resolv-conf=off", f"--directory={self.root}", "--console=pipe", "--boot",
                   # Debian 12's does not know Landlock, which the workers lock themselves in with
                   "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self"]
        if not pathlib.Path("/run/systemd/system").exists():
            command.append("--keep-unit")
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen([*command, "systemd.unit=basic.target"], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=subprocess.STDOUT)
        if not self.wait(self.is_up, 60):
            raise Unavailable("the machine does not start: " + self.log_path.read_text(errors="replace")[-2000:])

    def is_up(self):
        if self.process.poll() is not None:
            raise Unavailable("systemd-nspawn: " + self.log_path.read_text(errors="replace")[-2000:])
        try:
            self.leader = int(self.children(self.process.pid)[0]["Pid"])
        except (OSError, IndexError):
            return False
        return self.run("systemctl", "is-active", "basic.target", check=False).stdout.strip() == "active"

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            time.sleep(0.2)
            self.process.terminate()  # the second time: at once
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for path in (self.root, self.folder / "layers"):
            if path.is_mount():
                subprocess.run(["umount", "-l", str(path)], check=False)

    # ---- In it ----

    def run(self, *command, check=True, timeout=60):
        """A command as root of the machine."""
        done = subprocess.run(["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "env", "-i",
                               "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8",
                               "DEBIAN_FRONTEND=noninteractive", *map(str, command)],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
                                 f"\n{self.log()[-3000:]}")
        return done

    def ask(self, *command):
        return self.run(*command).stdout.strip()

    def show(self, name, unit="dcmferryd"):
        return self.ask("systemctl", "show", "-P", name, unit)

    @staticmethod
    def children(pid):
        """What /proc says of each child process, by its number here."""
        found = []
        for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            lines = pathlib.Path(f"/proc/{child}/status").read_text().splitlines()
            found.append(dict(line.split(":\t", 1) for line in lines if ":\t" in line))
        return found

    def daemons(self):
        return [status for status in self.children(self.leader) if status["Name"] == "dcmferryd"]

    def path(self, path):
        """Of the machine, as it is here."""
        return self.root / str(path).lstrip("/")

    def write(self, path, text, mode=0o644):
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def log(self, *options):
        return self.run("journalctl", "--no-pager", "-u", "dcmferryd", "-o", "cat", *options, check=False).stdout

    @staticmethod
    def wait(condition, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return True
            time.sleep(0.1)
        return False

    def until(self, condition, seconds, what):
        assert self.wait(condition, seconds), f"waited {seconds} s for {what}\n{self.log()[-6000:]}"
