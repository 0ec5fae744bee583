"""Why a run ended, as an exit code that launchers act on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mmjax import main
from mmjax.errors import EXIT_LOST, EXIT_USER_ERROR, OutageError, UserError


@pytest.mark.parametrize(("kind", "code"), [(OutageError, 69), (UserError, 2)])
def test_what_ends_a_run_from_another_thread_keeps_its_exit_code(kind, code):
    """As a lease does: a launcher starts the run again after an outage alone."""
    program = (
        "from mmjax import errors; from mmjax.parallel import ending; "
        f"ending.end_all(errors.{kind.__name__}('it stops'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "mmjax: it stops\n")


@pytest.mark.parametrize(("name", "code"), [("Unavailable", EXIT_LOST),
                                            ("PermissionDenied", EXIT_USER_ERROR)])  # fmt: skip
def test_what_a_bucket_refuses_where_nobody_expects_it_is_a_sentence(name, code, capsys):
    tf = pytest.importorskip("tensorflow")

    def use(_):
        raise getattr(tf.errors, f"{name}Error")(None, None, "HTTP response code\nand more")

    assert main._guarded(use, []) == code
    said = capsys.readouterr().err
    assert said.startswith("mmjax: the object store refused (HTTP response code): see that")
    assert said.count("\n") == 1


def test_a_bug_keeps_its_traceback():
    def fail(_):
        raise ValueError("shapes differ")

    with pytest.raises(ValueError, match="shapes differ"):
        main._guarded(fail, [])
