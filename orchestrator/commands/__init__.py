"""The commands of the console that ask an orchestrator for something. The module of a command is imported
when it is named, what that one needs beyond click when it is run."""

from typing import Final

COMMANDS: Final = {
    "submit": "orchestrator.commands.submit",
    "status": "orchestrator.commands.jobs",
    "ls": "orchestrator.commands.jobs",
    "queue": "orchestrator.commands.jobs",
    "top": "orchestrator.commands.top",
    "logs": "orchestrator.commands.logs",
    "get": "orchestrator.commands.results",
    "files": "orchestrator.commands.results",
    "link": "orchestrator.commands.results",
    "cancel": "orchestrator.commands.cancel",
    "delete": "orchestrator.commands.cancel",
    "rerun": "orchestrator.commands.cancel",
    "nodes": "orchestrator.commands.nodes",
    "services": "orchestrator.commands.nodes",
    "drain": "orchestrator.commands.nodes",
    "undrain": "orchestrator.commands.nodes",
    "unpair": "orchestrator.commands.nodes",
    "pause": "orchestrator.commands.nodes",
    "resume": "orchestrator.commands.nodes",
    "token": "orchestrator.commands.tokens",
    "audit": "orchestrator.commands.audit",
    "usage": "orchestrator.commands.usage",
    "reload": "orchestrator.commands.settings",
    "log-level": "orchestrator.commands.settings",
}
"""Where each of them is, by its name: there `ls` is `ls_command`."""
