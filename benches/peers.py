"""pylow beside its peers, in one run: what each leaves of the target's work, and what it costs itself.

    make bench            (as root)

A round: a busy program and an unprofiled twin work at the same time, each bound to a CPU of its own. Their rates are
compared without any tool and then with the tool at 999 Hz; `work left` is the ratio of the two ratios, so that what
else happens on the machine cancels out. Medians over the rounds; the spread is printed beside them. CPU time and peak
RSS of a tool are the kernel's (wait4), over its whole run. A peer that can't be had is named and left out.
"""
import argparse
import contextlib
import mmap
import os
import pathlib
import platform
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
FREQUENCY = 999
ROUND_SECONDS = 6
# Of a tool's run: it has started by the first, and still runs at the second.
WINDOW = (1.5, 5.5)
QUIET_SECONDS = 3


class Tool:
    """How to start a tool, and the text with which it says that it samples."""

    def __init__(self, name, command, first, first_command=None):
        self.name, self.command, self.first = name, command, first
        self.first_command = first_command or command


def pylow(path, scratch):
    output = str(scratch / "pylow.folded")
    return Tool(
        "pylow flame",
        lambda pid, seconds: [path, "flame", str(pid), "--frequency", str(FREQUENCY), "--duration", str(seconds),
                              "--output", output],
        "✓ Attached",
    )


def py_spy(path, scratch, *options):
    output = str(scratch / "py-spy.folded")
    return Tool(
        " ".join(("py-spy record",) + options),
        lambda pid, seconds: [path, "record", "--pid", str(pid), "--rate", str(FREQUENCY), "--duration", str(seconds),
                              "--format", "raw", "--output", output, *options],
        "Sampling process",
    )


def bpftrace(path):
    probe = "profile:hz:%d /pid == %s/ { %s }"
    return Tool(
        "bpftrace profile:hz:%d" % FREQUENCY,
        lambda pid, seconds: [path, "-e", probe % (FREQUENCY, pid, "@[ustack] = count();")
                              + " interval:s:%d { exit(); }" % seconds],
        "first",
        lambda pid, seconds: [path, "-e", probe % (FREQUENCY, pid, 'printf("first\\n"); exit();')],
    )


def find_tools(options, scratch):
    tools, missing = [pylow(str(pathlib.Path(options.pylow).resolve()), scratch)], []
    spy = find_py_spy(options.cache)
    if spy:
        tools += [py_spy(spy, scratch), py_spy(spy, scratch, "--nonblocking")]
    else:
        missing.append("py-spy: neither installed nor installable into %s" % options.cache)
    tracer = shutil.which("bpftrace")
    if tracer:
        tools.append(bpftrace(tracer))
    else:
        missing.append("bpftrace: not installed (apt install bpftrace)")
    return tools, missing


def find_py_spy(cache):
    """On PATH, or in a virtual environment of the bench's own."""
    found = shutil.which("py-spy")
    own = pathlib.Path(cache) / "bin" / "py-spy"
    if found or own.exists():
        return found or str(own)
    for command in ([sys.executable, "-m", "venv", cache], [str(own.with_name("pip")), "install", "-q", "py-spy"]):
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=180)
        except (OSError, subprocess.SubprocessError):
            return None
    return str(own) if own.exists() else None


class Worker:
    """A busy program on one CPU, and its counter."""

    def __init__(self, python, kind, cpu, scratch):
        path = scratch / ("counter%d" % cpu)
        path.write_bytes(bytes(8))
        with open(path, "r+b") as file:
            self.shared = mmap.mmap(file.fileno(), 8)
        self.process = subprocess.Popen([python, str(HERE / "target.py"), kind, str(path)])
        os.sched_setaffinity(self.process.pid, {cpu})

    def count(self):
        return struct.unpack_from("Q", self.shared)[0]

    def wait_until_busy(self):
        deadline = time.monotonic() + 30
        while self.count() < 50:
            if time.monotonic() > deadline or self.process.poll() is not None:
                sys.exit("bench: the target does not work")
            time.sleep(0.01)

    def stop(self):
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def workers(python, kind, scratch):
    """The target and its twin."""
    cpus = sorted(os.sched_getaffinity(0))
    pair = [Worker(python, kind, cpu, scratch) for cpu in (cpus[0], cpus[-1])]
    try:
        for worker in pair:
            worker.wait_until_busy()
        yield pair
    finally:
        for worker in pair:
            worker.stop()


