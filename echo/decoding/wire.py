"""The protocol between a decoding child and its owner: fixed headers over the child's standard input and output."""

from __future__ import annotations

import struct

#: Owner to child, before the file's bytes: name of the demuxer, seconds wanted, length of the file.
REQUEST = struct.Struct("<16sdQ")
#: Child to owner: 0 and the number of float32 samples that follow, or a `Refusal` and 0.
ANSWER = struct.Struct("<BQ")
#: The child's first byte: it has loaded its libraries.
READY = b"\x01"
