"""Files of NAME=VALUE lines, by which secrets get to a run without standing in a command line."""

from __future__ import annotations

import re
from pathlib import Path

from mmjax.errors import UserError

# Far above any set of keys; a dataset that was named by mistake is not read.
LARGEST_BYTES = 64 * 1024


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of the file; lines that are empty or begin with # are passed over.

    Raises:
      UserError: there is none, others can read it, or a line has another form. No value is shown.
    """
    try:
        status = path.stat()
        if status.st_size > LARGEST_BYTES:
            raise UserError(f"--env_file={path} is larger than {LARGEST_BYTES} bytes.")
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--env_file={path} cannot be read ({error}).") from error
    if status.st_mode & 0o077:
        raise UserError(f"--env_file={path} can be read by others: `chmod 600 {path}` first.")
    variables = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UserError(f"--env_file={path}, line {number} is not of the form NAME=VALUE.")
        variables[name] = value
    return variables
