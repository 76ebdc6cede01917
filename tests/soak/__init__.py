"""The soak: a real server under callers who come and go while everything around it breaks.

    plan.py         who calls and what breaks, drawn from a seed; pure
    account.py      what became of every call, and whether the server's books agree; pure
    growth.py       what the server's processes hold in quiet moments, and whether it grows; pure
    report.py       the report; pure
    site.py         what callers and disturbances share: addresses, sounds, who was shot, when
    callers.py      the callers' parts, on rawcallers.py and client.py
    disturber.py    what breaks
    server.py       the server and the stand-in of a model server, each a process
    disk.py         where the log goes: a small file system that fills up
    logbook.py      what is in the log
    run.py          puts it together

`scripts/soak` runs it; docs/soak.md tells how to read what it says.
"""
