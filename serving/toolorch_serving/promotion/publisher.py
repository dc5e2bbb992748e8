"""What a promotion needs of whatever puts weights into a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Publisher(Protocol):
    """Puts versions of the policy into a running server, and takes them out again."""

    def publish(self, version: str, folder: Path) -> Any:
        """Make the server answer under a new name with the weights in a folder, and prove that it does.

        A promotion that was killed publishes again: what the server has loaded already is only proven.

        Raises:
            ToolorchError: It does not; the server answers as before.
        """
        ...

    def serves(self, version: str) -> bool:
        """Return whether the server answers under a name.

        Raises:
            ToolorchError: The server cannot be reached.
        """
        ...

    def retire(self, version: str) -> None:
        """Take a version out once no request in flight uses it; one that is not there is no error.

        Raises:
            ToolorchError: The server cannot be reached.
        """
        ...
