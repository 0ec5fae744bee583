"""Which code runs: one commit, packed once, so that every worker runs the same."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

from launch.commands import Commands
from mmjax.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

# The same files give the same commit, whoever packs them and whenever.
_NOBODY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "launch"), ("EMAIL", "launch"), ("DATE", "@0 +0000"))
}


@dataclasses.dataclass(frozen=True)
class Code:
    """Attributes:
    version: the commit, 40 hexadecimal digits; git writes it into the archive.
    archive: where `pack` puts it.
    """

    version: str
    archive: Path


def pin(code: str, root: Path = ROOT) -> Code:
    """The commit that `code` names; nothing is packed yet.

    Args:
      code: a commit ("HEAD", a branch, a hash), or "worktree": HEAD with the changes of its files.
        Files that git does not know are in neither.

    Raises:
      UserError: no such commit, or no git.
    """
    if code == "worktree":
        # Both write objects that nothing refers to: branch, index and files stay as they are.
        changed = _git(root, "stash", "create") or "HEAD"
        tree = _git(root, "rev-parse", f"{changed}^{{tree}}")
        version = _git(root, "commit-tree", tree, "-p", "HEAD", "-m", "worktree")
    else:
        version = _git(root, "rev-parse", "--verify", "--quiet", f"{code}^{{commit}}", what=code)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmjax"
    return Code(version, cache / f"code-{version[:12]}.tar.gz")


def pack(code: Code, commands: Commands, root: Path = ROOT) -> None:
    """Writes the archive of the commit."""
    if not commands.dry_run:
        code.archive.parent.mkdir(parents=True, exist_ok=True)
    git = ["git", "-C", str(root), "archive", "--format=tar.gz"]
    commands.run([*git, "-o", str(code.archive), code.version])


def warn_of_changes(code: str, commands: Commands, root: Path = ROOT) -> None:
    """Says so where files differ from the commit that will run."""
    status = _git(root, "status", "--porcelain").splitlines()
    changed = [s for s in status if not s.startswith("??")]
    new = len(status) - len(changed)
    if code != "worktree" and changed:
        commands.say(
            f"{len(changed)} changed files are not in --code={code}: commit them, or give "
            "--code=worktree"
        )
    if new:
        commands.say(f"{new} files that git does not know are not sent: `git add` them first")


def _git(root: Path, *arguments: str, what: str = "") -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **_NOBODY},
        )
    except FileNotFoundError as error:
        raise UserError("git is not on the PATH: it packs the code that is to run.") from error
    if done.returncode:
        reason = done.stderr.strip() or f"there is no commit {what!r}"
        raise UserError(f"--code: {reason} (in {root}).")
    return done.stdout.strip()
