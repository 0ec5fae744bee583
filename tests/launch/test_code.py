"""The code that is sent is one commit, also of files that are not committed yet."""

from __future__ import annotations

import subprocess
import tarfile

import pytest

from launch import code as code_lib
from launch.commands import Commands
from mmjax.errors import UserError


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository with one commit of one file."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "a")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "a@b.c")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "a.txt").write_text("committed")
    for argv in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(folder), *argv], check=True)
    return folder


def packed(project, what):
    """(code, text of a.txt in its archive)."""
    code = code_lib.pin(what, project)
    code_lib.pack(code, Commands(), project)
    with tarfile.open(code.archive) as tar:
        assert tar.pax_headers["comment"] == code.version  # what workers compare
        return code, tar.extractfile("a.txt").read().decode()


def test_head_is_the_commit_and_worktree_the_files(project):
    (project / "a.txt").write_text("changed")
    (project / "new.txt").write_text("not known to git")
    head, text = packed(project, "HEAD")
    assert text == "committed"
    worktree, text = packed(project, "worktree")
    assert text == "changed"
    assert worktree.version != head.version
    assert code_lib.pin("worktree", project) == worktree  # the same files, the same version
    assert (project / "a.txt").read_text() == "changed"
    log = ["git", "-C", str(project), "log", "--all", "--oneline"]
    assert len(subprocess.check_output(log).splitlines()) == 1  # no trace is left


def test_what_is_not_sent_is_told(project, capsys):
    (project / "a.txt").write_text("changed")
    (project / "new.txt").touch()
    code_lib.warn_of_changes("HEAD", Commands(), project)
    said = capsys.readouterr().err
    assert "1 changed files are not in --code=HEAD" in said
    assert "1 files that git does not know are not sent" in said


def test_a_commit_that_does_not_exist_is_one_sentence(project, tmp_path):
    with pytest.raises(UserError, match="there is no commit 'nowhere'"):
        code_lib.pin("nowhere", project)
    with pytest.raises(UserError, match="not a git repository"):
        code_lib.pin("HEAD", tmp_path)
