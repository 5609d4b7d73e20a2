"""The sampler's process as the benchmark sees it: started, read from, ended."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from ifmmin.benchmarks.device.sample import Opening, Sample, read_lines

_LAST_LOOK = 10.0
"""Seconds that the process gets to end: nvidia-smi under it may be slow."""
_PAUSE = 0.005


class Sampling:
    """What a sampler has written so far. It writes to a file, so that nobody has to keep up."""

    def __init__(self, command: Sequence[str]) -> None:
        self.missing: tuple[str, ...] = ()
        self.samples: list[Sample] = []
        self.fault = ""
        """Why there are no samples, or no more."""
        self._folder = Path(tempfile.mkdtemp(prefix="ifmmin-watch-"))
        self._read = 0
        self._process = self._start(command)

    def update(self) -> None:
        """Read what is new."""
        try:
            with (self._folder / "samples").open("rb") as file:
                file.seek(self._read)
                lines, size = read_lines(file.read())
        except (OSError, msgspec.DecodeError) as error:
            self.fault = self.fault or f"the samples cannot be read: {error}"
            return
        self._read += size
        for line in lines:
            if isinstance(line, Opening):
                self.missing = line.missing
            else:
                self.samples.append(line)

    def wait(self, there: Callable[[], bool], patience: float) -> None:
        """Read on until it is there, `patience` seconds have passed, or the sampler has ended."""
        until = time.monotonic() + patience
        while True:
            ended = self._process is None or self._process.poll() is not None
            self.update()
            if there() or ended or time.monotonic() > until:
                return
            time.sleep(_PAUSE)

    def end(self) -> None:
        """Ask for a last sample, and end the process."""
        process, self._process = self._process, None
        if process is not None:
            early = process.poll() is not None
            try:
                process.communicate(timeout=_LAST_LOOK)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if early or process.returncode:
                complaint = self._complaint(process.returncode)
                self.fault = self.fault or f"the sampler ended early: {complaint}"
        self.update()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes] | None:
        samples, errors = self._folder / "samples", self._folder / "errors"
        try:
            with samples.open("wb") as output, errors.open("wb") as complaints:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=complaints,
                    # numpy's threads would only be in the way of what is measured.
                    env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                    # Ctrl-C is the benchmark's: this ends by itself when its input does.
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            self.fault = f"the sampler does not start: {error}"
            return None

    def _complaint(self, code: int) -> str:
        """The last line that it wrote on standard error, or how it ended."""
        lines = (self._folder / "errors").read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), f"code {code}")
