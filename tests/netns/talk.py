"""A program in a laboratory's host, spoken to in lines of JSON; what it prints is kept for failures."""

import json
import queue
import subprocess
import threading
from typing import Any

REPLY_SECONDS = 30
LINES_MAX = 2000
"""Of what a program printed that is shown when a test fails."""


class Talk:
    def __init__(self, process: "subprocess.Popen[str]", *, name: str) -> None:
        self.process, self.name = process, name
        self.printed: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, name=f"reads {name}", daemon=True).start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def say(self, word: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(word) + "\n")
        self.process.stdin.flush()

    def hear(self, *, timeout_s: float = REPLY_SECONDS) -> Any:
        """The next line that is a JSON object or array. Raises: AssertionError with all that it printed."""
        while True:
            line = self.line(timeout_s=timeout_s)
            if line.startswith(("{", "[")):
                try:
                    return json.loads(line)
                except ValueError:
                    pass  # a log line that looks like it

    def ask(self, word: object, *, timeout_s: float = REPLY_SECONDS) -> Any:
        self.say(word)
        return self.hear(timeout_s=timeout_s)

    def line(self, *, timeout_s: float = REPLY_SECONDS) -> str:
        """The next line of any kind."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise AssertionError(f"{self.name}: silent for {timeout_s} s\n{self.story()}") from None
        assert line is not None, f"{self.name}: ended with {self.process.wait(5)}\n{self.story()}"
        return line

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(REPLY_SECONDS)

    def stop(self, *, timeout_s: float = REPLY_SECONDS) -> int:
        """End it as a user would, with SIGTERM; its exit code."""
        self.process.terminate()
        return self.process.wait(timeout_s)

    def story(self) -> str:
        return "".join(self.printed[-LINES_MAX:])

    def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            for line in self.process.stdout:
                self.printed.append(line)
                del self.printed[:-LINES_MAX]
                self._lines.put(line)
        except ValueError:
            pass  # the laboratory closed the pipe under us
        self._lines.put(None)