def rate_ratio(pair, seconds):
    """Work of the target per work of its twin."""
    before = [worker.count() for worker in pair]
    time.sleep(seconds)
    target, twin = (worker.count() - count for worker, count in zip(pair, before))
    return target / twin if twin else float("nan")


def measure(tool, pair):
    """One round: work left, CPU seconds, peak RSS in MiB."""
    quiet = rate_ratio(pair, QUIET_SECONDS)
    command = tool.command(pair[0].process.pid, ROUND_SECONDS)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    time.sleep(WINDOW[0])
    profiled = rate_ratio(pair, WINDOW[1] - WINDOW[0])
    still_ran = process.poll() is None
    said = process.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not still_ran:
        sys.exit("bench: `%s` failed (%d):\n%s" % (" ".join(command), process.returncode, said))
    return profiled / quiet, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def first_sample(tool, pid):
    """Milliseconds from exec until the tool says that it samples."""
    start = time.monotonic()
    process = subprocess.Popen(tool.first_command(pid, 1), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               stdin=subprocess.DEVNULL)
    took = float("nan")
    for line in process.stdout:
        if tool.first in line.decode(errors="replace"):
            took = 1000 * (time.monotonic() - start)
            break
    process.stdout.read()
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.wait()
    return took


def spread(values, digits):
    return "%.*f (%.*f to %.*f)" % (digits, statistics.median(values), digits, min(values), digits, max(values))


def report(kind, tools, rounds, python, scratch):
    """Prints the table of one target."""
    rows = {tool.name: {"left": [], "cpu": [], "rss": [], "first": []} for tool in tools}
    with workers(python, kind, scratch) as pair:
        for _ in range(rounds):
            for tool in tools:
                left, cpu, rss = measure(tool, pair)
                row = rows[tool.name]
                for name, value in (("left", left), ("cpu", cpu), ("rss", rss)):
                    row[name].append(value)
                row["first"].append(first_sample(tool, pair[0].process.pid))
    own = {name: statistics.median(values) for name, values in rows[tools[0].name].items()}
    print("\n%s target\n" % ("Realistic" if kind == "realistic" else "200 calls deep"))
    print("| at %d Hz | work left | CPU s in %d s | x pylow | peak RSS MiB | x pylow | exec to sampling ms |"
          % (FREQUENCY, ROUND_SECONDS))
    print("|---|---|---|---|---|---|---|")
    for tool in tools:
        row = rows[tool.name]
        cpu, rss = (statistics.median(row[name]) / own[name] for name in ("cpu", "rss"))
        print("| %s | %s | %s | %.1f | %.0f | %.1f | %s |" % (
            tool.name, spread(row["left"], 2), spread(row["cpu"], 2), cpu, statistics.median(row["rss"]), rss,
            spread(row["first"], 0)))
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description="pylow beside py-spy and bpftrace")
    parser.add_argument("--pylow", required=True, help="the binary")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the targets")
    parser.add_argument("--rounds", type=int, default=5)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    parser.add_argument("--cache", default=cache + "/pylow-bench", help="where py-spy is installed if it is missing")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("bench: needs root")
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("bench: needs 2 CPUs, one for the target, one for its twin")
    python = os.path.realpath(options.python)
    version = subprocess.run([python, "--version"], stdout=subprocess.PIPE, check=True).stdout.decode().strip()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        tools, missing = find_tools(options, scratch)
        print("`make bench`: %d rounds, %s, Linux %s, %d CPUs, load %.1f; medians (smallest to largest)"
              % (options.rounds, version, platform.release(), os.cpu_count(), os.getloadavg()[0]))
        for kind in ("realistic", "deep"):
            report(kind, tools, options.rounds, python, scratch)
    for line in missing:
        print("NOT RUN " + line)


main()
