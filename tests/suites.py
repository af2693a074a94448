"""What tests/run runs once everything is installed: builds, runs the suites, counts.

Environment that the end-to-end tests see: DCMFERRY_BUILD, the build folder (with sanitizers), absolute; DCMFERRY_SOAK=1
for the long versions.
"""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
JOBS = os.cpu_count() or 2
SUITES = ["layers", "format", "unit", "release", "tsan", "fuzz", "e2e", "fault"]
BY_NAME = ["systemd"]  # needs root, and a machine that can run another one
FUZZ_SECONDS, FUZZ_SOAK_SECONDS = 20, 1800
SANITIZERS = {
    # A leak, an overflow or undefined behaviour ends the program, so that its test fails.
    "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1:check_initialization_order=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": f"halt_on_error=1:second_deadlock_stack=1:suppressions={ROOT}/tests/tsan.supp",
}

soak = False
counts = {"passed": 0, "failed": 0, "skipped": 0}


def count(passed=0, failed=0, skipped=0):
    counts["passed"] += passed
    counts["failed"] += failed
    counts["skipped"] += skipped


def say(text):
    print(text, flush=True)


def indent(text):
    return "".join(f"    {line}\n" for line in text.rstrip().splitlines())


def run(command, log, timeout, environment=None):
    """Runs it with its output in a file; ends all of its group when the time is over. Returns the exit status."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as out:
        process = subprocess.Popen([str(c) for c in command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=subprocess.STDOUT, env=dict(os.environ, **(environment or {})),
                                   start_new_session=True)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            out.write(f"\nended: it took longer than {timeout} s\n")
            return 124


def tail(log, lines):
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def build_failed(name, log):
    lines = [l for l in tail(log, 400).splitlines() if not re.match(r"\[\d+/\d+\] (Compiling|Linking|Generating)", l)]
    say(indent("\n".join(lines)[-6000:]))
    say(f"FAILED: the build in build/{name}")
    count(failed=1)


built = {}


def build(name, options, environment=None, targets=None):
    """A build counts as one failure when it fails, and only then. Built once a run."""
    if name in built:
        return built[name]
    folder, log = BUILD / name, BUILD / f"{name}.log"
    say(f"building build/{name}…")
    again = ["--reconfigure"] if (folder / "build.ninja").exists() else []
    if not again and folder.exists():
        shutil.rmtree(folder) # a setup that was broken off
    ok = run(["meson", "setup", *again, folder, "-Dwerror=true", *options], log, 600, environment) == 0
    if ok and targets is not False:
        ok = run(["ninja", "-C", folder], log, 1800, environment) == 0
    if not ok:
        build_failed(name, log)
    built[name] = folder if ok else None
    return built[name]


def build_test():
    return build("test", ["-Dbuildtype=debugoptimized", "-Db_sanitize=address,undefined", "-Db_lundef=false",
                          "-Dtests=enabled"])


# ---- Unit tests ----

CASE = re.compile(r"^\[\s+(OK|SKIPPED|FAILED|ERROR)\s+\] (\w+)\s*$", re.MULTILINE)

PASSED = re.compile(r"^\[\s+(RUN|OK)\s+\] \w+\s*?\n", re.MULTILINE)


def cases_of(result):
    """The cases of a cmocka program by name; any other program is one case."""
    text = result.get("stdout", "") + "\n" + result.get("stderr", "")
    cases = {}
    for verdict, name in CASE.findall(text):
        if cases.get(name) not in ("FAILED", "ERROR"):
            cases[name] = verdict
    passed = sum(v == "OK" for v in cases.values())
    skipped = sum(v == "SKIPPED" for v in cases.values())
    failed = sum(v in ("FAILED", "ERROR") for v in cases.values())
    if result["result"] == "SKIP":
        return passed, failed, max(skipped, 1)
    if result["result"] not in ("OK", "EXPECTEDFAIL"):
        return passed, max(failed, 1), skipped # also one that crashed at its end, or leaked
    return (passed if cases else 1), failed, skipped


def meson_test(folder, name, suite, prefix=()):
    log = BUILD / f"{name}-tests.log"
    results = folder / "meson-logs" / f"testlog-{name}.json"
    results.unlink(missing_ok=True)
    run([*prefix, "meson", "test", "-C", folder, "--suite", suite, "--logbase", f"testlog-{name}",
         "--num-processes", JOBS], log, 1500, SANITIZERS)
    if not results.exists():
        say(indent(tail(log, 60)))
        say(f"FAILED: {name}: no test ran")
        count(failed=1)
        return
    total = [0, 0, 0]
    for line in results.read_text().splitlines():
        result = json.loads(line)
        numbers = cases_of(result)
        total = [a + b for a, b in zip(total, numbers)]
        if numbers[1]:
            say(f"FAILED: {name}: {result['name']} ({result['result'].lower()}, {result['duration']:.1f} s)")
            text = result.get("stdout", "") + "\n" + result.get("stderr", "")
            say(indent(PASSED.sub("", text)[-8000:]))
    if sum(total) == 0:
        say(f"FAILED: {name}: no test ran")
        total[1] = 1
    report(name, *total)


def report(name, passed, failed, skipped=0):
    say(f"{name}: {passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    count(passed, failed, skipped)


def unit():
    folder = build_test()
    if folder:
        meson_test(folder, "unit", "unit")


def release():
    """What sanitizers forbid: the worker's seccomp filter, Landlock and limits, and memory as it is at the user's."""
    folder = build("plain", ["-Dbuildtype=release", "-Dtests=enabled"])
    if not folder:
        return
    meson_test(folder, "release", "release")
    pytest("release-e2e", 15, folder, [ROOT / "tests/e2e"], more={"DCMFERRY_LARGE": "1"},
           chosen="large_file_in_little or real_files_all")


def tsan():
    folder = build("tsan", ["-Dbuildtype=debugoptimized", "-Db_sanitize=thread", "-Db_lundef=false",
                            "-Dtests=enabled"], targets=False)
    if not folder:
        return
    # ThreadSanitizer of Debian 12 cannot place its memory where a kernel randomises addresses by more than 28 bits.
    fixed = ["setarch", os.uname().machine, "-R"]
    if subprocess.run([*fixed, "true"], capture_output=True).returncode != 0:
        fixed = []
    meson_test(folder, "tsan", "tsan", fixed)
    programs = [folder / "daemon" / p for p in ("dcmferryd/dcmferryd", "dcmferry/dcmferry", "sandbox/dcmferry-sandbox",
                                                "dcmferry-dicom/dcmferry-dicom")]
    log = BUILD / "tsan.log"
    if run(["ninja", "-C", folder, *[p.relative_to(folder) for p in programs]], log, 1200) != 0:
        build_failed("tsan", log)
        return
    pytest("tsan-kill", 10, folder, [ROOT / "tests/e2e/test_kill.py"], fixed, {"DCMFERRY_KILLS": "6"})


# ---- Fuzzing ----

def fuzz():
    folder = build("fuzz", ["-Dbuildtype=debugoptimized", "-Db_sanitize=address,undefined", "-Db_lundef=false",
                            "-Dfuzz=true", "-Dtests=disabled"], {"CC": "clang", "CXX": "clang++"}, targets=False)
    if not folder:
        return
    listing = subprocess.run(["meson", "introspect", "--targets", folder], capture_output=True, text=True, check=True)
    targets = [pathlib.Path(t["filename"][0]) for t in json.loads(listing.stdout)
               if t["type"] == "executable" and pathlib.Path(t["defined_in"]).is_relative_to(ROOT / "tests/fuzz")]
    if not targets:
        return
    log = BUILD / "fuzz.log"
    if run(["ninja", "-C", folder, *[t.relative_to(folder) for t in targets]], log, 1200) != 0:
        build_failed("fuzz", log)
        return
    seconds = FUZZ_SOAK_SECONDS if soak else FUZZ_SECONDS
    waiting, running, failed = list(targets), [], 0
    while waiting or running:
        while waiting and len(running) < JOBS:
            running.append(start_fuzzer(waiting.pop(0), seconds))
        time.sleep(0.2)
        for item in list(running):
            name, process, fuzz_log, deadline = item
            if process.poll() is None and time.monotonic() < deadline:
                continue
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            running.remove(item)
            if process.wait() != 0:
                say(f"FAILED: fuzz: {name} (the input that did it is in build/fuzz-out)")
                say(indent(tail(fuzz_log, 60)))
                failed += 1
    report("fuzz", len(targets) - failed, failed)


def start_fuzzer(program, seconds):
    name = program.name.removeprefix("fuzz-")
    out = BUILD / "fuzz-out" / name
    found = out / "corpus"
    found.mkdir(parents=True, exist_ok=True)
    corpus = ROOT / "tests/fuzz/corpus" / name
    fuzz_log = out / "log"
    with open(fuzz_log, "w") as file:
        process = subprocess.Popen(
            [program, f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1",
             f"-artifact_prefix={out}/", found, *([corpus] if corpus.is_dir() else [])],
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=dict(os.environ, **SANITIZERS),
            start_new_session=True)
    return name, process, fuzz_log, time.monotonic() + seconds + 120


# ---- Python tests ----

def pytest(name, minutes, folder=None, tests=(), prefix=(), more=None, chosen=None, at_a_time=1):
    folder = folder or build_test()
    if not folder:
        return
    log, results = BUILD / f"{name}-tests.log", BUILD / f"{name}.xml"
    results.unlink(missing_ok=True)
    environment = dict(SANITIZERS, DCMFERRY_BUILD=str(folder), PYTHONDONTWRITEBYTECODE="1",
                       **(more or {}))
    if soak:
        environment["DCMFERRY_SOAK"] = "1"
    status = run([*prefix, "/usr/bin/python3", "-m", "pytest", *tests, "-q", "-p", "no:cacheprovider", f"--junitxml={results}",
                  "--durations=10", *(["-k", chosen] if chosen else []),
                  *(["-n", str(at_a_time), "--dist", "loadfile"] if at_a_time > 1 else [])], log, minutes * 60 * (60 if soak else 1), environment)
    passed = failed = skipped = 0
    if results.exists():
        for suite in xml.etree.ElementTree.parse(results).getroot().iter("testsuite"):
            bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            failed += bad
            skipped += int(suite.get("skipped", 0))
            passed += int(suite.get("tests", 0)) - bad - int(suite.get("skipped", 0))
    if status != 0:
        failed = max(failed, 1)
        say(indent(tail(log, 400)))
        say(f"FAILED: {name}")
    report(name, passed, failed, skipped)


FAULTS = [ROOT / "tests/e2e" / f"test_{name}.py" for name in ("disk", "faults", "kill", "power")]


def e2e():
    # Most of their time they wait.
    pytest("e2e", 20, tests=sorted(set((ROOT / "tests/e2e").glob("test_*.py")) - set(FAULTS)), at_a_time=JOBS + 1)


def fault():
    """Full disks, servers that misbehave, kill -9, lost power."""
    pytest("fault", 15, tests=FAULTS, at_a_time=JOBS)


def systemd():
    """Builds what it tests itself: the packages."""
    private = ["unshare", "--mount"] # what it mounts goes with it, however it ends
    if subprocess.run([*private, "true"], capture_output=True).returncode != 0:
        private = []
    pytest("systemd", 10, BUILD, [ROOT / "tests/systemd"], private)


# ---- The sources themselves ----

def layers():
    result = subprocess.run([sys.executable, ROOT / "tests/layers.py"], capture_output=True, text=True)
    lines = result.stdout.splitlines()
    passed, failed = sum(l.startswith("ok ") for l in lines), sum(l.startswith("not ok ") for l in lines)
    if result.returncode != 0:
        failed = max(failed, 1)
        say(indent("\n".join(l for l in lines if not l.startswith("ok ")) + result.stderr))
    report("layers", passed, failed)


def format():
    files = sorted(p for top in ("core", "config", "daemon", "tests") for p in (ROOT / top).rglob("*")
                   if p.suffix in (".c", ".h", ".cc", ".cpp"))
    result = subprocess.run(["clang-format", "--dry-run", "-Werror", *files], capture_output=True, text=True)
    if result.returncode != 0:
        wrong = sorted(set(re.findall(r"^(\S+?):\d+:\d+: error", result.stderr, re.MULTILINE)))
        say(indent("\n".join(os.path.relpath(f, ROOT) for f in wrong) or result.stderr))
        say("FAILED: format (clang-format -i mends it)")
    report("format", int(result.returncode == 0), int(result.returncode != 0))


def main():
    global soak
    wanted = []
    for argument in sys.argv[1:]:
        if argument == "--soak":
            soak = True
        elif argument in SUITES + BY_NAME:
            wanted.append(argument)
        else:
            sys.exit(f"tests/run: no suite or option {argument}; suites: {' '.join(SUITES + BY_NAME)}")
    start = time.monotonic()
    os.environ.update({k: v for k, v in SANITIZERS.items() if k not in os.environ})
    for name in wanted or SUITES:
        globals()[name]()
    say(f"took {time.monotonic() - start:.0f} s")
    say(f"{counts['passed']} passed, {counts['failed']} failed" +
        (f", {counts['skipped']} skipped" if counts["skipped"] else ""))
    return 1 if counts["failed"] or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
