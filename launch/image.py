"""The container image of one commit, for the targets that run in Kubernetes."""

from __future__ import annotations

import argparse

from launch import code as code_lib
from launch.arguments import Job
from launch.commands import Commands
from mmjax.errors import UserError


def add_argument(parser: argparse.ArgumentParser) -> None:
    """The image's name, without a tag."""
    parser.add_argument("--image", help="REGION-docker.pkg.dev/PROJECT/REPOSITORY/NAME, no tag")


def name_of(job: Job, code: code_lib.Code) -> str:
    """The image's name with the commit as its tag: all pods run the same."""
    image = job.options.image
    if not image:
        raise UserError(f"{job.verb} needs --image=REGION-docker.pkg.dev/PROJECT/REPOSITORY/NAME.")
    if ":" in image.rpartition("/")[2] or "@" in image:
        raise UserError(f"--image={image} has a tag: leave it out, the commit is the tag.")
    return f"{image}:{code.version[:12]}"


def build(job: Job, commands: Commands) -> None:
    """Builds the image of --code in Cloud Build, from launch/Dockerfile, and keeps it."""
    code = code_lib.pin(job.code)
    code_lib.warn_of_changes(job.code, commands)
    name = name_of(job, code)
    code_lib.pack(code, commands)
    commands.run(
        [
            *("gcloud", "builds", "submit", str(code.archive), f"--project={job.project}"),
            f"--config={code_lib.ROOT / 'launch' / 'cloudbuild.yaml'}",
            f"--substitutions=_IMAGE={name}",
        ]
    )
