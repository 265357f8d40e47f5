"""The HTTP interface against the real engine."""

import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from urllib.parse import urlencode

from clickhouse.formats import ARROW_END

SERVER = os.path.join(os.path.dirname(__file__), "..", "clickhouse_http.py")
PORT = int(os.environ.get("FLEET_TEST_PORT", "20990"))


def setUpModule():
    global folder, server
    folder = tempfile.TemporaryDirectory()
    server = start_server()
    post("CREATE DATABASE t")


def tearDownModule():
    stop_server()
    folder.cleanup()


def start_server():
    data = os.path.join(folder.name, "data")
    process = subprocess.Popen(
        [sys.executable, SERVER, "--port", str(PORT), "--data", data], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if call("GET", "/ping").body == b"Ok.\n":
                return process
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("the server does not answer")


def stop_server():
    server.send_signal(signal.SIGTERM)
    if server.wait(30) != 0:
        raise AssertionError("the server did not stop cleanly")


class Response:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()
        self.summary = json.loads(self.headers.get("X-ClickHouse-Summary") or "{}")


def call(method, path, body=None, headers=None, **parameters):
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    try:
        if parameters:
            path += "?" + urlencode(parameters)
        chunked = hasattr(body, "__next__")
        connection.request(method, path, body, headers or {}, encode_chunked=chunked)
        return Response(connection.getresponse())
    finally:
        connection.close()


def post(query, **parameters):
    response = call("POST", "/", query, **parameters)
    if response.status != 200:
        raise AssertionError(response.body.decode())
    return response.body.decode()


class Queries(unittest.TestCase):
    def test_health_checks(self):
        for path in ("/", "/ping"):
            self.assertEqual(call("GET", path).body, b"Ok.\n")
        self.assertEqual(call("GET", "/elsewhere").status, 404)

    def test_query_in_url_body_or_both(self):
        self.assertEqual(call("GET", "/", query="SELECT 1").body, b"1\n")
        self.assertEqual(call("POST", "/", b"SELECT 1").body, b"1\n")
        self.assertEqual(call("POST", "/", b"FORMAT CSV", query="SELECT 'a'").body, b'"a"\n')

    def test_format_from_clause_parameter_and_header(self):
        self.assertEqual(post("SELECT 1 AS a FORMAT JSONEachRow"), '{"a":1}\n')
        self.assertEqual(post("SELECT 1 AS a", default_format="JSONEachRow"), '{"a":1}\n')
        header = {"X-ClickHouse-Format": "JSONEachRow"}
        self.assertEqual(call("POST", "/", b"SELECT 1 AS a", header).body, b'{"a":1}\n')

    def test_parameters_carry_any_byte(self):
        sql = "SELECT {n:UInt8} + 1, hex({s:String}), {i:Identifier} FROM (SELECT 5 AS x)"
        answer = post(sql, param_n="1", param_s=b"\xff'\xc3\xa9", param_i="x")
        self.assertEqual(answer, "2\tFF27C3A9\t5\n")

    def test_parameters_in_a_form(self):
        body = (
            b'--b\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT {s:String}\r\n'
            b'--b\r\nContent-Disposition: form-data; name="param_s"\r\n\r\na\\nb\r\n--b--\r\n'
        )
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        self.assertEqual(call("POST", "/", body, headers).body, b"a\\nb\n")

    def test_settings_last_for_one_request(self):
        ask = "SELECT getSetting('max_block_size')"
        usual = post(ask)
        self.assertEqual(post(ask, max_block_size="77"), "77\n")
        self.assertEqual(post(ask), usual)
        post("SET max_block_size = 78")
        self.assertEqual({post(ask) for _ in range(5)}, {usual})

    def test_settings_that_change_others_last_for_one_request_too(self):
        ask = "SELECT name, value FROM system.settings WHERE changed ORDER BY name"
        usual = post(ask)
        self.assertNotEqual(post(ask, compatibility="25.8"), usual)
        post("SET compatibility = '25.8'")
        self.assertEqual({post(ask) for _ in range(5)}, {usual})

    def test_temporary_tables_last_for_one_request(self):
        post("CREATE TEMPORARY TABLE of_one_request (a Int8)")
        self.assertEqual(post("EXISTS TEMPORARY TABLE of_one_request"), "0\n")

    def test_the_database_lasts_for_one_request(self):
        self.assertEqual(post("SELECT currentDatabase()", database="t"), "t\n")
        self.assertEqual(post("SELECT currentDatabase()"), "default\n")

    def test_query_id_is_echoed(self):
        response = call("POST", "/", b"SELECT 1", query_id="mine")
        self.assertEqual(response.headers["X-ClickHouse-Query-Id"], "mine")

    def test_one_connection_serves_many_requests(self):
        connection = http.client.HTTPConnection("127.0.0.1", PORT)
        for number in range(20):
            connection.request("POST", "/", f"SELECT {number}")
            self.assertEqual(connection.getresponse().read(), b"%d\n" % number)
        connection.close()

    def test_queries_run_at_the_same_time(self):
        started = time.monotonic()
        threads = [threading.Thread(target=post, args=("SELECT sleep(1)",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertLess(time.monotonic() - started, 4)


class Errors(unittest.TestCase):
    def assert_refused(self, response, status, code, text):
        self.assertEqual(response.status, status)
        self.assertEqual(response.headers["X-ClickHouse-Exception-Code"], str(code))
        self.assertIn(text, response.body.decode())
        self.assertTrue(response.body.startswith(b"Code: %d. DB::Exception: " % code))

    def test_status_and_code_tell_the_kind(self):
        for sql, status, code, name in (
            ("SELECT * FROM t.nope", 404, 60, "UNKNOWN_TABLE"),
            ("SELECT * FROM nope.nope", 404, 81, "UNKNOWN_DATABASE"),
            ("SELEC 1", 400, 62, "SYNTAX_ERROR"),
            ("nope", 400, 62, "SYNTAX_ERROR"),
            ("SELECT nope", 404, 47, "UNKNOWN_IDENTIFIER"),
            ("SELECT throwIf(1)", 500, 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
            ("", 400, 62, "Empty query"),
        ):
            self.assert_refused(call("POST", "/", sql), status, code, name)

    def test_an_unknown_setting_is_refused(self):
        for name in ("nope", "a = 1; SELECT"):
            response = call("POST", "/", "SELECT 1", **{name: "1"})
            self.assert_refused(response, 404, 115, name)
        self.assertEqual(post("SELECT 1"), "1\n")

    def test_get_only_reads(self):
        response = call("GET", "/", query="CREATE TABLE t.x (a Int8) ENGINE = Memory")
        self.assert_refused(response, 500, 164, "READONLY")

    def test_a_failure_in_mid_stream_breaks_the_connection_off(self):
        with socket.create_connection(("127.0.0.1", PORT)) as client:
            query = b"SELECT throwIf(number = 3000000) FROM numbers(5000000) FORMAT RowBinary"
            client.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(query), query))
            answer = b"".join(iter(lambda: client.recv(1 << 20), b""))
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK"))
        self.assertIn(b"Code: 395. DB::Exception", answer)
        self.assertTrue(answer.endswith(b"\r\n__exception__\r\n\r\n"))
        self.assertFalse(answer.endswith(b"\r\n0\r\n\r\n"))

    def test_a_failure_in_mid_stream_leaves_nothing_to_the_next_result(self):
        post("CREATE TABLE t.failing (n UInt64, s String) ENGINE = MergeTree ORDER BY n")
        post("INSERT INTO t.failing SELECT number, repeat('x', 100) FROM numbers(25000)")
        options = {"max_threads": "1", "max_block_size": "1000"}
        for _ in range(20):
            sql = "SELECT throwIf(n = 17000), * FROM t.failing FORMAT ArrowStream"
            try:
                self.assertNotEqual(call("POST", "/", sql, **options).status, 200)
            except http.client.IncompleteRead:
                pass
            whole = call("POST", "/", "SELECT * FROM t.failing FORMAT ArrowStream", **options)
            self.assertEqual(whole.body.count(ARROW_END), 1)


class Results(unittest.TestCase):
    ROWS = 300_000

    def test_a_large_result_is_one_document_in_every_format(self):
        post("CREATE TABLE t.many (n UInt64, s String) ENGINE = MergeTree ORDER BY n")
        select = f"SELECT number AS n, toString(number) AS s FROM numbers({self.ROWS})"
        for name in (
            "ArrowStream", "Native", "RowBinary",
            "RowBinaryWithNames", "RowBinaryWithNamesAndTypes",
            "TSV", "TSVWithNames", "TSVWithNamesAndTypes", "CSV", "CSVWithNames", "JSONEachRow",
            "JSONCompactEachRowWithNamesAndTypes", "Parquet", "JSON",
        ):  # fmt: skip
            with self.subTest(name):
                result = call("POST", "/", f"{select} FORMAT {name}")
                post("TRUNCATE TABLE t.many")
                response = call("POST", "/", result.body, query=f"INSERT INTO t.many FORMAT {name}")
                self.assertEqual(response.status, 200, response.body)
                self.assertEqual(
                    post("SELECT count(), sum(n), max(s) FROM t.many"),
                    f"{self.ROWS}\t{self.ROWS * (self.ROWS - 1) // 2}\t99999\n",
                )

    def test_a_large_result_starts_before_it_is_complete(self):
        with socket.create_connection(("127.0.0.1", PORT)) as client:
            query = b"SELECT number, sleepEachRow(0.00001) FROM numbers(1000000) FORMAT Native"
            client.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(query), query))
            started = time.monotonic()
            self.assertIn(b"chunked", client.recv(4096))
            self.assertLess(time.monotonic() - started, 5)

    def test_the_summary_counts_what_was_read(self):
        post("CREATE TABLE t.read (n UInt64) ENGINE = MergeTree ORDER BY n")
        post("INSERT INTO t.read SELECT number FROM numbers(1000)")
        response = call("POST", "/", b"SELECT count() FROM t.read WHERE n % 2 = 0")
        self.assertEqual(response.summary["read_rows"], "1000")
        self.assertEqual(response.summary["read_bytes"], "8000")
        self.assertEqual(response.summary["result_rows"], "1")

    def test_compressed_results(self):
        query = b"SELECT number FROM numbers(500000) FORMAT TSV"
        plain = call("POST", "/", query).body
        response = call("POST", "/", query, {"Accept-Encoding": "gzip"})
        self.assertEqual(response.headers["Content-Encoding"], "gzip")
        self.assertEqual(gzip.decompress(response.body), plain)
        packed = call("POST", "/", query, compress="1").body
        post("CREATE TABLE t.packed (n UInt64) ENGINE = MergeTree ORDER BY n")
        call("POST", "/", packed, query="INSERT INTO t.packed FORMAT TSV", decompress="1")
        self.assertEqual(post("SELECT count(), max(n) FROM t.packed"), "500000\t499999\n")


class Inserts(unittest.TestCase):
    def setUp(self):
        post("DROP TABLE IF EXISTS t.rows")
        post(
            "CREATE TABLE t.rows (k String, n UInt64, v UInt64 DEFAULT 9)"
            " ENGINE = ReplacingMergeTree(v) ORDER BY k"
            " SETTINGS non_replicated_deduplication_window = 10"
        )

    def insert(self, query, body, headers=None, **parameters):
        return call("POST", "/", body, headers, query=query, **parameters)

    def count(self):
        return int(post("SELECT count() FROM t.rows FINAL"))

    def test_data_in_the_body_with_the_query_in_the_url(self):
        response = self.insert("INSERT INTO t.rows (k, n) FORMAT TSV", b"a;\\n'\t1\nb\t2\n")
        self.assertEqual(response.summary["written_rows"], "2")
        self.assertEqual(post("SELECT k, n, v FROM t.rows ORDER BY k LIMIT 1"), "a;\\n\\'\t1\t9\n")

    def test_data_behind_the_query_in_the_body(self):
        post("INSERT INTO t.rows VALUES ('a;b', 1, 2), ('c\n', 3, 4)")
        post('INSERT INTO t.rows FORMAT JSONEachRow\n{"k":"d","n":1}\n{"k":"e","n":2}')
        self.assertEqual(self.count(), 4)

    def test_data_in_chunks(self):
        body = (f"key {number}\t{number}\n".encode() for number in range(1000))
        headers = {"Transfer-Encoding": "chunked"}
        response = self.insert("INSERT INTO t.rows (k, n) FORMAT TSV", body, headers)
        self.assertEqual((response.status, self.count()), (200, 1000))

    def test_compressed_data(self):
        headers = {"Content-Encoding": "gzip"}
        body = gzip.compress(b"a\t1\t1\n")
        response = self.insert("INSERT INTO t.rows FORMAT TSV", body, headers)
        self.assertEqual((response.status, self.count()), (200, 1))
        response = self.insert("INSERT INTO t.rows FORMAT TSV", body[:-4], headers)
        self.assertEqual((response.status, self.count()), (500, 1))

    def test_an_unknown_encoding_is_refused_and_the_connection_goes_on(self):
        connection = http.client.HTTPConnection("127.0.0.1", PORT)
        for encoding, status in (("snappy", 500), ("identity", 200)):
            connection.request("POST", "/", b"SELECT 1", {"Content-Encoding": encoding})
            response = connection.getresponse()
            response.read()
            self.assertEqual(response.status, status)
        connection.close()

    def test_a_body_that_breaks_off_inserts_nothing(self):
        with socket.create_connection(("127.0.0.1", PORT)) as client:
            client.sendall(
                b"POST /?query=INSERT+INTO+t.rows+(k,n)+FORMAT+TSV HTTP/1.1\r\n"
                b"Content-Length: 1000\r\n\r\na\t1\nb\t2\n"
            )
            client.shutdown(socket.SHUT_WR)
            self.assertTrue(client.recv(4096).startswith(b"HTTP/1.1 400"))
        self.assertEqual(self.count(), 0)

    def test_a_bad_row_is_refused_with_its_reason(self):
        response = self.insert("INSERT INTO t.rows (k, n) FORMAT TSV", b"a\t1\nb\tx\n")
        self.assertEqual(response.status, 400)
        self.assertIn(b"(at row 2)", response.body)
        self.assertNotIn(b"/dev/shm", response.body)
        self.assertEqual(self.count(), 0)

    def test_a_deduplication_token_counts_once(self):
        for _ in range(2):
            self.insert(
                "INSERT INTO t.rows FORMAT TSV",
                b"a\t1\t1\n",
                async_insert="0",
                insert_deduplication_token="one",
            )
        self.assertEqual(post("SELECT count() FROM t.rows"), "1\n")

    def test_an_older_version_never_wins(self):
        for version in (5, 7, 6):
            self.insert("INSERT INTO t.rows FORMAT TSV", b"a\t%d\t%d\n" % (version, version))
        self.assertEqual(post("SELECT n FROM t.rows FINAL"), "7\n")

    def test_input_takes_the_body(self):
        response = self.insert(
            "INSERT INTO t.rows SELECT upper(k), n, 1 FROM input('k String, n UInt64') FORMAT CSV",
            b"a,1\nb,2\n",
        )
        self.assertEqual(response.status, 200, response.body)
        self.assertEqual(post("SELECT k FROM t.rows ORDER BY k"), "A\nB\n")

    def test_identifiers_and_settings_in_the_statement(self):
        response = self.insert(
            "INSERT INTO t.{name:Identifier} (k, n) SETTINGS async_insert = 0 FORMAT TSV",
            b"a\t1\n",
            param_name="rows",
        )
        self.assertEqual((response.status, self.count()), (200, 1))


class Dictionaries(unittest.TestCase):
    def test_a_dictionary_is_made_reloaded_and_exchanged(self):
        post("CREATE TABLE t.words (k UInt64, w String) ENGINE = MergeTree ORDER BY k")
        post("INSERT INTO t.words VALUES (1, 'one')")
        for name in ("a", "b"):
            post(
                f"CREATE OR REPLACE DICTIONARY t.{name} (k UInt64, w String) PRIMARY KEY k"
                " SOURCE(CLICKHOUSE(DB 't' TABLE 'words')) LAYOUT(HASHED()) LIFETIME(0)"
            )
            post(f"SYSTEM RELOAD DICTIONARY t.{name}")
        post("EXCHANGE DICTIONARIES t.a AND t.b")
        self.assertEqual(post("SELECT dictGet('t.a', 'w', 1)"), "one\n")
        self.assertEqual(
            post("SELECT status, element_count FROM system.dictionaries WHERE name = 'a'"),
            "LOADED\t1\n",
        )


class Restarts(unittest.TestCase):
    def test_data_outlives_the_process(self):
        global server
        post("CREATE TABLE t.kept (n UInt64) ENGINE = MergeTree ORDER BY n")
        post("INSERT INTO t.kept VALUES (1), (2)")
        stop_server()
        server = start_server()
        self.assertEqual(post("SELECT count() FROM t.kept"), "2\n")
        server.kill()
        server.wait()
        server = start_server()
        self.assertEqual(post("SELECT count() FROM t.kept"), "2\n")

    def test_a_request_in_hand_is_answered_before_the_server_stops(self):
        global server
        answers = []
        thread = threading.Thread(target=lambda: answers.append(post("SELECT sleep(2)")))
        thread.start()
        time.sleep(0.5)
        stop_server()
        thread.join()
        server = start_server()
        self.assertEqual(answers, ["0\n"])


if __name__ == "__main__":
    unittest.main()
