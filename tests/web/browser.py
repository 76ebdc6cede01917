"""A real Chromium without a window, and a caller in it whose words the test chooses.

What the page's scripts do is watched from outside, by wrapping the browser's own WebSocket,
AudioWorkletNode and getUserMedia before the page loads; the page itself has no door for tests.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import wave
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import soxr
from playwright.sync_api import Page, expect

from tests.pools import DEADLINE
from tests.speech import say, silence
from voicepool.engines.base import INPUT_RATE, Samples

PATIENCE = DEADLINE * 1000
"""Milliseconds, for Playwright."""
RATE = 48_000
"""Of the sounds that the browser gets, in samples per second."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
)


def chromium() -> str:
    """The path of a browser: CHROMIUM, or the first there is.

    Where there is none the test is skipped, or fails where CI is set: there nothing may be missing.
    """
    named = os.environ.get("CHROMIUM")
    names = (named,) if named else NAMES
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        reason = f"needs one of {', '.join(names)}; CHROMIUM=/path/to/it names another"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def spoken(*phrases: str, before: float = 0.2, between: float = 0.9, after: float = 0.8) -> Samples:
    """The phrases, with seconds of silence around and between them, at INPUT_RATE."""
    parts = [piece for phrase in phrases for piece in (silence(between), say(phrase))][1:]
    return np.concatenate([silence(before), *parts, silence(after)])


def wav(sound: Samples) -> bytes:
    """The sound as a WAV file at RATE."""
    pcm = np.rint(np.clip(soxr.resample(sound, INPUT_RATE, RATE), -1, 1) * 32767).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes(pcm.tobytes())
    return file.getvalue()


WATCH = """
(() => {
  const seen = { sent: [], received: [], played: [], captured: [], urls: [], tracks: [] };
  window.seen = seen;
  const RealSocket = WebSocket;
  window.WebSocket = class extends RealSocket {
    constructor(url, protocols) {
      super(url, protocols);
      seen.urls.push([String(url), protocols]);
      window.socket = this;
      this.addEventListener("message", ({ data }) => {
        seen.received.push(JSON.parse(data));
      });
    }
    send(text) {
      seen.sent.push(JSON.parse(text));
      super.send(text);
    }
  };
  seen.soundOf = (id) => {
    const deltas = seen.received
      .filter(({ type, item_id }) => type === "response.output_audio.delta" && item_id === id)
      .map(({ delta }) => atob(delta));
    const bytes = deltas.join("");
    return { samples: bytes.length / 2, silent: !/[^\\0]/.test(bytes) };
  };
  const connect = AudioContext.prototype.createMediaStreamSource;
  AudioContext.prototype.createMediaStreamSource = function (stream) {
    seen.tracks.push(...stream.getAudioTracks());
    return connect.call(this, stream);
  };
  const RealNode = AudioWorkletNode;
  window.AudioWorkletNode = class extends RealNode {
    constructor(context, name, options) {
      super(context, name, options);
      seen.rate = context.sampleRate;
      this.port.addEventListener("message", ({ data }) => {
        (name.endsWith("playback") ? seen.played : seen.captured).push(data);
      });
    }
  };
})();
"""
"""Keeps what goes over the WebSocket, and what the worklets tell."""

MICROPHONE = """
(() => {
  let context, into;
  navigator.mediaDevices.getUserMedia = async (constraints) => {
    window.constraints = constraints;
    context = new AudioContext();
    into = context.createMediaStreamDestination();
    return into.stream;
  };
  window.speak = async (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const source = context.createBufferSource();
    source.buffer = await context.decodeAudioData(bytes.buffer);
    source.connect(into);
    source.start();
  };
})();
"""
"""A microphone into which the test speaks when it likes."""

RATE_OF_DEVICE = """
(() => {
  const Real = AudioContext;
  window.AudioContext = class extends Real {
    constructor(options) {
      super({ ...options, sampleRate: %d });
    }
  };
})();
"""
"""A sound device of that sample rate."""


class Caller:
    """Somebody with the page before them."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)  # its own is five seconds
        self.complaints: list[str] = []
        """What the browser's console says is wrong; a test that expects some clears it."""
        self.strangers: list[str] = []
        """What was asked of any other host than the page's own."""
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._on_console)
        page.on("request", lambda request: self._on_request(request.url))

    def _on_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _on_request(self, url: str) -> None:
        own = urlsplit(self.page.url).netloc
        if own and urlsplit(url).netloc != own:
            self.strangers.append(url)

    def give_key(self, key: str) -> None:
        """Type it where the page asks for it."""
        self.page.get_by_label("This server asks for an API key").fill(key)
        self.page.get_by_role("button", name="Use key").click()

    def speak(self, *phrases: str) -> None:
        """Into the microphone, with pauses between the phrases; returns when it has begun."""
        self.page.evaluate("text => speak(text)", base64.b64encode(wav(spoken(*phrases))).decode())

    def until(self, expression: str, argument: Any = None) -> Any:
        """Wait until this JavaScript is true; its value."""
        return self.page.wait_for_function(expression, arg=argument, timeout=PATIENCE).json_value()

    def see(self, what: str, argument: Any = None) -> Any:
        """The value of this JavaScript."""
        return self.page.evaluate(what, argument)

    def sent(self, kind: str) -> list[dict[str, Any]]:
        """The client events of that type so far."""
        return [event for event in self.see("seen.sent") if event["type"] == kind]

    def received(self, kind: str) -> list[dict[str, Any]]:
        """The server events of that type so far."""
        return [event for event in self.see("seen.received") if event["type"] == kind]

    def state(self, name: str) -> None:
        """Wait until the page says that the call is so."""
        self.until("name => document.querySelector('#call').dataset.state === name", name)

    def activity(self, name: str) -> None:
        """Wait until the page says that the call does that."""
        self.until("name => document.querySelector('#call').dataset.activity === name", name)

    def reads(self, side: str, text: str = "") -> str:
        """Wait until there is a finished line of that side with this text; the whole line."""
        line = self.page.locator(f".entry.{side}.final").filter(has_text=text)
        line.first.wait_for()
        return line.first.inner_text()

    def notice(self, text: str) -> str:
        """Wait until the page tells this; all that it tells."""
        notice = self.page.locator("#notice").filter(has_text=text)
        notice.wait_for()
        return notice.inner_text()
