"""Tells how far a build is, and lets it be stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ifmmin.runtime.backends.tensorrt_log import Messages

Progress = Callable[[str], None]
"""Called with the name of each phase as it starts, several times a second at most."""


def monitor_of(trt: Any, messages: Messages, progress: Progress | None) -> Any:
    """A progress monitor that stops the build when the user interrupts or `progress` raises.

    What was raised is kept in `messages.interrupt`.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the module has no types
        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, name: str, _parent: str | None, _steps: int) -> None:
            try:
                if progress is not None and messages.interrupt is None:
                    progress(name)
            except BaseException as error:
                messages.interrupt = error

        def step_complete(self, _name: str, _step: int) -> bool:
            return messages.interrupt is None

        def phase_finish(self, _name: str) -> None:
            pass

    return Monitor()
