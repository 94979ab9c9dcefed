"""The page, driven in a headless Chromium: it answers, remembers, forgets, and asks for nothing
from elsewhere."""

import re
import shutil
import threading

import pytest

from nested.language.coder import ByteCoder
from nested.language.engine import Engine, Limits
from tests.language.test_writing import build

pytest.importorskip("gradio", reason="pip install -e .[page]")
uvicorn = pytest.importorskip("uvicorn", reason="pip install -e .[page]")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def server():
    import socket

    from nested.language.page import mount_page
    from nested.language.server import build_app

    engine = Engine(build(), ByteCoder(), Limits())
    app = mount_page(build_app(engine, "nano"), engine, None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=lambda: running.run(sockets=[listener]))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        engine.close()
        running.should_exit = True
        thread.join()


@pytest.mark.lessons
@pytest.mark.skipif(CHROMIUM is None, reason="apt-get install chromium")
def test_a_visitor_talks_tells_and_forgets(server):
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    elsewhere, errors = [], []
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda r: None if server in r.url else elsewhere.append(r.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server)
        page.set_default_timeout(60_000)  # milliseconds, for a machine that is busy
        expect = playwright.expect
        expect.set_options(timeout=60_000)
        nothing_read = page.get_by_text(re.compile(r"^0 tokens read"))
        expect(nothing_read).to_be_visible()
        page.get_by_label("Say").fill("Who's there?")
        page.get_by_label("Say").press("Enter")
        expect(page.get_by_text("Who's there?").first).to_be_visible()
        expect(page.get_by_label("Say")).to_have_value("")
        expect(nothing_read).to_have_count(0)
        levels = page.locator("svg text", has_text="block 1 mixer, every token")
        expect(levels).not_to_contain_text(": 0.0%")
        page.get_by_label("Remember").first.fill("The code of the old king is 4821.")
        page.get_by_role("button", name="Remember").click()
        expect(page.get_by_label("Remember").first).to_have_value("")
        page.get_by_role("button", name="Forget all").click()
        expect(levels).to_contain_text(": 0.0%")
        expect(nothing_read).to_be_visible()
        expect(page.get_by_text("Who's there?")).to_have_count(0)
        browser.close()
    assert not [url for url in elsewhere if not url.startswith(("data:", "blob:"))]
    assert not errors


def test_visitors_share_the_sessions_of_the_server():
    import asyncio

    import gradio as gr

    from nested.language.page import Talk
    from nested.language.sessions import Sessions

    engine = Engine(build(), ByteCoder(), Limits(sessions=1))
    sessions = Sessions(lambda: engine.model.init(1), engine.limits)
    first, second = Talk(engine.model), Talk(engine.model)

    async def read(talk):
        async for _ in talk.read(engine, sessions, "The code is 4821.", None):
            pass

    asyncio.run(read(first))
    assert first.tokens == 17 and first.moved["block 1 mixer"] > 0
    with pytest.raises(gr.Error, match="the server keeps no more sessions"):
        asyncio.run(read(second))
    sessions.delete(first.name)
    asyncio.run(read(second))
    assert second.tokens == 17
    with pytest.raises(gr.Error, match="there is no such session"):
        asyncio.run(read(first))
    engine.close()


def test_the_picture_has_a_row_for_each_level_and_turns_with_its_clock():
    from nested.language.page import Talk, picture
    from nested.models.movement import period_of

    talk = Talk(build())
    parts = ("mixer", "continuum, level 1", "continuum, level 2")
    wanted = [f"block {b} {part}" for b in (1, 2) for part in parts]
    assert list(talk.moved) == ["block 1 recall", *wanted]
    assert [period_of(build(), level) for level in talk.moved] == [1, 1, 4, 8, 1, 4, 8]
    talk.tokens, talk.moved["block 1 mixer"] = 6, 1.7
    drawn = picture(build(), talk)
    assert drawn.count("<circle") == 7 and "block 1 mixer, every token: 170.0%" in drawn
    assert 'width="280.0"' in drawn  # a bar is never longer than its row
    x, y = 16, 34 + 34 + 17
    assert f'<line x1="{x}" y1="{y}" x2="16.0" y2="{y + 12}.0"' in drawn  # half round
