"""One account for the bytes that wait for handlers: what is taken from it must be given back."""

from unhosted.node.core.errors import LocalFault

MEBIBYTE = 1024 * 1024


class Memory:
    """bytes_max: of all. A part (of strangers, say) is a Memory of its own with the whole as its parent."""

    def __init__(self, bytes_max: int, *, parent: "Memory | None" = None) -> None:
        self.bytes_max = bytes_max
        self.held_bytes = 0
        self._parent = parent

    def take(self, size_bytes: int) -> bool:
        """Whether there was room; nothing is taken if not."""
        if self.held_bytes + size_bytes > self.bytes_max:
            return False
        if self._parent is not None and not self._parent.take(size_bytes):
            return False
        self.held_bytes += size_bytes
        return True

    def give(self, size_bytes: int) -> None:
        self.held_bytes -= size_bytes
        if self.held_bytes < 0:
            raise LocalFault(f"{-self.held_bytes} bytes more were given back than taken")
        if self._parent is not None:
            self._parent.give(size_bytes)
