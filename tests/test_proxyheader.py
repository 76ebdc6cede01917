"""PROXY headers: whose connection it is, where the header ends, and what is none."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proxying import (
    LOCAL,
    SIGNATURE,
    TCP4,
    TCP6,
    UDP4,
    UDP6,
    UNIX,
    UNIX_DGRAM,
    UNSPEC,
    addresses,
    binary,
    header,
    line,
    tlv,
)
from voicepool.proxyheader import MAX_HEADER, MAX_LINE, BadHeader, ProxyHeader, parse_header

HOSTS = st.ip_addresses().map(str)
PORTS = st.integers(0, 65535)
FOUR = addresses("203.0.113.9", 4321)
SIX = addresses("2001:db8::9", 4321)
REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
WIDEST = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"


def parsed(data: bytes) -> ProxyHeader:
    found = parse_header(data)
    assert found is not None
    return found


# --- every header says who it is, and how long it is -------------------------------------------


@given(st.sampled_from([1, 2]), HOSTS, PORTS, st.binary(max_size=40))
def test_client_and_end_of_every_header_whatever_follows(
    version: int, host: str, port: int, after: bytes
) -> None:
    sent = header(version, host, port)
    assert parsed(sent + after) == ProxyHeader(len(sent), (host, port))


@given(st.sampled_from([1, 2]), HOSTS, st.data())
def test_no_beginning_of_a_header_is_one_nor_wrong(
    version: int, host: str, data: st.DataObject
) -> None:
    sent = header(version, host)
    assert parse_header(sent[: data.draw(st.integers(0, len(sent) - 1))]) is None


def test_longest_line_is_taken_and_a_longer_one_is_not() -> None:
    longest = f"PROXY UNKNOWN {WIDEST} {WIDEST} 65535 65535\r\n".encode()
    assert len(longest) == MAX_LINE
    assert parsed(longest) == ProxyHeader(MAX_LINE, None)
    with pytest.raises(BadHeader, match="does not end"):
        parse_header(longest.replace(b"\r\n", b"5\r\n"))
    assert parse_header(longest[:-2]) is None
    assert parse_header(longest[:-1]) is None
    assert parsed(line(WIDEST, 65535, WIDEST)).source == (WIDEST, 65535)


@pytest.mark.parametrize(
    "sent",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN \xff\0 any\nthing at all\r\n",
        binary(UNSPEC),
        binary(UNSPEC, b"whatever it is"),
        binary(TCP4 & 0xF0, FOUR),
        binary(UDP4, FOUR),
        binary(UDP6, SIX),
        binary(UNIX, bytes(216)),
        binary(UNIX_DGRAM, bytes(216)),
        binary(UNSPEC, command=LOCAL),
        binary(TCP4, FOUR, command=LOCAL),
        binary(TCP4, command=LOCAL),
        binary(0x77, b"no such family", command=LOCAL),
    ],
)
def test_whose_client_is_unknown_or_the_proxy_itself(sent: bytes) -> None:
    assert parsed(sent + REQUEST) == ProxyHeader(len(sent), None)


def test_what_follows_the_addresses_is_skipped() -> None:
    extras = (
        tlv(0x02, b"voice.example.org") + tlv(0x03, b"\0\1\2\3") + tlv(0x04, bytes(600)) + b"\x01"
    )
    for block, kind in ((FOUR, TCP4), (SIX, TCP6)):
        sent = binary(kind, block, tlvs=extras)
        assert parsed(sent + REQUEST).length == len(sent)
        assert parsed(sent + REQUEST).source is not None


def test_an_address_that_is_ipv4_in_ipv6_is_taken() -> None:
    mapped = parsed(line("::ffff:192.0.2.7", 1)).source
    assert mapped is not None
    assert ipaddress.IPv6Address(mapped[0]).ipv4_mapped == ipaddress.IPv4Address("192.0.2.7")


# --- what is none is said to be none as soon as it can be told ---------------------------------


@pytest.mark.parametrize(
    "data",
    [
        REQUEST,
        b"G",
        b"PUT / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"\r\n\r\n\0\r\nQUIT\r",
        b"\0",
        b"proxy ",
        b"PROXY\t",
        b"PROXY\r\n",
    ],
)
def test_other_protocols(data: bytes) -> None:
    with pytest.raises(BadHeader, match="does not begin"):
        parse_header(data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "TCP4",
        "TCP4 192.0.2.1 192.0.2.2 1",
        "TCP4 192.0.2.1 192.0.2.2 1 2 3",
        "TCP4  192.0.2.1 192.0.2.2 1 2",
        "TCP4 192.0.2.1 192.0.2.2 1 2 ",
        "TCP5 192.0.2.1 192.0.2.2 1 2",
        "tcp4 192.0.2.1 192.0.2.2 1 2",
        "TCP4 192.0.2.01 192.0.2.2 1 2",
        "TCP4 192.0.2.256 192.0.2.2 1 2",
        "TCP4 192.0.2 192.0.2.2 1 2",
        "TCP4 2001:db8::1 2001:db8::2 1 2",
        "TCP6 192.0.2.1 192.0.2.2 1 2",
        "TCP6 2001:db8::1 fe80::1%eth0 1 2",
        "TCP6 2001:db8:::1 2001:db8::2 1 2",
        "TCP4 192.0.2.1 192.0.2.2 01 2",
        "TCP4 192.0.2.1 192.0.2.2 +1 2",
        "TCP4 192.0.2.1 192.0.2.2 1 65536",
        "TCP4 192.0.2.1 192.0.2.2 1 ٣",
        "TCP4 192.0.2.1 192.0.2.2 1 2\n",
        "TCP4 192.0.2.1\t192.0.2.2 1 2",
        "TCP4 localhost 192.0.2.2 1 2",
        "UNKNOWNS",
    ],
)
def test_lines_that_are_no_header(text: str) -> None:
    with pytest.raises(BadHeader):
        parse_header(b"PROXY " + text.encode() + b"\r\n")


def test_a_line_ends_with_both_characters() -> None:
    for end in (b"\n", b"\r", b"\n\r"):
        assert parse_header(line("192.0.2.1", 1)[:-2] + end) is None


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (binary(TCP4, FOUR, command=0x11), "version"),
        (binary(TCP4, FOUR, command=0x31), "version"),
        (binary(TCP4, FOUR, command=0x22), "command"),
        (binary(0x41, FOUR), "family"),
        (binary(0x13, FOUR), "family"),
        (binary(TCP4, FOUR[:11]), "11 bytes"),
        (binary(TCP6, FOUR), "12 bytes"),
        (binary(UNIX, bytes(215)), "215 bytes"),
        (binary(UDP6, FOUR), "12 bytes"),
        (binary(TCP4), "0 bytes"),
    ],
)
def test_binary_headers_that_are_wrong(sent: bytes, why: str) -> None:
    with pytest.raises(BadHeader, match=why):
        parse_header(sent)
    with pytest.raises(BadHeader, match=why):
        parse_header(sent[:16])  # the rest is not waited for


def test_longest_binary_header() -> None:
    room = MAX_HEADER - 16 - len(FOUR)
    sent = binary(TCP4, FOUR, tlvs=bytes(room))
    assert parsed(sent).length == MAX_HEADER
    assert parse_header(sent[:-1]) is None
    with pytest.raises(BadHeader, match=f"at most {MAX_HEADER}"):
        parse_header(binary(TCP4, FOUR, tlvs=bytes(room + 1))[:16])
    with pytest.raises(BadHeader, match="65551"):
        parse_header(SIGNATURE + b"\x20\x00\xff\xff")


@given(
    st.one_of(
        st.binary(max_size=120),
        st.binary(max_size=60).map(lambda rest: SIGNATURE + rest),
        st.binary(max_size=60).map(lambda rest: b"PROXY " + rest + b"\r\n"),
        st.text("PROXYTCPUNKW46 .:0123456789abf\r\n", max_size=110).map(lambda s: s.encode()),
    )
)
def test_any_bytes_are_a_header_of_theirs_or_none(data: bytes) -> None:
    try:
        found = parse_header(data)
    except BadHeader:
        return
    if found is not None:
        assert 0 < found.length <= len(data)
        assert parse_header(data[: found.length]) == found
        assert parse_header(data[: found.length - 1]) is None
        if found.source:
            ipaddress.ip_address(found.source[0])
