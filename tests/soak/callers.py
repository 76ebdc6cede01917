"""The callers' parts, and the one outcome of each call."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from tests.soak import rawcallers
from tests.soak.account import Ended, Outcome
from tests.soak.client import BrokenOff, Client, Event, Refused, Wrong, calling
from tests.soak.plan import MOST_TURNS, Part
from tests.soak.site import STORY, Site

NO_CALLS: Final = (Part.ABSENT, Part.HALF_HEAD, Part.PROBE)
QUESTION: Final = "How is it going?"


async def play(site: Site, part: Part, seed: int) -> Ended:
    """One call, whatever becomes of it."""
    rng = random.Random(seed)
    asked = part not in NO_CALLS
    try:
        return await _PARTS[part](site, rng)
    except Refused as refused:
        return Ended(part, Outcome.REFUSED, asked, detail=refused.reason)
    except BrokenOff as broken:
        shot = site.was_shot(broken.port)
        # Accepted and shot before it could say 101: the server counts it among the accepted.
        opened = broken.opened or shot
        outcome = Outcome.CUT if shot else Outcome.WRONG
        return Ended(part, outcome, asked, opened, f"broken off without a cause: {broken}")
    except Wrong as wrong:
        return Ended(part, Outcome.WRONG, asked, wrong.opened, str(wrong))
    except OSError as error:
        return Ended(part, Outcome.WRONG, False, False, repr(error))


# --- turns -------------------------------------------------------------------------------------


async def _finished(site: Site, client: Client, began: float, since: int) -> Outcome:
    """What became of the turn that began then. Raises as Client.until, and Wrong where there is no
    answer, or a failure without a cause."""
    while True:
        _, done = await client.until("response.done", since=since)
        response = done.response or {}
        if response["status"] != "cancelled":
            break
        # The caller was taken to have gone on speaking: another reply follows.
        since = _after(client, done)
    if response["status"] == "completed":
        return Outcome.ANSWERED
    error = (response.get("status_details") or {}).get("error") or {}
    if error.get("code") != "llm_failed":
        raise Wrong(f"a reply ended as {response['status']}, {response.get('status_details')}")
    if not site.model_away.touched(began, time.monotonic()):
        raise Wrong("the model failed while its server was there")
    await _is_usable(client)
    return Outcome.TOLD


def _after(client: Client, event: Event) -> int:
    """The number of the event after this one."""
    return 1 + next(n for n, (_, other) in enumerate(client.events) if other is event)


async def _is_usable(client: Client) -> None:
    since = len(client.events)
    session = {"type": "realtime", "instructions": "Answer in one sentence."}
    await client.send("session.update", session=session)
    await client.until("session.updated", since=since)


async def _type(site: Site, client: Client) -> Outcome:
    began, since = time.monotonic(), len(client.events)
    await client.type_in(QUESTION)
    return await _finished(site, client, began, since)


async def _speak(site: Site, client: Client, rng: random.Random) -> Outcome:
    began, since = time.monotonic(), len(client.events)
    async with client.microphone(rng.choice(site.sounds)) as ended:
        at, first = await client.until("response.output_audio.delta", "response.done", since=since)
        if first.type == "response.output_audio.delta" and ended.done():
            site.sample(site.waits, ended.result(), at)
        return await _finished(site, client, began, since)


# --- whole calls -------------------------------------------------------------------------------


async def _turns(
    site: Site, part: Part, rng: random.Random, turn: Callable[[Client], Awaitable[Outcome]]
) -> Ended:
    outcome = Outcome.ANSWERED
    async with calling(site) as client:
        for _ in range(rng.randint(1, MOST_TURNS)):
            if await turn(client) is Outcome.TOLD:
                outcome = Outcome.TOLD
    return Ended(part, outcome, asked=True, opened=True)


async def _spoken(site: Site, rng: random.Random) -> Ended:
    return await _turns(site, Part.SPOKEN, rng, lambda client: _speak(site, client, rng))


async def _typed(site: Site, rng: random.Random) -> Ended:
    return await _turns(site, Part.TYPED, rng, lambda client: _type(site, client))


async def _barge_in(site: Site, rng: random.Random) -> Ended:
    """Speaks into a long reply, and is answered."""
    async with calling(site) as client:
        began = time.monotonic()
        await client.type_in(STORY)
        _, first = await client.until("response.output_audio.delta", "response.done", since=0)
        if first.type == "response.done":
            outcome = await _finished(site, client, began, 0)
        else:
            outcome = await _interrupt(site, client, rng)
    return Ended(Part.BARGE_IN, outcome, asked=True, opened=True)


async def _interrupt(site: Site, client: Client, rng: random.Random) -> Outcome:
    began = time.monotonic()
    async with client.microphone(rng.choice(site.sounds)):
        await client.until("input_audio_buffer.speech_started", since=0)
        _, story = await client.until("response.done", since=0)
        assert story.response is not None
        site.interrupted[story.response["status"]] += 1
        return await _finished(site, client, began, _after(client, story))


async def _silent(site: Site, rng: random.Random) -> Ended:
    """Has a worker, and says goodbye without a word."""
    async with calling(site):
        await asyncio.sleep(rng.uniform(0, 2))
    return Ended(Part.SILENT, Outcome.ANSWERED, asked=True, opened=True)


async def _mid_speech(site: Site, rng: random.Random) -> Ended:
    """Is gone while it speaks."""
    async with calling(site) as client:
        async with client.microphone(rng.choice(site.sounds)):
            await asyncio.sleep(rng.uniform(0.1, 1.5))
        client.vanish()
    return Ended(Part.MID_SPEECH, Outcome.HUNG_UP, asked=True, opened=True)


async def _mid_reply(site: Site, rng: random.Random) -> Ended:
    """Is gone while it is being answered."""
    async with calling(site) as client:
        await client.type_in(STORY)
        await client.until("response.output_audio.delta", "response.done", since=0)
        await asyncio.sleep(rng.uniform(0, 1))
        client.vanish()
    return Ended(Part.MID_REPLY, Outcome.HUNG_UP, asked=True, opened=True)


_PARTS: Final[Mapping[Part, Callable[[Site, random.Random], Awaitable[Ended]]]] = {
    Part.SPOKEN: _spoken,
    Part.TYPED: _typed,
    Part.BARGE_IN: _barge_in,
    Part.SILENT: _silent,
    Part.ABSENT: rawcallers.absent,
    Part.HALF_HEAD: rawcallers.half_head,
    Part.IMPATIENT: rawcallers.impatient,
    Part.FLEETING: rawcallers.fleeting,
    Part.MID_SPEECH: _mid_speech,
    Part.MID_REPLY: _mid_reply,
    Part.NEVER_READS: rawcallers.never_reads,
    Part.PROBE: rawcallers.probe,
}
