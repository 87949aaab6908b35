#!/usr/bin/env python3
"""events.tfevents: an event file as TensorBoard's own code writes it. Run it again only to change it:

    python tests/golden/events.py        needs tensorboard (2.21 made it); always the same bytes
"""

import struct
import zlib
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


def png():
    """A black grey-scale pixel pair."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", 2, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0\0")) + chunk(b"IEND", b"")


def scalar(tag, value):
    return Summary.Value(tag=tag, simple_value=value)


image = Summary.Image(height=1, width=2, colorspace=1, encoded_image_string=png())
events = [
    Event(wall_time=1.7e9, file_version="brain.Event:2"),
    Event(wall_time=1.7e9 + 0.5, step=1, summary=Summary(value=[scalar("loss/critic", 0.0), scalar("loss/generator", -2.5)])),
    Event(wall_time=1.7e9 + 1.25, step=2**40, summary=Summary(value=[scalar("score/real", float("nan"))])),
    Event(wall_time=1.7e9 + 1.25, step=2**40, summary=Summary(value=[Summary.Value(tag="samples", image=image)])),
]
with open(Path(__file__).parent / "events.tfevents", "wb") as file:
    writer = RecordWriter(file)
    for event in events:
        writer.write(event.SerializeToString())
    writer.flush()
