"""The page in a real Chromium, which calls a real server with the embedded engines."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

from tests.certificates import Authority
from tests.pools import DEADLINE, PoolServer
from tests.rawhttp import upgrade
from tests.web.browser import (
    ARGUMENTS,
    MICROPHONE,
    RATE_OF_DEVICE,
    WATCH,
    Caller,
    chromium,
    spoken,
    wav,
)

KEY = "a-key-that-is-long-enough"
STORY = "tell me a very long story"
CALL_PATH = "/v1/realtime"
AXE = resources.files("axe_playwright_python") / "axe.min.js"

Start = Callable[..., PoolServer]
Visit = Callable[..., Caller]

SPEECH: dict[str, Any] = {
    "app": "",
    "profile": "embedded",
    "workers": 1,
    "queue_timeout": DEADLINE,
    "drain_timeout": 0.0,
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One whose microphone says hello again and again, unless the test has another."""
    file = tmp_path_factory.mktemp("microphone") / "hello.wav"
    file.write_bytes(wav(spoken("hello there computer", before=1.5, after=6)))
    capture = f"--use-file-for-fake-audio-capture={file}"
    # A name that is this machine, for pages that come from "another" one.
    resolve = "--host-resolver-rules=MAP voicepool.example 127.0.0.1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=[*ARGUMENTS, capture, resolve]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolServer]:
    """One without keys, that holds callers until a worker is there."""
    with running(tmp_path_factory.mktemp("runtime")) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolServer]:
    """One that asks for a key, and has one line and no waiting room."""
    with running(
        tmp_path_factory.mktemp("runtime"), api_keys=[KEY], max_connections=1, max_waiting=0
    ) as server:
        yield server


