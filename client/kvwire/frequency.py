"""How often a peer may make us work for nothing: floods of control frames, window updates, resets."""

from __future__ import annotations

from kvwire import limits
from kvwire.frames import ENHANCE_YOUR_CALM, ProtocolError


class Frequency:
    """Counts by the second what one peer sends. Each method raises `ProtocolError` when that was one too many."""

    __slots__ = ("_controls", "_late", "_resets", "_second", "_settings", "_updates")

    def __init__(self) -> None:
        self._second, self._controls, self._updates, self._resets, self._settings = 0.0, 0, 0, 0, 0
        self._late = 0

    def tick(self, now: float) -> None:
        """It is `now`, in monotonic seconds."""
        if now - self._second >= 1.0:
            self._second, self._controls, self._updates, self._resets, self._settings = now, 0, 0, 0, 0

    def on_control(self) -> None:
        """A frame that carries no call on."""
        self._controls += 1
        if self._controls > limits.CONTROL_FRAMES_PER_SECOND_MAX:
            raise ProtocolError(ENHANCE_YOUR_CALM, "too many control frames", "control_frames")

    def on_settings(self) -> None:
        """A SETTINGS frame."""
        self._settings += 1
        if self._settings > limits.SETTINGS_PER_SECOND_MAX:
            raise ProtocolError(ENHANCE_YOUR_CALM, "too many settings", "settings")

    def expect_late(self, window: int) -> None:
        """A stream is closed: its reset, and data up to its window, may be on their way."""
        expected = self._late + max(0, window) + limits.LATE_FRAME_BYTES
        self._late = expected if expected < limits.LATE_BYTES_MAX else limits.LATE_BYTES_MAX

    def on_late(self, size: int = 0) -> bool:
        """A frame of a closed stream, with so many bytes of data; False: none can be on its way."""
        if self._late <= 0:
            self.on_control()
            return False
        self._late -= size or limits.LATE_FRAME_BYTES
        return True

    def on_window_update(self) -> None:
        """A WINDOW_UPDATE."""
        self._updates += 1
        if self._updates > limits.WINDOW_UPDATES_PER_SECOND_MAX:
            raise ProtocolError(ENHANCE_YOUR_CALM, "too many window updates", "window_updates")

    def on_reset(self) -> None:
        """A call that its caller gave up."""
        self._resets += 1
        if self._resets > limits.RESETS_PER_SECOND_MAX:
            raise ProtocolError(ENHANCE_YOUR_CALM, "too many calls reset", "resets")
