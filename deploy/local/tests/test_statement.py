import unittest

from clickhouse.statement import parse


class Reads(unittest.TestCase):
    def test_format_clause_at_the_end_names_the_format(self):
        self.assertEqual(parse(b"SELECT a FROM t FORMAT JSON").format, "JSON")
        self.assertEqual(parse(b"SELECT 1 FORMAT TSV SETTINGS max_threads = 1;").format, "TSV")

    def test_format_elsewhere_is_a_name(self):
        for sql in (
            b"SELECT format FROM t",
            b"SELECT 'FORMAT JSON'",
            b"SELECT a AS format FROM t",
            b"SELECT 1 -- FORMAT JSON",
            b"WITH x AS (SELECT 1 FORMAT y) SELECT 1",
        ):
            self.assertIsNone(parse(sql).format, sql)

    def test_kinds(self):
        kinds = {
            b"select 1": "read",
            b" /* why */ WITH 1 AS a SELECT a": "read",
            b"(SELECT 1) UNION ALL SELECT 2": "read",
            b"SET a = 1": "other",
            b"CREATE TABLE t (a Int8) ENGINE = Memory": "other",
            b"INSERT INTO t VALUES (1)": "insert",
            b"INSERT INTO t SELECT 1": "insert_select",
            b"": "other",
        }
        for sql, kind in kinds.items():
            self.assertEqual(parse(sql).kind, kind, sql)


class Inserts(unittest.TestCase):
    def test_data_begins_after_the_line_of_the_format(self):
        statement = parse(b"INSERT INTO t FORMAT RowBinary\n\x00;\n'\xff")
        self.assertEqual((statement.format, statement.data()), ("RowBinary", b"\x00;\n'\xff"))

    def test_values_follow_the_keyword(self):
        statement = parse(b"INSERT INTO values VALUES (1, 'FORMAT TSV;')")
        self.assertEqual(statement.format, "Values")
        self.assertEqual(statement.data(), b" (1, 'FORMAT TSV;')")

    def test_a_closing_semicolon_is_no_data(self):
        for sql in (b"INSERT INTO t FORMAT TSV;", b"INSERT INTO t;", b"INSERT INTO t FORMAT TSV\n"):
            self.assertEqual(parse(sql).data(), b"", sql)

    def test_settings_move_behind_the_file(self):
        statement = parse(b"INSERT INTO t (a, b) SETTINGS x = 'FORMAT' FORMAT TSV")
        self.assertEqual(
            b" ".join(statement.reading_from("/f", "TSV").split()),
            b"INSERT INTO t (a, b) FROM INFILE '/f' SETTINGS x = 'FORMAT' FORMAT TSV",
        )

    def test_input_becomes_a_file(self):
        statement = parse(
            b"INSERT INTO t SELECT a + 1 FROM input('a UInt8, b String') WHERE b != ')' FORMAT CSV"
        )
        self.assertTrue(statement.takes_data)
        self.assertEqual(
            statement.reading_from("/f", "CSV"),
            b"INSERT INTO t SELECT a + 1"
            b" FROM file('/f', 'CSV', 'a UInt8, b String') WHERE b != ')' ",
        )

    def test_insert_select_without_input_takes_no_data(self):
        self.assertFalse(parse(b"INSERT INTO t SELECT format FROM s").takes_data)


if __name__ == "__main__":
    unittest.main()