@contextmanager
def running(runtime: Path, **settings: Any) -> Iterator[PoolServer]:
    server = PoolServer(runtime, **{**SPEECH, **settings})
    try:
        server.stage("serving")
        yield server
    finally:
        server.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens the page of a server, in a profile of its own; afterwards nothing may be amiss."""
    callers: list[Caller] = []

    def open_page(server: PoolServer, *scripts: str, host: str = "", **options: Any) -> Caller:
        context = browser.new_context(**{"permissions": ["microphone"], **options})
        for script in (WATCH, *scripts):
            context.add_init_script(script)
        caller = Caller(context.new_page())
        callers.append(caller)
        url = urlsplit(server.url.replace("ws", "http", 1))
        caller.page.goto(f"{url.scheme}://{host or url.hostname}:{url.port}/")
        return caller

    yield open_page
    for caller in callers:
        caller.page.context.close()
        assert caller.complaints == []
        assert caller.strangers == []


def wait_in_line(server: PoolServer) -> None:
    """Until a worker is warm again: the test before has used one up."""
    server.until_status(lambda s: s["pool"]["states"]["idle"], "had an idle worker")


# --- a call ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_a_spoken_turn_from_the_microphone_to_the_loudspeaker(
    server: PoolServer, visit: Visit, rate: int
) -> None:
    """Through Chromium's own capture, which may begin at any point of the recording."""
    caller = visit(server, RATE_OF_DEVICE % rate)
    caller.page.get_by_role("button", name="Start talking").click()
    assert "hello there computer" in caller.reads("you", "hello there computer")
    latency = re.search(r"after (\d+\.\d+) s", caller.reads("voice", "after "))
    assert latency is not None
    # No turn ends before there was a silence of this length.
    assert float(latency[1]) >= 0.3
    ended = caller.until("() => seen.played.find(({ what }) => what === 'ended')")
    assert caller.see("seen.rate") == rate
    # Every sample that came was put out, and counted.
    received = caller.see("id => seen.soundOf(id)", ended["item"])
    assert not received["silent"]
    assert abs(ended["ms"] - received["samples"] / 24) < 0.1
    assert caller.see("seen.captured.some(({ level }) => level > 0.01)")
    sizes = {len(event["audio"]) for event in caller.sent("input_audio_buffer.append")}
    assert sizes == {4 * 480 * 2 // 3}
    caller.page.get_by_role("button", name="Hang up").click()
    caller.state("ended")
    assert caller.see("socket.readyState") >= 2
    expect(caller.page.get_by_role("button", name="Call again")).to_be_focused()
    server.until_status(lambda s: s["pool"]["callers"] == 0, "noticed the end of the call")


def test_who_speaks_over_the_reply_silences_it(server: PoolServer, visit: Visit) -> None:
    """At once here; and the server knows afterwards what was heard, and no more."""
    caller = visit(server, MICROPHONE)
    caller.page.get_by_role("button", name="Start talking").click()
    caller.state("talking")
    constraints = caller.see("constraints")["audio"]
    assert constraints["echoCancellation"] is True
    caller.speak(STORY)
    caller.activity("speaking")
    item = caller.until(
        "() => seen.received.find(({ type }) => type === 'response.output_audio_transcript.done')"
    )
    # Some of it has to be heard first.
    caller.until("() => seen.played.filter(({ level }) => level > 0).length > 20")
    caller.speak("what time is it")
    cleared = caller.until("() => seen.played.find(({ what }) => what === 'cleared')")
    heard = caller.until(
        "() => seen.received.find(({ type }) => type === 'conversation.item.retrieved')"
    )["item"]
    (dropped,) = cleared["dropped"]
    assert dropped["item"] == heard["id"] == item["item_id"]
    received = caller.see("id => seen.soundOf(id)", heard["id"])
    assert 0 < dropped["ms"] < received["samples"] / 24
    (truncated,) = caller.sent("conversation.item.truncate")
    assert truncated["item_id"] == heard["id"]
    assert 0 < truncated["audio_end_ms"] <= dropped["ms"]
    words = heard["content"][0]["transcript"]
    assert words
    assert item["transcript"].startswith(words)
    assert len(words) < len(item["transcript"]) / 2
    line = caller.reads("voice", "interrupted at")
    assert line.removeprefix("Voice:").strip().startswith(f"{words}\n")
    assert "what time is it" in caller.reads("you", "what time is it")
    caller.activity("speaking")
    after = caller.see("seen.played.slice(seen.played.findIndex(({what}) => what === 'cleared'))")
    assert heard["id"] not in [told.get("item") for told in after]


def test_who_pauses_in_mid_sentence_is_waited_for(server: PoolServer, visit: Visit) -> None:
    caller = visit(server, MICROPHONE)
    caller.page.get_by_role("button", name="Start talking").click()
    caller.state("talking")
    caller.speak("tell me a very", "long story")
    caller.activity("speaking")
    caller.reads("you", STORY)
    assert len(caller.received("response.created")) == 1
    assert len(caller.received("input_audio_buffer.speech_stopped")) == 1


def test_by_keyboard_alone(server: PoolServer, visit: Visit) -> None:
    caller = visit(server, MICROPHONE)
    keyboard = caller.page.keyboard
    keyboard.press("Tab")
    expect(caller.page.get_by_role("button", name="Start talking")).to_be_focused()
    keyboard.press("Space")
    caller.state("talking")
    expect(caller.page.get_by_role("button", name="Hang up")).to_be_focused()
    keyboard.press("Tab")
    mute = caller.page.get_by_role("button", name="Mute")
    expect(mute).to_be_focused()
    keyboard.press("Enter")
    expect(mute).to_have_attribute("aria-pressed", "true")
    caller.until("() => seen.captured.length > 0")
    caller.speak("this is heard by nobody")
    caller.page.get_by_role("textbox", name="Type instead of speaking").focus()
    keyboard.type(STORY)
    keyboard.press("Enter")
    assert STORY in caller.reads("you", STORY)
    caller.activity("speaking")
    keyboard.press("Escape")
    assert "interrupted at" in caller.reads("voice", "interrupted at")
    caller.state("talking")
    caller.until("() => seen.captured.length > 100")
    assert caller.see("seen.captured.every(({ level }) => level === 0)")
    mute.focus()
    keyboard.press("Escape")
    caller.state("ended")
    expect(caller.page.get_by_role("button", name="Call again")).to_be_focused()
    assert_no_fault(caller)


def test_a_key_that_is_held_down_counts_once(server: PoolServer, visit: Visit) -> None:
    """The operating system presses it again and again."""
    caller = visit(server, MICROPHONE)
    keyboard = caller.page.keyboard
    caller.page.get_by_role("button", name="Start talking").focus()
    for _ in range(4):  # an even number, which would end with hanging up
        keyboard.down("Enter")
    keyboard.up("Enter")
    caller.state("talking")
    assert len(caller.see("seen.urls")) == 1
    say = caller.page.get_by_role("textbox", name="Type instead of speaking")
    say.fill(STORY)
    say.press("Enter")
    caller.activity("speaking")
    for _ in range(2):
        keyboard.down("Escape")
    keyboard.up("Escape")
    caller.reads("voice", "interrupted at")
    caller.state("talking")


def test_who_types_while_a_reply_is_spoken_is_answered_next(
    server: PoolServer, visit: Visit
) -> None:
    caller = visit(server, MICROPHONE)
    say = caller.page.get_by_role("textbox", name="Type instead of speaking")
    say.fill(STORY)
    say.press("Enter")
    caller.activity("speaking")
    say.fill("what time is it")
    say.press("Enter")
    assert "interrupted at" in caller.reads("voice", "interrupted at")
    assert "It is" in caller.reads("voice", "It is")
    assert_no_fault(caller)
    # No microphone was asked for, so there is none to mute.
    assert caller.see("window.constraints") is None
    expect(caller.page.get_by_role("button", name="Mute")).to_be_hidden()


def test_over_tls(start_pool: Start, visit: Visit, tmp_path: Path) -> None:
    server = start_pool(**SPEECH, **Authority(tmp_path).issue().settings)
    caller = visit(server, MICROPHONE, ignore_https_errors=True)
    caller.page.get_by_role("button", name="Start talking").click()
    caller.state("talking")
    assert caller.see("seen.urls")[0][0].startswith("wss://")
    caller.speak("what time is it")
    assert "It is" in caller.reads("voice", "It is")


def assert_no_fault(caller: Caller) -> None:
    """The server had nothing to complain of, but that a reply was just whole when it was cut off:
    its end and the request to cancel it may cross."""
    codes = {event["error"]["code"] for event in caller.received("error")}
    assert codes <= {"response_cancel_not_active"}


SUSPENDING = """
(() => {
  const resume = AudioContext.prototype.resume;
  window.allowed = true;
  AudioContext.prototype.resume = function () {
    window.context = this;
    return allowed ? resume.call(this) : Promise.reject(new DOMException("", "InvalidStateError"));
  };
})();
"""
"""A device that may stop the sound, as a telephone does for another call."""


def test_sound_that_the_device_has_stopped_goes_on(server: PoolServer, visit: Visit) -> None:
    wait_in_line(server)
    caller = visit(server, MICROPHONE, SUSPENDING)
    caller.page.get_by_role("button", name="Start talking").click()
    caller.state("talking")
    caller.see("context.suspend()")
    caller.until("() => context.state === 'running'")
    caller.see("allowed = false; context.suspend()")
    caller.notice("This device has stopped the sound")
    caller.see("allowed = true")
    caller.page.locator("h1").click()
    caller.until("() => context.state === 'running'")
    expect(caller.page.locator("#notice")).to_be_empty()
    caller.speak("hello there computer")
    assert "hello there computer" in caller.reads("you", "hello there computer")
    caller.reads("voice", "after ")


# --- what can go wrong -----------------------------------------------------------------------


def test_a_full_server_lets_the_caller_wait_for_a_line(guarded: PoolServer, visit: Visit) -> None:
    wait_in_line_with_key(guarded)
    authorization = {"Authorization": f"Bearer {KEY}"}
    with guarded.call(CALL_PATH, additional_headers=authorization):
        caller = visit(guarded, MICROPHONE)
        caller.give_key(KEY)
        caller.page.get_by_text("1 in a call").wait_for()
        caller.page.get_by_role("button", name="Start talking").click()
        assert "Next try in" in caller.notice("All lines are busy")
        caller.state("waiting")
        assert caller.see("seen.urls") == []
    caller.complaints.clear()  # the browser logs each 503 of /readyz
    caller.state("talking")
    expect(caller.page.locator("#notice")).to_be_empty()
    assert caller.see("seen.urls")[-1][1] == ["realtime", f"openai-insecure-api-key.{KEY}"]
    assert caller.see("socket.protocol") == "realtime"
    caller.complaints.clear()


def test_the_pool_is_drawn(server: PoolServer, visit: Visit) -> None:
    """A dot for each worker and for whoever waits for one, of shapes of their own."""
    wait_in_line(server)
    with server.call(CALL_PATH), server.socket() as waiting:
        waiting.sendall(upgrade(CALL_PATH.encode()))
        server.until_status(lambda s: s["pool"]["waiting"] == 1, "holds a caller")
        caller = visit(server)
        dots = caller.page.locator("#dots .dot")
        expect(dots).to_have_count(2)
        shapes = dict(map(shape, dots.all()))
        assert shapes.keys() == {"busy", "waiting"}
    wait_in_line(server)
    caller.page.reload()
    expect(dots).to_have_count(1)
    shapes |= [shape(dots)]
    assert shapes.keys() == {"busy", "waiting", "warm"}
    assert len(set(shapes.values())) == 3


def shape(dot: Locator) -> tuple[str, str]:
    """Of which kind a dot is, and its outline."""
    outline = "style => [style.borderRadius, style.borderStyle, style.transform].join()"
    drawn: str = dot.evaluate(f"dot => ({outline})(getComputedStyle(dot))")
    return str(dot.get_attribute("class")).removeprefix("dot "), drawn


def test_a_server_that_is_still_starting(
    start_pool: Start, visit: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLE", str(tmp_path / "preloading"))
    server = start_pool(wait=False, app="tests.apps.troubled:HangsInPreload")
    server.stage("preloading")
    caller = visit(server, MICROPHONE)
    caller.page.get_by_role("button", name="Start talking").click()
    assert "Next try in" in caller.notice("The server is starting")
    assert caller.see("seen.urls") == []
    caller.complaints.clear()  # the browser logs each 503 of /readyz


def test_a_server_that_asks_for_a_key(guarded: PoolServer, visit: Visit) -> None:
    caller = visit(guarded, MICROPHONE)
    expect(caller.page.get_by_label("This server asks for an API key")).to_be_focused()
    talk = caller.page.get_by_role("button", name="Start talking")
    talk.click()
    caller.notice("Give the server's key first")
    caller.state("ended")
    for unsendable in ("not the right one", "\u043a\u043b\u044e\u0447"):
        caller.give_key(unsendable)
        caller.notice("Browsers can send only keys of letters")
        assert caller.see("sessionStorage.length") == 0
    caller.give_key("not-the-right-one")
    caller.notice("does not know this key")
    caller.give_key(KEY)
    expect(caller.page.locator("#key-form")).to_be_hidden()
    expect(caller.page.locator("#talk")).to_be_focused()
    assert caller.see("Object.values(sessionStorage)") == [KEY]
    assert caller.see("Object.values(localStorage)") == []
    assert caller.see("document.cookie") == ""
    assert KEY not in caller.page.url
    caller.page.reload()
    caller.page.get_by_text("in a call").wait_for()
    expect(caller.page.locator("#key-form")).to_be_hidden()
    caller.complaints.clear()  # the browser logs each 401


def test_a_client_secret_in_a_keys_place(guarded: PoolServer, visit: Visit) -> None:
    wait_in_line_with_key(guarded)
    _, made = guarded.get(f"{CALL_PATH}/client_secrets", "POST", Authorization=f"Bearer {KEY}")
    caller = visit(guarded, MICROPHONE)
    caller.give_key(made["value"])
    caller.page.get_by_text("in a call").wait_for()
    caller.page.get_by_role("button", name="Start talking").click()
    caller.state("talking")
    caller.complaints.clear()  # the browser logs the 401


def test_a_key_that_runs_out_under_the_hands_of_who_types(
    guarded: PoolServer, visit: Visit
) -> None:
    """What they type next would be in the field for the key, and be sent as one."""
    wait_in_line_with_key(guarded)
    caller = visit(guarded, MICROPHONE)
    caller.give_key(KEY)
    caller.page.get_by_text("in a call").wait_for()
    caller.page.get_by_role("button", name="Start talking").click()
    caller.state("talking")
    say = caller.page.get_by_role("textbox", name="Type instead of speaking")
    say.focus()
    caller.page.keyboard.type("what time ")
    caller.page.route("**/status", lambda route: route.fulfill(status=401, body="{}"))
    caller.notice("or it has expired")
    caller.page.locator("#key-form").wait_for()
    caller.page.keyboard.type("is it")
    expect(say).to_have_value("what time is it")
    caller.complaints.clear()  # the browser logs each 401


def wait_in_line_with_key(server: PoolServer) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    server.until(
        lambda: server.get("/status", **headers)[1]["pool"]["states"]["idle"], "had an idle worker"
    )


def test_who_refuses_the_microphone_can_type(server: PoolServer, visit: Visit) -> None:
    caller = visit(server, permissions=[])
    session = caller.page.context.new_cdp_session(caller.page)
    permission = {"permission": {"name": "microphone"}, "setting": "denied"}
    session.send("Browser.setPermission", permission)
    caller.page.get_by_role("button", name="Start talking").click()
    caller.notice("does not let this page use the microphone")
    caller.state("ended")
    expect(caller.page.get_by_role("alert")).to_be_visible()
    say = caller.page.get_by_role("textbox", name="Type instead of speaking")
    say.fill("what time is it")
    say.press("Enter")
    assert "It is" in caller.reads("voice", "It is")
    caller.activity("speaking")


@pytest.mark.parametrize(
    ("error", "notice"),
    [("NotFoundError", "No microphone was found"), ("NotReadableError", "cannot be used")],
)
def test_no_microphone(server: PoolServer, visit: Visit, error: str, notice: str) -> None:
    script = (
        "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', '%s') }"
    )
    caller = visit(server, script % error)
    caller.page.get_by_role("button", name="Start talking").click()
    caller.notice(notice)
    expect(caller.page.get_by_role("button", name="Call again")).to_be_focused()


def test_a_call_that_is_cancelled_gives_the_microphone_back(
    server: PoolServer, visit: Visit
) -> None:
    """Though the browser gives it only afterwards: it asks the user, who takes their time."""
    script = """
      const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
      navigator.mediaDevices.getUserMedia = async (constraints) => {
        await new Promise((resolve) => (window.allow = resolve));
        return (window.stream = await real(constraints));
      };
    """
    caller = visit(server, script)
    caller.page.get_by_role("button", name="Start talking").click()
    caller.until("() => window.allow")
    caller.page.get_by_role("button", name="Cancel").click()
    caller.state("ended")
    caller.see("allow()")
    caller.until("() => window.stream?.getTracks().every((track) => track.readyState === 'ended')")
    assert caller.see("seen.urls") == []


def test_a_page_that_came_without_https_from_elsewhere(guarded: PoolServer, visit: Visit) -> None:
    caller = visit(guarded, host="voicepool.example")
    caller.page.get_by_role("button", name="Start talking").click()
    caller.notice("Open this page over https")
    caller.complaints.clear()  # 401


def test_a_worker_that_dies_ends_the_call_and_the_next_one_works(
    start_pool: Start, visit: Visit
) -> None:
    server = start_pool(**SPEECH)
    caller = visit(server, MICROPHONE)
    caller.page.get_by_role("button", name="Start talking").click()
    caller.state("talking")
    (worker,) = server.until(lambda: server.workers("serving"), "served")
    os.kill(worker["pid"], signal.SIGKILL)
    caller.notice("The connection broke")
    caller.page.get_by_role("button", name="Call again").click()
    caller.state("talking")
    server.signal(signal.SIGTERM)
    caller.notice("The server has ended the call")
    server.wait()
    caller.page.get_by_text("the server does not answer").wait_for()
    caller.page.get_by_role("button", name="Call again").click()
    caller.notice("The server does not answer.")
    caller.state("ended")
    caller.complaints.clear()  # nobody answers


def test_a_server_that_refuses_though_it_has_lines(server: PoolServer, visit: Visit) -> None:
    """As behind a proxy that passes on no upgrades, or from an address that has asked too often and
    gets no status any more: no wait for a line would end."""
    script = """
      const Real = WebSocket;
      window.WebSocket = class extends Real {
        constructor(url, protocols) {
          super(String(url).replace("realtime", "elsewhere"), protocols);
        }
      };
    """
    wait_in_line(server)
    caller = visit(server, MICROPHONE, script)
    statuses = iter(["has lines"])

    def answer(route: Route) -> None:
        if next(statuses, ""):
            route.continue_()
        else:
            route.fulfill(status=429, body="{}")

    caller.page.route("**/status", answer)
    caller.page.get_by_role("button", name="Start talking").click()
    caller.notice("and yet refuses the call")
    caller.state("ended")
    caller.complaints.clear()  # the browser logs each 404


def test_what_the_audio_thread_tells_after_the_end_is_not_shown(
    server: PoolServer, visit: Visit
) -> None:
    """It hears of the end later, and nothing would ever take the last level back."""
    script = """
      window.ports = [];
      const Real = AudioWorkletNode;
      window.AudioWorkletNode = class extends Real {
        constructor(...given) {
          super(...given);
          ports.push(this.port);
        }
      };
    """
    caller = visit(server, script, MICROPHONE)
    caller.page.get_by_role("button", name="Start talking").click()
    caller.state("talking")
    caller.page.get_by_role("button", name="Hang up").click()
    caller.state("ended")
    shown = caller.see(
        """async () => {
          const data = { level: 0.5 };
          for (const port of ports) port.dispatchEvent(new MessageEvent("message", { data }));
          await new Promise(requestAnimationFrame);
          return document.querySelector("#call").style.getPropertyValue("--loud");
        }"""
    )
    assert float(shown) == 0


def test_scripts_that_do_not_come(server: PoolServer, visit: Visit) -> None:
    caller = visit(server)
    unloaded = caller.page.locator("#unloaded")
    expect(unloaded).to_have_count(0)
    caller.page.route("**/main.js", lambda route: route.abort())
    caller.page.reload()
    expect(unloaded).to_be_hidden()
    caller.see("document.querySelector('#unloaded').getAnimations()[0].finish()")
    expect(unloaded).to_be_visible()
    caller.complaints.clear()  # the script


# --- for everybody ---------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_bars_those_who_see_hear_or_move_differently(
    server: PoolServer, visit: Visit, scheme: str
) -> None:
    """By axe-core's rules, contrast included, before, during and after a call."""
    wait_in_line(server)
    caller = visit(server, MICROPHONE, color_scheme=scheme)
    caller.page.get_by_text("in a call").wait_for()
    assert violations(caller.page) == []
    caller.page.get_by_role("button", name="Start talking").click()
    caller.state("talking")
    caller.speak(STORY)
    caller.activity("speaking")
    assert violations(caller.page) == []
    caller.page.get_by_role("button", name="Hang up").click()
    caller.reads("voice")
    assert violations(caller.page) == []
    background = caller.see("getComputedStyle(document.body).backgroundColor")
    lightness = sum(int(part) for part in background.strip("rgb()").split(",")) / 3
    assert (lightness > 128) == (scheme == "light")


def test_the_form_for_the_key_bars_nobody(guarded: PoolServer, visit: Visit) -> None:
    caller = visit(guarded)
    caller.page.locator("#key-form").wait_for()
    assert violations(caller.page) == []
    caller.complaints.clear()  # 401


def violations(page: Page) -> list[str]:
    """What axe-core finds, a line each."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then(({ violations }) => violations)")
    return [f"{rule['id']}: {node['html']}" for rule in found for node in rule["nodes"]]


def test_what_screen_readers_are_told(server: PoolServer, visit: Visit) -> None:
    caller = visit(server, MICROPHONE)
    log = caller.page.get_by_role("log", name="Conversation")
    expect(log).to_have_attribute("aria-live", "polite")
    caller.page.get_by_role("checkbox", name="Announce").uncheck()
    expect(log).to_have_attribute("aria-live", "off")
    # What still grows is kept from them until it is whole.
    caller.see(
        """() => {
          window.early = [];
          new MutationObserver(() => {
            for (const entry of document.querySelectorAll(".entry:not(.final)")) {
              early.push(entry.getAttribute("aria-hidden"));
            }
          }).observe(document.querySelector("#log"), { childList: true, subtree: true });
        }"""
    )
    caller.page.get_by_role("button", name="Start talking").click()
    caller.state("talking")
    meter = caller.page.get_by_role("meter", name="Microphone level")
    expect(meter).to_be_visible()
    expect(meter).to_have_attribute("aria-valuenow", "0")
    caller.speak("hello there computer")
    caller.until("() => document.querySelector('#level').ariaValueNow > 30")
    caller.reads("voice")
    assert set(caller.see("early")) == {"true"}
    for entry in caller.page.locator(".entry").all():
        expect(entry).not_to_have_attribute("aria-hidden", "true")
    told = caller.page.locator("#told")
    expect(told).to_have_role("status")
    expect(told).to_have_text("Connected.")
    caller.page.get_by_role("button", name="Hang up").click()
    expect(told).to_have_text("The call is over.")


def test_nothing_is_told_twice(server: PoolServer, visit: Visit) -> None:
    """Though a line changes after it is whole: what was heard of it, and how fast it came."""
    caller = visit(server, MICROPHONE)
    caller.see(
        """() => {
          window.told = [];
          new MutationObserver((changes) => {
            for (const node of changes.flatMap(({ addedNodes }) => [...addedNodes])) {
              const inside = node.parentElement?.closest(".entry.final");
              if (inside && node.textContent.includes("It is")) told.push(node.textContent);
            }
          }).observe(document.querySelector("#log"), { childList: true, subtree: true });
        }"""
    )
    say = caller.page.get_by_role("textbox", name="Type instead of speaking")
    say.fill("what time is it")
    say.press("Enter")
    # Some of it has to be heard first, so that words are left.
    caller.reads("voice")
    caller.until("() => seen.played.filter(({ level }) => level > 0).length > 20")
    caller.page.keyboard.press("Escape")
    caller.reads("voice", "interrupted at")
    told = caller.see("told")
    assert told
    assert len(told) == len(set(told))


def test_what_goes_wrong_is_told_to_whoever_wants_no_transcripts_read_out(
    server: PoolServer, visit: Visit
) -> None:
    caller = visit(server)
    caller.page.get_by_role("checkbox", name="Announce").uncheck()
    caller.page.get_by_role("button", name="Start talking").click()
    caller.state("talking")
    caller.see("seen.tracks[0].dispatchEvent(new Event('ended'))")
    expect(caller.page.get_by_role("alert").filter(has_text="microphone is gone")).to_be_visible()


def test_a_long_conversation_is_followed_and_short_of_its_beginning(
    server: PoolServer, visit: Visit
) -> None:
    caller = visit(server)
    caller.page.get_by_role("button", name="Start talking").click()
    caller.state("talking")
    caller.see(
        """async () => {
          const write = (id) => {
            const content = [{ type: "input_text", text: `line ${id}` }];
            const item = { id, role: "user", content };
            const data = JSON.stringify({ type: "conversation.item.added", item });
            socket.dispatchEvent(new MessageEvent("message", { data }));
          };
          for (let i = 0; i < 200; i++) write(`old-${i}`);
          for (let i = 0; i < 4; i++) {
            await new Promise(requestAnimationFrame);
            write(`new-${i}`);
          }
        }"""
    )
    expect(caller.page.get_by_text("line new-3")).to_be_in_viewport()
    expect(caller.page.get_by_text("line old-3", exact=True)).to_have_count(0)
    # Whoever reads what was said before is left there.
    caller.see("document.querySelector('#log').scrollTop -= 500")
    read = caller.page.get_by_text("line old-190")
    expect(read).to_be_in_viewport()
    say = caller.page.get_by_role("textbox", name="Type instead of speaking")
    say.fill("what time is it")
    say.press("Enter")
    caller.reads("voice", "It is")
    expect(read).to_be_in_viewport()


def test_what_is_written_from_right_to_left(server: PoolServer, visit: Visit) -> None:
    caller = visit(server)
    say = caller.page.get_by_role("textbox", name="Type instead of speaking")
    for text, direction in (("\u05e9\u05dc\u05d5\u05dd!", "rtl"), ("hello!", "ltr")):
        say.fill(text)
        expect(say).to_have_css("direction", direction)
        say.press("Enter")
        caller.reads("you", text)
        line = caller.page.locator(".entry.you p").filter(has_text=text)
        expect(line).to_have_css("direction", direction)


def test_narrow_screens_and_eyes_that_want_no_motion(server: PoolServer, visit: Visit) -> None:
    size = {"width": 320, "height": 480}
    caller = visit(server, viewport=size, reduced_motion="reduce")
    assert caller.see("document.documentElement.scrollWidth") <= 320
    caller.page.get_by_role("textbox", name="Type instead of speaking").scroll_into_view_if_needed()
    ring = "getComputedStyle(document.querySelector('#talk'), '::before')"
    caller.see("document.querySelector('#call').dataset.state = 'waiting'")
    assert caller.see(f"{ring}.animationName") == "none"
    assert caller.see(f"{ring}.transform") == "none"
