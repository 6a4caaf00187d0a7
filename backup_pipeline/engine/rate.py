"""A limit on bytes a second that several threads share."""

import threading
import time


class RateLimit:
    """So many bytes a second in the mean; `None` is no limit."""

    def __init__(self, bytes_a_second: float | None = None) -> None:
        self._rate = bytes_a_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    def delay(self, size: int) -> float:
        """For how many seconds to wait before `size` bytes may go; they count as gone then."""
        if self._rate is None:
            return 0.0
        with self._lock:
            now = time.monotonic()
            begins = max(self._free_at, now)
            self._free_at = begins + size / self._rate
            return begins - now
