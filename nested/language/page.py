"""A page to chat on, beside a picture of the levels.

Source: the library ``gradio``.
"""

from __future__ import annotations

import html
import math
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import gradio as gr
from fastapi import FastAPI
from torch import Generator

from nested.language.chat import speeches
from nested.language.engine import Engine, Refused
from nested.language.replies import Answer, tokens_of
from nested.language.sessions import Sessions
from nested.language.writing import Draft, Sampling
from nested.models.model import SequenceModel
from nested.models.movement import movement, period_of

HEIGHT, DIAL = 34, 12  # of a row of the picture, and the radius of a clock, in pixels


class Talk:
    """What one visitor has: the session ``name``, in which ``tokens`` were read so far.

    ``moved`` says how far each level moved in the last turn."""

    def __init__(self, model: SequenceModel) -> None:
        self.name, self.tokens, first = None, 0, model.init(1)
        self.moved = movement(model, first, first)

    async def read(
        self, engine: Engine, sessions: Sessions, text: str, draft: Draft | None
    ) -> AsyncIterator[str]:
        """Read ``text``, yield ``draft`` piece by piece, and keep the new memory. Raises an
        ``Error`` if ``engine`` or ``sessions`` take no more."""
        try:
            tokens, _ = tokens_of(engine, text.encode("utf-8", "replace"), 0)
            self.name = self.name or sessions.create()
            before, keep = sessions.open(self.name)
            answer = Answer(engine, tokens, draft, before, keep)
            await answer.start()
            self.tokens = count = self.tokens + len(tokens)
            async for piece in answer.pieces():
                self.tokens = count + (len(draft.tokens) if draft else 0)
                yield piece
        except Refused as error:
            raise gr.Error(str(error)) from None
        self.moved = movement(engine.model, before, answer.job.state)


def build_page(engine: Engine, sessions: Sessions) -> gr.Blocks:
    """Build the page of the model that ``engine`` runs. Visitors get ``sessions``."""
    model, coder, together = engine.model, engine.coder, engine.limits.together

    async def answer(words: str, shown: list, talk: Talk | None, temperature: float) -> Any:
        talk, source = talk or Talk(model), Generator()
        source.seed()
        draft = Draft(coder, 300, Sampling(temperature, top_p=0.9), ["\n\n"], source)
        shown = [*shown, {"role": "user", "content": words}, {"role": "assistant", "content": ""}]
        async for _ in talk.read(engine, sessions, speeches([("user", words)]), draft):
            shown[-1]["content"] = draft.text
            yield "", shown, talk, picture(model, talk)
        yield "", shown, talk, picture(model, talk)

    async def remember(text: str, talk: Talk | None) -> Any:
        talk = talk or Talk(model)
        async for _ in talk.read(engine, sessions, text + "\n", None):
            pass
        return "", talk, picture(model, talk)

    def forget(talk: Talk | None) -> Any:
        with suppress(Refused):  # the session has ended already
            sessions.delete(talk.name if talk else "")
        return [], None, picture(model, Talk(model))

    with gr.Blocks(title="nested", analytics_enabled=False) as page:
        talk = gr.State(None, time_to_live=engine.limits.idle)  # made when it is needed
        with gr.Row():
            with gr.Column(scale=3):
                shown = gr.Chatbot(label="Chat", height=420, render_markdown=False)
                words = gr.Textbox(label="Say", placeholder="Who's there?", max_length=2000)
                heat = gr.Slider(0, 1.5, 0.8, label="Temperature")
            with gr.Column(scale=2):
                levels = gr.HTML(picture(model, Talk(model)))
                note = gr.Textbox(label="Remember", lines=3, max_length=5000)
                remembering = [remember, [note, talk], [note, talk, levels]]
                gr.Button("Remember").click(*remembering, concurrency_limit=together)
                gr.Button("Forget all").click(forget, talk, [shown, talk, levels])
        answering = [answer, [words, shown, talk, heat], [words, shown, talk, levels]]
        words.submit(*answering, concurrency_limit=together)
    return page


def mount_page(app: FastAPI, engine: Engine, token: str | None) -> FastAPI:
    """Put the page at the root of ``app``. With a ``token`` it asks for the user "nested" and the
    token as the password."""
    theme = gr.themes.Base(font=["sans-serif"], font_mono=["monospace"])  # nothing from elsewhere
    more = {"auth": token and [("nested", token)], "theme": theme, "footer_links": []}
    return gr.mount_gradio_app(app, build_page(engine, app.state.sessions), "/", **more)


def picture(model: SequenceModel, talk: Talk) -> str:
    """Draw each level as a row of SVG. Its clock goes round once a period. Its bar shows how far it
    moved."""
    rows, size = [], HEIGHT * len(talk.moved)
    for number, (level, share) in enumerate(talk.moved.items()):
        period = period_of(model, level)
        turn, y = 2 * math.pi * (talk.tokens % period) / period, HEIGHT * number + HEIGHT // 2
        x2, y2 = 16 + DIAL * math.sin(turn), y - DIAL * math.cos(turn)
        width = 280 * min(1.0, share)
        clock = f"every {period} tokens" if period > 1 else "every token"
        rows.append(
            f'<circle cx="16" cy="{y}" r="{DIAL}" fill="none" stroke="currentColor"/>'
            f'<line x1="16" y1="{y}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor"/>'
            f'<rect x="36" y="{y + 3}" width="{width:.1f}" height="8" fill="#3b82f6"/>'
            f'<text x="36" y="{y - 2}" font-size="12" fill="currentColor">'
            f"{html.escape(level)}, {clock}: {share:.1%}</text>"
        )
    head = f"<p>{talk.tokens} tokens read. How far each level moved in the last turn:</p>"
    return head + f'<svg width="100%" viewBox="0 0 350 {size}">' + "".join(rows) + "</svg>"
