"""Messages between the process that clients speak to and the one that computes."""

from __future__ import annotations

import msgspec

from collectors import errors
from collectors.errors import OpsuiteError
from engine.serving.request import GenerationRequest, Token


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class Start(_Message, frozen=True, kw_only=True):
    """The first message: what to serve.

    Attributes:
        directory: of the model.
        config: a serving config, as JSON.
        run_id: of the run that is recorded, and ``spool``, where; "" without recording.
    """

    directory: str
    config: str
    run_id: str = ""
    spool: str = ""


class Join(_Message, frozen=True):
    """Requests to generate."""

    requests: tuple[GenerationRequest, ...]


class Withdraw(_Message, frozen=True):
    """Requests that are no longer wanted; those that ended already are passed over."""

    numbers: tuple[int, ...]


class Ready(_Message, frozen=True, kw_only=True):
    """The model is loaded.

    Attributes:
        kv_tokens: that the device's blocks hold.
        policy: its name.
    """

    kv_tokens: int
    block_tokens: int
    policy: str


class Load(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How busy an engine is.

    Attributes:
        running: requests in the last iteration.
        waiting: that have begun nowhere, or were preempted and are on the device.
        swapped: whose keys and values are on the host, or on their way.
        kv_usage, host_usage: share of the blocks that requests hold.
        preemptions: so far: requests that could have gone on, but gave way.
        offloads, uploads, recomputations: so far.
        prefix_tokens, shared_tokens: of prompts that began so far, and of these not computed.
        iterations: so far.
    """

    running: int = 0
    waiting: int = 0
    swapped: int = 0
    kv_usage: float = 0.0
    host_usage: float = 0.0
    preemptions: int = 0
    offloads: int = 0
    uploads: int = 0
    recomputations: int = 0
    prefix_tokens: int = 0
    shared_tokens: int = 0
    iterations: int = 0


class Progress(_Message, frozen=True):
    """What an iteration gave, and what the next one is.

    Attributes:
        unproven: requests that are computed now and have been given no token by this engine.
    """

    tokens: tuple[Token, ...]
    unproven: tuple[int, ...]
    load: Load


class Refusal(_Message, frozen=True, kw_only=True):
    """The model cannot be served: an error that the user can act on, by the name of its class."""

    kind: str
    what: str
    where: str = ""
    remedy: str = ""

    @classmethod
    def of(cls, error: OpsuiteError) -> Refusal:
        """What a process has met."""
        kind = type(error).__name__
        return cls(kind=kind, what=error.what, where=error.where, remedy=error.remedy)

    @property
    def error(self) -> OpsuiteError:
        """The same, of the same class of our own tree, for whoever is told."""
        kind = getattr(errors, self.kind, OpsuiteError)
        assert issubclass(kind, OpsuiteError), "of our own tree"
        error: OpsuiteError = kind(self.what, where=self.where, remedy=self.remedy)
        return error


ToEngine = Start | Join | Withdraw
ToApi = Ready | Progress | Refusal

TO_ENGINE: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
TO_API: msgspec.msgpack.Decoder[ToApi] = msgspec.msgpack.Decoder(ToApi)
