"""The commands of the console that ask an orchestrator for something. What they need beyond click is imported
when one of them is run, so that `--help` is quick."""

from typing import Final

import click

from orchestrator.commands.audit import audit_command
from orchestrator.commands.cancel import cancel_command, delete_command, rerun_command
from orchestrator.commands.jobs import ls_command, queue_command, status_command
from orchestrator.commands.logs import logs_command
from orchestrator.commands.nodes import (
    drain_command,
    nodes_command,
    pause_command,
    resume_command,
    services_command,
    undrain_command,
    unpair_command,
)
from orchestrator.commands.results import files_command, get_command, link_command
from orchestrator.commands.settings import log_level_command, reload_command
from orchestrator.commands.submit import submit_command
from orchestrator.commands.tokens import token_command
from orchestrator.commands.top import top_command
from orchestrator.commands.usage import usage_command

COMMANDS: Final[tuple[click.Command, ...]] = (
    submit_command,
    status_command,
    top_command,
    ls_command,
    logs_command,
    get_command,
    files_command,
    link_command,
    cancel_command,
    delete_command,
    rerun_command,
    queue_command,
    nodes_command,
    services_command,
    drain_command,
    undrain_command,
    unpair_command,
    pause_command,
    resume_command,
    token_command,
    audit_command,
    usage_command,
    reload_command,
    log_level_command,
)
