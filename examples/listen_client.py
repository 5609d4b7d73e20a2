"""Send a recording to ifmmin-serve as if it were spoken now, and print what comes back.

ifmmin-serve &
pip install websockets soundfile
python listen_client.py clip.wav ws://127.0.0.1:8000/v1/listen
"""

import asyncio
import json
import sys

import soundfile
import websockets


async def main(path: str, url: str) -> None:
    samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
    async with websockets.connect(url) as server:
        print("classes:", ", ".join(json.loads(await server.recv())["labels"]))
        await server.send(json.dumps({"type": "start", "rate": rate, "channels": samples.shape[1]}))

        async def speak() -> None:
            for first in range(0, len(samples), rate // 50):
                await server.send(samples[first : first + rate // 50].tobytes())
                await asyncio.sleep(0.02)
            await server.send(json.dumps({"type": "stop"}))

        speaking = asyncio.create_task(speak())
        async for message in server:
            update = json.loads(message)
            print(f"{update['at']:6.2f} s  {update['label']}  {update.get('probabilities')}")
        await speaking


asyncio.run(main(*sys.argv[1:]))
