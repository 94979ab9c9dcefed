"""What the server is asked: the bodies of its requests, checked, as in OpenAI's documentation.

Source: the Completions and Chat Completions of OpenAI's API; ``pydantic`` checks them. The fields
``session``, ``top_k`` and ``repetition_penalty`` are not OpenAI's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator


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
    """What both kinds of request share. A field that is null is one that was left out."""

    model: Text
    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=1, le=1_000_000)
    repetition_penalty: float = Field(1.0, ge=1, le=10)
    n: Literal[1] = 1
    logprobs: Literal[False] = False
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool = False
    stream_options: StreamOptions | None = None
    session: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        is_object = isinstance(body, dict)
        return {k: v for k, v in body.items() if v is not None} if is_object else body

    @property
    def stops(self) -> list[str]:
        """The stop strings, as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


class Completion(Ask):
    """Go on writing from ``prompt``."""

    prompt: Text
    max_tokens: int = Field(16, ge=1)
    echo: Literal[False] = False


class Part(BaseModel):
    """One part of a speech."""

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """One speech of a chat, as a text or in parts."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[Part], Field(min_length=1)]

    @property
    def text(self) -> str:
        """The whole speech."""
        content = self.content
        return content if isinstance(content, str) else "".join(part.text for part in content)


class ChatCompletion(Ask):
    """Answer the last of ``messages``."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)


class Memory(BaseModel):
    """A ``text`` that a session remembers."""

    text: Text = Field(min_length=1)
