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
import threading
from pathlib import Path
from typing import Any

PROGRAMS = ("gcloud", "kubectl", "xpk", "sbatch", "squeue", "scancel", "git")

# Bash alone, since starting an interpreter for each call would take longer than all the rest.
# Every text of the conversation ends with a NUL.
CLIENT = """#!/bin/bash
told=
[ -t 0 ] || IFS= read -r -d '' told
exec 3<>/dev/tcp/127.0.0.1/{port}
printf '%s\\0' "$(($# + 1))" {program} "$@" "$told" >&3
IFS= read -r -d '' code <&3
IFS= read -r -d '' out <&3
IFS= read -r -d '' err <&3
printf %s "$out"
printf %s "$err" >&2
exit "$code"
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

    def __enter__(self) -> World:
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _handler(self))
        self.bin.mkdir(parents=True)
        for program in PROGRAMS:
            self.add_program(program)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add_program(self, program: str) -> None:
        file = self.bin / program
        file.write_text(CLIENT.format(port=self._server.server_address[1], program=program))
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
        if call.argv[1:3] == ("config", "current-context"):
            return 0, "gke_my-project_us-west4-a_cluster\n", ""
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
            argv = [self._text() for _ in range(int(self._text()))]
            code, out, err = world.called(Call(tuple(argv), self._text()))
            self.wfile.write(f"{code}\0{out}\0{err}\0".encode())

        def _text(self) -> str:
            return b"".join(iter(lambda: self.rfile.read(1), b"\0")).decode()

    return Handler
