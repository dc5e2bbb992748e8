"""Every error and warning of the package: one base class, and a message that names the field and the fix."""


class ToolorchError(Exception):
    """Base of all errors that the package raises on purpose."""


class CatalogError(ToolorchError, ValueError):
    """A catalogue, or a request's view of it, is not usable."""


class UnknownEntryError(CatalogError):
    """A name or alias that stands for no entry of the catalogue."""


class MissingVariableError(ToolorchError, ValueError):
    """An environment variable that the configuration names is not set."""


class EmptyMessagesError(ToolorchError, ValueError):
    """The orchestrator was called without a message to work on."""


class EndpointError(ToolorchError):
    """A model endpoint did not give a usable answer, after bounded retries.

    Attributes:
        retryable: Whether the same request may succeed later (down, slow, overloaded).
        attempts: Requests that were sent.
    """

    def __init__(self, message: str, *, retryable: bool = False, attempts: int = 1) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.attempts = attempts


class GivenUpError(ToolorchError, TimeoutError):
    """A call took longer than it may; whatever it still does has no effect on the run."""


class StoreError(ToolorchError):
    """A trace store cannot be opened, read or written."""


class CaptureWarning(UserWarning):
    """Capture lost something; the app itself goes on."""
