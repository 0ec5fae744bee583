"""Stand-ins for gcloud, kubectl, xpk, sbatch and the like: programs on the PATH that record how
they are called, and answer as the test told them.

Each is a few lines that hand the call over a socket to the test's own process.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import socketserver
import sys
import threading
from pathlib import Path
from typing import Any

PROGRAMS = ("gcloud", "kubectl", "xpk", "sbatch", "squeue", "scancel", "git")

# Without imports that take longer than the call; `git` and `gcloud` are given no input.
CLIENT = """#!{python} -IS
import _socket, sys
told = "" if sys.stdin.isatty() else sys.stdin.read()
s = _socket.socket(_socket.AF_UNIX)
s.connect({address!r})
s.sendall("\\0".join(["{program}", *sys.argv[1:], told]).encode())
s.shutdown(_socket.SHUT_WR)
answer = b""
while part := s.recv(65536):
    answer += part
code, out, err = answer.decode().split("\\0")
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(int(code))
"""


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a program."""

    argv: tuple[str, ...]
    stdin: str


@dataclasses.dataclass
class Answer:
    """What a call whose command line matches gets, so many times; the first that fits is used.

    Attributes:
      machines: state by name that the call leaves behind; None: no such machine.
    """

    match: str
    out: str = ""
    code: int = 0
    err: str = ""
    times: int = 1
    machines: dict[str, str | None] = dataclasses.field(default_factory=dict)


class World:
    """What the programs see and do. Used as a context, in which they can be called.

    Attributes:
      machines: state of the TPU machines by name: `create` adds, `delete` takes away.
      slept: seconds that were waited for.
    """

    def __init__(self, folder: Path):
        self.bin = folder / "bin"
        self.machines: dict[str, str] = {}
        self.slept: list[float] = []
        self.recorded: list[Call] = []
        self._answers: list[Answer] = []
        self._address = str(folder / "socket")

    def __enter__(self) -> World:
        self.bin.mkdir(parents=True)
        for program in PROGRAMS:
            self.add_program(program)
        self._server = socketserver.ThreadingUnixStreamServer(self._address, _handler(self))
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add_program(self, program: str) -> None:
        file = self.bin / program
        text = CLIENT.format(python=sys.executable, address=self._address, program=program)
        file.write_text(text)
        file.chmod(0o755)

    def answer(self, match: str, out: str = "", **more: Any) -> None:
        """Tells how to answer the next call whose command line matches."""
        self._answers.append(Answer(match, out, **more))

    @property
    def calls(self) -> list[str]:
        """The command lines, in order."""
        return [shlex.join(call.argv) for call in self.recorded]

    def calls_of(self, text: str) -> list[str]:
        return [line for line in self.calls if text in line]

    def called(self, call: Call) -> tuple[int, str, str]:
        """(exit code, output, complaint)."""
        self.recorded.append(call)
        line = " ".join(call.argv)
        for answer in self._answers:
            if answer.times and re.search(answer.match, line):
                answer.times -= 1
                states = {**self.machines, **answer.machines}
                self.machines = {n: s for n, s in states.items() if s is not None}
                return answer.code, answer.out, answer.err
        if call.argv[:3] == ("gcloud", "compute", "tpus"):
            return 0, self._tpus(*call.argv[3:6]), ""
        return 0, "", ""

    def _tpus(self, group: str, verb: str, name: str) -> str:
        if verb == "create":
            self.machines[name] = "ACTIVE" if group == "queued-resources" else "READY"
        elif verb == "delete":
            del self.machines[name]
        elif verb == "list":
            nodes = "projects/p/locations/z/nodes/"
            return json.dumps([{"name": nodes + n, "state": s} for n, s in self.machines.items()])
        return ""


def _handler(world: World) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            *argv, stdin = self.rfile.read().decode().split("\0")
            code, out, err = world.called(Call(tuple(argv), stdin))
            self.wfile.write(f"{code}\0{out}\0{err}".encode())

    return Handler
