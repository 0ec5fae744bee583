"""What happens on a worker. Copied there alone, so it needs Python 3.8 and nothing else.

    worker.py setup --version=COMMIT --requirement='jax[tpu]'
    worker.py start --version=COMMIT -- ARGUMENTS OF mmjax.main
    worker.py status | logs [--begin=BYTE] | stop [--seconds=N]
    worker.py exec --env_file=FILE -- PROGRAM ...

The folder that this file is in holds the code, the packages, the log and the exit code of one run.
The run goes on when the connection that started it breaks.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LOG, CODE, COMMAND = FOLDER / "log.txt", FOLDER / "exit_code", FOLDER / "command.json"
LOCK, PID, STOPPED, ENV = FOLDER / "lock", FOLDER / "pid", FOLDER / "stopped", FOLDER / "env"
SHOWN_BYTES = 64 * 1024
# What the shell says of a process that was killed; and how long the kernel may take to do it.
KILLED, KILL_SECONDS = 137, 30


def main(argv):
    """Returns the exit code: 0, or 2 with one sentence."""
    arguments = []
    if "--" in argv:
        argv, arguments = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    parser = argparse.ArgumentParser(prog="worker.py")
    parser.add_argument("verb", choices=[*VERBS])
    parser.add_argument("--version")
    parser.add_argument("--requirement")
    parser.add_argument("--env_file")
    parser.add_argument("--begin", type=int)
    parser.add_argument("--seconds", type=float, default=120)
    given = parser.parse_args(argv)
    try:
        return VERBS[given.verb](given, arguments) or 0
    except RefusedError as refusal:
        print(f"worker: {refusal}", file=sys.stderr)
        return 2


class RefusedError(Exception):
    """What cannot be done, in one sentence."""


def setup(given, _):
    """Unpacks the code and installs the packages, unless that has been done."""
    code = _code(given.version)
    if not code.is_dir():
        _unpack(FOLDER / f"code-{given.version[:12]}.tar.gz", given.version, code)
    wanted = [(code / "requirements.txt").read_bytes(), given.requirement.encode()]
    ready, digest = FOLDER / "packages", hashlib.sha256(b"\n".join(wanted)).hexdigest()
    if not ready.exists() or ready.read_text() != digest:
        if _lock() is None:
            raise RefusedError("a run goes on this worker with other packages: stop it first")
        if ready.exists():
            ready.unlink()  # until the new ones are whole
        _install(code / "requirements.txt", given.requirement)
        ready.write_text(digest)
    print(f"{os.uname().nodename}: code {given.version[:12]}, packages {digest[:12]}")


def start(given, arguments):
    """Starts the run and returns; the same run, if it goes already, is left alone."""
    command = {"version": given.version, "arguments": arguments}
    lock = _lock()
    if lock is None:
        if _read(COMMAND) == command:
            print(f"{os.uname().nodename}: the run goes already")
            return
        raise RefusedError("another run goes on this worker: stop it first, or wait for its end")
    if not _code(given.version).is_dir():
        raise RefusedError(f"code {given.version[:12]} is not here: setup comes first")
    for old in (CODE, STOPPED):
        if old.exists():
            old.unlink()
    COMMAND.write_text(json.dumps(command))
    if LOG.exists():
        LOG.replace(FOLDER / "log-before.txt")
    with LOG.open("wb") as log:
        # The lock goes with the process that watches over the run, however it ends.
        watch = [sys.executable, str(FOLDER / "worker.py"), "watch"]
        watcher = subprocess.Popen(
            [*watch, "--version", given.version, "--", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )
    PID.write_text(str(watcher.pid))
    print(f"{os.uname().nodename}: started")


def watch(given, arguments):
    """Runs mmjax to its end and writes down its exit code; passes SIGTERM on."""
    python = FOLDER / "venv" / "bin" / "python"
    child = subprocess.Popen(
        [str(python), "-m", "mmjax.main", *arguments],
        cwd=str(_code(given.version)),
        env=dict(os.environ, PYTHONUNBUFFERED="1", **_variables(ENV)),
        stdin=subprocess.DEVNULL,
    )
    signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGTERM))
    code = child.wait()
    _write_code(code if code >= 0 else 128 - code)


def status(_, __):
    """Prints one line of JSON: running, exited with a code, lost (the machine restarted), none."""
    lock, code = _lock(), None
    if lock is None:
        state = "running"
    elif CODE.exists():
        state, code = "exited", int(CODE.read_text())
    else:
        state = "lost" if COMMAND.exists() else "none"
    record = {"host": os.uname().nodename, "state": state, "code": code}
    print("STATUS " + json.dumps(dict(record, stopped=STOPPED.exists())))


def logs(given, _):
    """Prints one line of JSON: the log from a byte on (without one: its end), and the next byte."""
    size = LOG.stat().st_size if LOG.exists() else 0
    begin = max(0, size - SHOWN_BYTES) if given.begin is None else min(given.begin, size)
    text = b""
    if size:
        with LOG.open("rb") as log:
            log.seek(begin)
            text = log.read(SHOWN_BYTES)
    shown = text.decode("utf-8", "replace")
    record = {"next": begin + len(text), "more": begin + len(text) < size, "text": shown}
    print("LOG " + json.dumps(record))


def stop(given, _):
    """Asks the run to save and stop; what is still there after so many seconds is killed."""
    lock = _lock()
    if lock is not None:
        print(f"{os.uname().nodename}: no run")
        return
    STOPPED.write_text("")
    watcher = int(PID.read_text())
    with contextlib.suppress(ProcessLookupError):  # it has ended just now
        os.kill(watcher, signal.SIGTERM)
    if _lock_within(given.seconds) is not None:
        print(f"{os.uname().nodename}: stopped")
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(watcher, signal.SIGKILL)
    lock = _lock_within(KILL_SECONDS)
    if lock is None:
        raise RefusedError("the run was killed, but is still there: restart the machine")
    if not CODE.exists():  # the watcher, which writes it, was killed too
        _write_code(KILLED)
    print(f"{os.uname().nodename}: killed after {given.seconds} s")


def execute(given, arguments):
    """Becomes another program, with the variables of a file that no command line shows."""
    variables = _variables(Path(given.env_file)) if given.env_file else {}
    os.execvpe(arguments[0], arguments, dict(os.environ, **variables))


def _code(version):
    return FOLDER / f"code-{version[:12]}"


def _unpack(archive, version, folder):
    if not archive.exists():
        raise RefusedError(f"{archive.name} is not here: it was not copied")
    partial = folder.with_suffix(".part")
    shutil.rmtree(str(partial), ignore_errors=True)
    with tarfile.open(str(archive)) as tar:
        found = tar.pax_headers.get("comment")
        if found != version:
            raise RefusedError(f"{archive.name} holds commit {found}, not {version}")
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(str(partial), **safely)
    partial.rename(folder)


def _install(requirements, extra):
    """mmjax needs Python 3.11 or 3.12, which many TPU runtimes lack: uv brings it along."""
    tools, venv = FOLDER / "tools", FOLDER / "venv"
    uv = tools / "bin" / "uv"
    if not uv.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tools), "uv"]
        _call(pip)
    shutil.rmtree(str(venv), ignore_errors=True)
    _call([str(uv), "venv", "--quiet", "--python=3.12", str(venv)])
    python = str(venv / "bin" / "python")
    _call(
        [str(uv), "pip", "install", "--quiet", "--python", python, "-r", str(requirements), extra]
    )


def _call(argv):
    if subprocess.call(argv) != 0:
        raise RefusedError("`{}` failed; its reason stands above".format(" ".join(argv)))


def _lock_within(seconds):
    """As `_lock`, but waits so long for the end of the run."""
    deadline = time.monotonic() + seconds
    while True:
        lock = _lock()
        if lock is not None or time.monotonic() >= deadline:
            return lock
        time.sleep(0.05)


def _lock():
    """The open lock file, or None where a run holds it."""
    file = LOCK.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _write_code(code):
    partial = CODE.with_suffix(".part")
    partial.write_text(str(code))
    partial.replace(CODE)


def _read(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _variables(path):
    if not path.exists():
        return {}
    if path.stat().st_mode & 0o077:
        raise RefusedError(f"{path} can be read by others: chmod 600 it")
    lines = (line for line in path.read_text().splitlines() if line.strip())
    pairs = (line.partition("=") for line in lines if not line.lstrip().startswith("#"))
    return {name: value for name, _, value in pairs}


VERBS = {
    "setup": setup,
    "start": start,
    "watch": watch,
    "status": status,
    "logs": logs,
    "stop": stop,
    "exec": execute,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
