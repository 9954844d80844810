"""Drives a replay by PyPI's qemu.qmp: drive.py SOCKET. Prints what it found as one JSON object."""
import asyncio
import contextlib
import json
import sys

from qemu.qmp import EventListener, QMPClient
from qemu.qmp.qmp_client import ExecuteError


async def main(path):
    qmp = QMPClient("test")
    await qmp.connect(path)
    found = {"greeting": qmp.greeting._asdict()["QMP"]["version"]["package"]}
    found["status"] = (await qmp.execute("query-status"))["status"]
    found["mode"] = (await qmp.execute("query-replay"))["mode"]
    with qmp.listener(("STOP", "RESUME")) as listener:
        await qmp.execute("replay-seek", {"icount": 5000})
        found["events"] = [(await asyncio.wait_for(listener.get(), 60))["event"] for _ in range(2)]
    found["icount"] = (await qmp.execute("query-replay"))["icount"]
    try:
        await qmp.execute("no-such-command")
    except ExecuteError as error:
        found["error"] = error.error_class
    found["hmp"] = await qmp.execute("human-monitor-command", {"command-line": "info status"})
    listener = EventListener(("SHUTDOWN",))
    qmp.register_listener(listener)
    await qmp.execute("quit")
    found["end"] = (await asyncio.wait_for(listener.get(), 60))["data"]["reason"]
    # The server has hung up, as it was told to.
    with contextlib.suppress(EOFError):
        await qmp.disconnect()
    print(json.dumps(found))


asyncio.run(main(sys.argv[1]))
