"""The tables that bind the states of `poolspec.py`; docs/states.md is made from them."""

from __future__ import annotations

from collections.abc import Mapping

from voicepool.poolspec import (
    Assign,
    Command,
    ConnectionLost,
    ConnectionState,
    Event,
    Heartbeat,
    Kill,
    ProcessExited,
    Reason,
    Refuse,
    SessionAccepted,
    SessionEnded,
    SpawnFailed,
    Stop,
    WorkerHello,
    WorkerReady,
    WorkerState,
)

WorkerRow = tuple[WorkerState, type[Event] | type[Command]]
ConnectionRow = tuple[ConnectionState, type[Event] | type[Command]]

_W = WorkerState
_C = ConnectionState

WORKER_TABLE: Mapping[WorkerRow, WorkerState] = {
    # the way of a worker that serves; Spawn makes it STARTING
    (_W.STARTING, WorkerHello): _W.WARMING,
    (_W.WARMING, WorkerReady): _W.IDLE,
    (_W.IDLE, Assign): _W.ASSIGNED,
    (_W.ASSIGNED, SessionAccepted): _W.SERVING,
    (_W.SERVING, SessionEnded): _W.RETIRING,
    (_W.RETIRING, ProcessExited): _W.EXITED,
    # told to go. ASSIGNED is not: it may have the caller's socket in its hands without having
    # said so, and its deadline is near.
    (_W.STARTING, Stop): _W.RETIRING,
    (_W.WARMING, Stop): _W.RETIRING,
    (_W.IDLE, Stop): _W.RETIRING,
    (_W.SERVING, Stop): _W.RETIRING,
    # a deadline missed, or too much memory
    (_W.STARTING, Kill): _W.KILLING,
    (_W.WARMING, Kill): _W.KILLING,
    (_W.IDLE, Kill): _W.KILLING,
    (_W.ASSIGNED, Kill): _W.KILLING,
    (_W.SERVING, Kill): _W.KILLING,
    (_W.RETIRING, Kill): _W.KILLING,
    (_W.KILLING, Kill): _W.KILLING,
    # processes die when they like, and there may never have been one
    (_W.STARTING, ProcessExited): _W.EXITED,
    (_W.WARMING, ProcessExited): _W.EXITED,
    (_W.IDLE, ProcessExited): _W.EXITED,
    (_W.ASSIGNED, ProcessExited): _W.EXITED,
    (_W.SERVING, ProcessExited): _W.EXITED,
    (_W.KILLING, ProcessExited): _W.EXITED,
    (_W.EXITED, ProcessExited): _W.EXITED,
    (_W.STARTING, SpawnFailed): _W.EXITED,
    (_W.RETIRING, SpawnFailed): _W.EXITED,
    (_W.KILLING, SpawnFailed): _W.EXITED,
    # measures of one that has loaded at least in part
    (_W.WARMING, Heartbeat): _W.WARMING,
    (_W.IDLE, Heartbeat): _W.IDLE,
    (_W.ASSIGNED, Heartbeat): _W.ASSIGNED,
    (_W.SERVING, Heartbeat): _W.SERVING,
    # news that crossed with the order to go
    (_W.RETIRING, WorkerHello): _W.RETIRING,
    (_W.RETIRING, WorkerReady): _W.RETIRING,
    (_W.RETIRING, Heartbeat): _W.RETIRING,
    (_W.RETIRING, SessionEnded): _W.RETIRING,
    (_W.KILLING, WorkerHello): _W.KILLING,
    (_W.KILLING, WorkerReady): _W.KILLING,
    (_W.KILLING, Heartbeat): _W.KILLING,
    (_W.KILLING, SessionAccepted): _W.KILLING,
    (_W.KILLING, SessionEnded): _W.KILLING,
    (_W.EXITED, WorkerHello): _W.EXITED,
    (_W.EXITED, WorkerReady): _W.EXITED,
    (_W.EXITED, Heartbeat): _W.EXITED,
    (_W.EXITED, SessionEnded): _W.EXITED,
}
"""What an event about a worker, or a command about it, makes of its state. Total: a pair that is
not here is illegal."""

CONNECTION_TABLE: Mapping[ConnectionRow, ConnectionState] = {
    # the way of a caller who is served; ConnectionArrived makes it WAITING
    (_C.WAITING, Assign): _C.OFFERED,
    (_C.OFFERED, SessionAccepted): _C.ACCEPTED,
    (_C.ACCEPTED, SessionEnded): _C.DONE,
    # its worker died: before the acknowledgement somebody else may serve it, after it nobody
    (_C.OFFERED, ProcessExited): _C.WAITING,
    (_C.ACCEPTED, ProcessExited): _C.DONE,
    # refused, or hung up
    (_C.WAITING, Refuse): _C.REFUSED,
    (_C.WAITING, ConnectionLost): _C.GONE,
    (_C.OFFERED, ConnectionLost): _C.GONE,
    # a hang-up that crossed with something final; after the acknowledgement it is the worker's
    (_C.ACCEPTED, ConnectionLost): _C.ACCEPTED,
    (_C.DONE, ConnectionLost): _C.DONE,
    (_C.REFUSED, ConnectionLost): _C.REFUSED,
    (_C.GONE, ConnectionLost): _C.GONE,
}
"""The same for connections. SessionAccepted, SessionEnded and ProcessExited are also about the
connection of their worker: without a row here the first two are illegal, and the last leaves it
alone. A worker that was given a connection can no longer fail to be spawned."""

DEADLINES: Mapping[WorkerState, tuple[str, Reason]] = {
    _W.STARTING: ("hello_timeout", Reason.HELLO_TIMEOUT),
    _W.WARMING: ("warm_up_timeout", Reason.WARM_UP_TIMEOUT),
    _W.IDLE: ("heartbeat_timeout", Reason.HEARTBEAT_TIMEOUT),
    _W.ASSIGNED: ("ack_timeout", Reason.ACK_TIMEOUT),
    _W.SERVING: ("heartbeat_timeout", Reason.HEARTBEAT_TIMEOUT),
    _W.RETIRING: ("stop_timeout", Reason.STOP_TIMEOUT),
    _W.KILLING: ("kill_timeout", Reason.KILL_TIMEOUT),
}
"""The setting that limits each state, and the reason of the Kill when it is over. A heartbeat
renews IDLE and SERVING; the other limits stand."""
