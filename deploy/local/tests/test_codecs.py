import os
import unittest

from clickhouse.codecs import CodecError, NativeEncoder, decoder, encoder

PLAIN = b"keyword " * 40_000 + os.urandom(3_000_000)


def unpack(decode, packed: bytes, step: int) -> bytes:
    pieces = [decode.feed(packed[start : start + step]) for start in range(0, len(packed), step)]
    return b"".join(pieces) + decode.finish()


class RoundTrips(unittest.TestCase):
    def test_every_content_encoding_in_small_pieces(self):
        for name in ("gzip", "deflate", "zstd", "lz4"):
            chosen, encode = encoder(f"br, {name};q=0.5")
            self.assertEqual(chosen, name)
            packed = encode.feed(PLAIN) + encode.feed(b"tail") + encode.finish()
            self.assertEqual(unpack(decoder(name, False), packed, 7777), PLAIN + b"tail", name)

    def test_an_empty_body(self):
        for name in ("gzip", "deflate", "zstd", "lz4"):
            packed = encoder(name)[1].finish()
            self.assertEqual(unpack(decoder(name, False), packed, 100), b"", name)

    def test_native_blocks_also_inside_gzip(self):
        packed = NativeEncoder().feed(PLAIN)
        self.assertEqual(unpack(decoder("", True), packed, 10_001), PLAIN)
        wrap = encoder("gzip")[1]
        wrapped = wrap.feed(packed) + wrap.finish()
        self.assertEqual(unpack(decoder("gzip", True), wrapped, 10_001), PLAIN)


class BadBodies(unittest.TestCase):
    def test_a_truncated_body_is_refused(self):
        for name in ("gzip", "zstd", "lz4"):
            encode = encoder(name)[1]
            packed = encode.feed(PLAIN) + encode.finish()
            with self.assertRaises(CodecError, msg=name):
                unpack(decoder(name, False), packed[:-20], 5000)
        with self.assertRaises(CodecError):
            unpack(decoder("", True), NativeEncoder().feed(PLAIN)[:-1], 5000)

    def test_a_flipped_bit_in_a_native_block_is_refused(self):
        packed = bytearray(NativeEncoder().feed(PLAIN))
        packed[1000] ^= 1
        with self.assertRaisesRegex(CodecError, "checksum"):
            unpack(decoder("", True), bytes(packed), 5000)

    def test_garbage_and_unknown_encodings_are_refused(self):
        for name, native in (("gzip", False), ("zstd", False), ("lz4", False), ("", True)):
            with self.assertRaises(CodecError, msg=name):
                unpack(decoder(name, native), b"\xff" * 5000, 5000)
        with self.assertRaisesRegex(CodecError, "snappy"):
            decoder("snappy", False)


if __name__ == "__main__":
    unittest.main()
