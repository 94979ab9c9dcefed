"""What the server is asked: the bodies of its requests, checked, as in OpenAI's documentation.

Source: the Completions and Chat Completions of OpenAI's API; ``pydantic`` checks them. The fields
``session``, ``top_k`` and ``repetition_penalty`` are not OpenAI's.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field


def _writable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("this text has half of a surrogate pair, which is no character") from None
    return text


Text = Annotated[str, AfterValidator(_writable)]
StopText = Annotated[Text, Field(min_length=1, max_length=100)]


class StreamOptions(BaseModel):
    """What a stream has beside its text."""

    include_usage: bool = False


class Ask(BaseModel):
    """What both kinds of request share."""

    model: Text
    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=1, le=1_000_000)
    repetition_penalty: float = Field(1.0, ge=1, le=10)
    n: Literal[1] = 1
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool = False
    stream_options: StreamOptions | None = None
    session: Text | None = None

    @property
    def stops(self) -> list[str]:
        """The stop strings, as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


class Completion(Ask):
    """Go on writing from ``prompt``."""

    prompt: Text
    max_tokens: int = Field(16, ge=1)


class Message(BaseModel):
    """One speech of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text


class ChatCompletion(Ask):
    """Answer the last of ``messages``."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)


class Memory(BaseModel):
    """A ``text`` that a session remembers."""

    text: Text = Field(min_length=1)
