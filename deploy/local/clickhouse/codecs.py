"""Compression of bodies, in both directions.

An encoder and a decoder have `feed(data) -> bytes` and `finish() -> bytes`.
"""

import struct
import zlib

import lz4.block
import lz4.frame
import zstandard
from clickhouse_cityhash.cityhash import CityHash128


class CodecError(Exception):
    """A body that is not what its encoding says."""


class Identity:
    def feed(self, data):
        return data

    def finish(self):
        return b""


class _Zlib:
    def __init__(self, compress: bool, window: int):
        self._object = zlib.compressobj(1, wbits=window) if compress else zlib.decompressobj(window)
        self._feed = self._object.compress if compress else self._object.decompress
        self._compress = compress

    def feed(self, data):
        try:
            return self._feed(data)
        except zlib.error as error:
            raise CodecError(str(error)) from error

    def finish(self):
        if not self._compress and not self._object.eof:
            raise CodecError("the compressed body ends early")
        return self._object.flush()


class _ZstdDecoder:
    def __init__(self):
        self._object = zstandard.ZstdDecompressor().decompressobj()

    def feed(self, data):
        try:
            return self._object.decompress(data)
        except zstandard.ZstdError as error:
            raise CodecError(str(error)) from error

    def finish(self):
        if not self._object.eof:
            raise CodecError("the compressed body ends early")
        return b""


class _ZstdEncoder:
    def __init__(self):
        self._object = zstandard.ZstdCompressor(level=1).compressobj()

    def feed(self, data):
        out = self._object.compress(data)
        return out + self._object.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def finish(self):
        return self._object.flush()


class _Lz4Decoder:
    def __init__(self):
        self._object = lz4.frame.LZ4FrameDecompressor()

    def feed(self, data):
        try:
            return self._object.decompress(data)
        except (RuntimeError, EOFError) as error:
            raise CodecError(str(error)) from error

    def finish(self):
        if not self._object.eof:
            raise CodecError("the compressed body ends early")
        return b""


class _Lz4Encoder:
    def __init__(self):
        self._object = lz4.frame.LZ4FrameCompressor(auto_flush=True)
        self._begun = False

    def feed(self, data):
        begin = b"" if self._begun else self._object.begin()
        self._begun = True
        return begin + self._object.compress(data)

    def finish(self):
        begin = b"" if self._begun else self._object.begin()
        return begin + self._object.flush()


# ClickHouse's own framing: checksum, then method, size with this header, size
# when unpacked, data.
_FRAME = struct.Struct("<BII")
_LZ4, _ZSTD, _PLAIN = 0x82, 0x90, 0x02
_MAX_FRAME = 1 << 30


def _checksum(data) -> bytes:
    value = CityHash128(bytes(data))
    return struct.pack("<QQ", value >> 64, value & 0xFFFFFFFFFFFFFFFF)


class NativeEncoder:
    _BLOCK = 1 << 20

    def feed(self, data):
        data = memoryview(data)
        return b"".join(
            self._frame(data[start : start + self._BLOCK])
            for start in range(0, len(data), self._BLOCK)
        )

    def finish(self):
        return b""

    def _frame(self, block):
        packed = lz4.block.compress(block, store_size=False)
        framed = _FRAME.pack(_LZ4, len(packed) + _FRAME.size, len(block)) + packed
        return _checksum(framed) + framed


class NativeDecoder:
    def __init__(self):
        self._pending = bytearray()

    def feed(self, data):
        self._pending += data
        out = []
        while (block := self._next()) is not None:
            out.append(block)
        return b"".join(out)

    def finish(self):
        if self._pending:
            raise CodecError("the compressed body ends early")
        return b""

    def _next(self):
        if len(self._pending) < 16 + _FRAME.size:
            return None
        method, size, unpacked = _FRAME.unpack_from(self._pending, 16)
        if not _FRAME.size <= size <= _MAX_FRAME or unpacked > _MAX_FRAME:
            raise CodecError(f"a compressed block of {size} bytes, {unpacked} unpacked")
        if len(self._pending) < 16 + size:
            return None
        checksum, framed = bytes(self._pending[:16]), bytes(self._pending[16 : 16 + size])
        del self._pending[: 16 + size]
        if checksum != _checksum(framed):
            raise CodecError("the checksum of a compressed block does not match")
        return self._unpack(method, framed[_FRAME.size :], unpacked)

    @staticmethod
    def _unpack(method, packed, unpacked):
        try:
            if method == _LZ4:
                return lz4.block.decompress(packed, uncompressed_size=unpacked)
            if method == _ZSTD:
                return zstandard.decompress(packed, max_output_size=unpacked)
        except (lz4.block.LZ4BlockError, zstandard.ZstdError) as error:
            raise CodecError(str(error)) from error
        if method == _PLAIN:
            return packed
        raise CodecError(f"unknown compression method {method:#x}")


_DECODERS = {
    "gzip": lambda: _Zlib(False, 31),
    "deflate": lambda: _Zlib(False, 15),
    "zstd": _ZstdDecoder,
    "lz4": _Lz4Decoder,
}
_ENCODERS = {
    "lz4": _Lz4Encoder,
    "zstd": _ZstdEncoder,
    "gzip": lambda: _Zlib(True, 31),
    "deflate": lambda: _Zlib(True, 15),
}


def decoder(content_encoding: str, native: bool):
    """The decoder of a request body, outer encoding first."""
    name = content_encoding.strip().lower()
    if name in ("", "identity"):
        return NativeDecoder() if native else Identity()
    if name not in _DECODERS:
        raise CodecError(f"Unknown compression method: {name}")
    outer = _DECODERS[name]()
    return _Chain(outer, NativeDecoder()) if native else outer


def encoder(accept_encoding: str):
    """The name and encoder of the first accepted encoding that is known."""
    for entry in accept_encoding.lower().split(","):
        name = entry.split(";")[0].strip()
        if name in _ENCODERS:
            return name, _ENCODERS[name]()
    return None, Identity()


class _Chain:
    def __init__(self, outer, inner):
        self._outer, self._inner = outer, inner

    def feed(self, data):
        return self._inner.feed(self._outer.feed(data))

    def finish(self):
        rest = self._outer.finish()
        return self._inner.feed(rest) + self._inner.finish()
