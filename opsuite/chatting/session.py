"""A conversation at a terminal: lines in, answers out as they come."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.errors import OpsuiteError, StorageError, UsageError
from opsuite.chatting.server import NoChatTemplate
from opsuite.output import narrate
from tui.table import visible

if TYPE_CHECKING:
    from opsuite.chatting.conversation import Conversation

HELP = """\
/help           this
/reset          forget what was said
/system TEXT    tell the model something before all else; without TEXT: nothing
/save FILE      write the conversation as JSON
/quit           leave; so does Ctrl-D
//...           say something that begins with /
Ctrl-C stops an answer."""


def answer(conversation: Conversation, text: str) -> None:
    """Print what the model says to a text, piece by piece, on stdout.

    Raises:
        OpsuiteError: as :meth:`opsuite.chatting.conversation.Conversation.say`.
        KeyboardInterrupt: the user has stopped it.
    """
    try:
        with closing(conversation.say(text)) as pieces:
            for piece in pieces:
                _write(piece)
    finally:
        _write("\n")
    if conversation.cut_off:
        narrate("(cut off: the answer had as many tokens as it may)")


class Session:
    """Until the user leaves."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._commands = {
            "help": self._help,
            "reset": self._reset,
            "system": self._system,
            "save": self._save,
        }

    def run(self) -> None:
        """NoChatTemplate: nothing can be said to this model."""
        import readline  # noqa: F401 - input() then knows lines' editing and their history

        while True:
            try:
                line = input("> ").strip()
            except KeyboardInterrupt:
                narrate("\n(/quit or Ctrl-D leaves)")
                continue
            except EOFError:
                narrate("")
                return
            if line in ("/quit", "/exit"):
                return
            self._take(line)

    def _take(self, line: str) -> None:
        try:
            if line.startswith("/") and not line.startswith("//"):
                self._command(line)
            elif line:
                answer(self._conversation, line.removeprefix("/"))
        except NoChatTemplate:
            raise
        except OpsuiteError as error:
            narrate(f"error: {error}")
        except KeyboardInterrupt:
            narrate("(stopped)")

    def _command(self, line: str) -> None:
        name, _, rest = line[1:].partition(" ")
        if name not in self._commands:
            raise UsageError(f"there is no /{visible(name)}", remedy="see /help")
        self._commands[name](rest.strip())

    def _help(self, _: str) -> None:
        narrate(HELP)

    def _reset(self, _: str) -> None:
        self._conversation.messages.clear()
        narrate("(forgotten)")

    def _system(self, text: str) -> None:
        if text and self._conversation.raw:
            raise UsageError("texts are continued as they are", remedy="leave --raw out")
        self._conversation.system = text
        narrate("(it will be told first)" if text else "(nothing is told first)")

    def _save(self, name: str) -> None:
        from collectors.atomic import write_atomically

        if not name:
            raise UsageError("no file is named", remedy="/save FILE")
        path = Path(name).expanduser()
        if path.exists():
            raise UsageError("the file is there already", where=name, remedy="name another one")
        conversation = self._conversation
        messages = [*conversation.opening(), *conversation.messages]
        document = {"model": conversation.model, "messages": messages}
        try:
            write_atomically(path, json.dumps(document, indent=2) + "\n")
        except OSError as error:
            raise StorageError.from_os_error(error, f"writing {name}") from error
        narrate(f"(written: {name})")


def _write(text: str) -> None:
    """What a server says has no power over the terminal, and is shown by any."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(visible(text).encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()
