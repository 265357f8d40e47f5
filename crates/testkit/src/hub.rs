use crate::clickhouse::query;

/// A hub table of deterministic, realistic rows over all shards, as the demonstration, the end-to-end tests and
/// the benchmarks use it.
///
/// Row `n` has a keyword of its own, whatever the number of rows. The first ones are difficult: spaces, quotes,
/// tabs, newlines, emoji, right-to-left text and 600 bytes. [`Hub::REFUSED`] rows have a volume that
/// Elasticsearch's `long` cannot hold. One key has three rows: it changed twice.
#[derive(Debug, Clone)]
pub struct Hub {
    /// Addresses, one a shard; where it has replicas, theirs, separated by `|`.
    pub shards: Vec<String>,
    pub database: String,
    pub table: String,
    /// Rows over all shards.
    pub rows: u64,
}

/// Keywords that break careless quoting and encoding, as SQL expressions; row `n` has the `n`-th.
const DIFFICULT: [&str; 14] = [
    r"'two  spaces'",
    "concat('single ', char(39), ' and double ', char(34), ' quotes')",
    r"'a\ttab'",
    r"'a\nnewline and a\r\ncarriage return'",
    r"'back\\slash \\n not a newline'",
    r"'🚀 emoji 👩‍👩‍👧‍👦'",
    r"'أفضل فنادق دبي'",
    r"'מזג אוויר בתל אביב'",
    r"'東京 ラーメン おすすめ'",
    r"repeat('six hundred bytes of keyword ', 21)",
    r#"'{"_id": 1, "script": "ctx._source"}'"#,
    r"concat(char(39), '; DROP TABLE keywords; --')",
    r"'zero\0byte'",
    r"' leading and trailing '",
];

impl Hub {
    /// Rows whose volume Elasticsearch must refuse; ClickHouse takes them.
    pub const REFUSED: u64 = 25;
    /// Rows that are older versions of a key that has a later row.
    pub const SUPERSEDED: u64 = 2;

    /// Whether the table holds as many rows as it should.
    pub fn is_filled(&self) -> bool {
        let count = |shard: &String| {
            let sql = format!("SELECT count() FROM {}.{}", self.database, self.table);
            let (_, answer) = query(first(shard), &sql);
            answer.trim().parse::<u64>().unwrap_or(0)
        };
        self.shards.iter().map(count).sum::<u64>() == self.rows
    }

    /// Creates the table on every shard and fills it. Rows of one key are on one shard.
    pub fn create(&self) {
        for (number, shard) in self.shards.iter().enumerate() {
            for replica in shard.split('|') {
                for sql in [
                    format!("CREATE DATABASE IF NOT EXISTS {}", self.database),
                    format!("DROP TABLE IF EXISTS {}.{} SYNC", self.database, self.table),
                    self.table_sql(shard),
                ] {
                    run(replica, &sql);
                }
            }
            self.insert(shard, &self.fill_sql(number));
        }
    }

    /// Gives every row whose number is a multiple of `every` a new version, changed now; not the key that has
    /// several rows, of which no two may have the same version.
    pub fn change(&self, every: u64) {
        let sql = format!(
            "INSERT INTO {db}.{table} SELECT * REPLACE (processed_volume + 1 AS processed_volume, \
             now64(3) AS changed_at) FROM {db}.{table} WHERE number % {every} = 0 AND \
             number != 20 AND number < {last} AND processed_volume < 9223372036854775807",
            db = self.database,
            table = self.table,
            last = self.rows - Self::SUPERSEDED,
        );
        for shard in &self.shards {
            self.insert(shard, &sql);
        }
    }

    /// Inserts into one replica, and waits until the others have it: a run reads from any of them.
    fn insert(&self, shard: &str, sql: &str) {
        run(first(shard), sql);
        for replica in shard.split('|').skip(1) {
            let sync = format!("SYSTEM SYNC REPLICA {}.{}", self.database, self.table);
            run(replica, &sync);
        }
    }

    /// Plain on a shard of one server; replicated, by the macros of the servers, on one with replicas.
    fn engine(shard: &str) -> &'static str {
        if shard.contains('|') {
            "ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')"
        } else {
            "MergeTree"
        }
    }

    fn table_sql(&self, shard: &str) -> String {
        format!(
            "CREATE TABLE {}.{} (
                number UInt64,
                country LowCardinality(String),
                keyword String,
                raw_volume UInt64,
                processed_volume UInt64,
                processed_global_volume UInt64,
                processed_clicks Nullable(Float64),
                processed_cpc Nullable(Float32),
                processed_difficulty Nullable(UInt8),
                processed_parent_topic String,
                processed_serp_features Array(String),
                processed_pe_traffic UInt32,
                processed_updated DateTime,
                changed_at DateTime64(3)
            ) ENGINE = {} ORDER BY (country, keyword)",
            self.database,
            self.table,
            Self::engine(shard)
        )
    }

    fn fill_sql(&self, shard: usize) -> String {
        let list = |words: &str| {
            let words: Vec<String> = words
                .split(' ')
                .map(|w| format!("'{}'", w.replace('_', " ")))
                .collect();
            format!("[{}]", words.join(", "))
        };
        let modifiers = list(
            "best cheap free online local used new how_to_fix how_to_clean where_to_buy top_rated small large \
             wireless electric organic vintage custom portable professional waterproof heavy_duty second_hand \
             homemade vegan luxury affordable outdoor indoor foldable digital smart mini modern rustic black \
             white kids mens womens",
        );
        let heads = list(
            "running_shoes coffee_maker office_chair dining_table mountain_bike laptop_stand phone_case \
             air_fryer garden_hose hotel car_insurance credit_card yoga_mat standing_desk water_bottle \
             dog_food cat_litter baby_monitor space_heater lawn_mower pressure_washer sewing_machine \
             vacuum_cleaner mattress pillow headphones keyboard monitor printer router backpack suitcase tent \
             sleeping_bag jacket jeans dress sneakers watch ring necklace perfume shampoo sunscreen vitamin_d \
             protein_powder treadmill dumbbells guitar piano drone camera tripod projector television \
             soundbar speaker microwave toaster blender",
        );
        let suffixes = list(
            "near_me 2025 reviews price for_sale under_100 under_500 deals coupon amazon ikea walmart reddit \
             vs_cheap_ones for_beginners for_small_spaces for_seniors for_kids with_warranty with_delivery \
             in_london in_berlin in_paris in_madrid in_new_york in_tokyo open_now black_friday gift ideas \
             repair parts manual size_chart colours comparison alternatives brands rental wholesale",
        );
        let countries = list("us us us us gb de fr es br in jp it");
        let hard = DIFFICULT.join(", ");
        format!(
            "INSERT INTO {db}.{table}
             WITH
                [{hard}] AS hard,
                -- The last rows are later versions of row 20.
                if(n >= {last}, 20, n) AS key,
                cityHash64(key) AS h,
                if(key < length(hard), hard[key + 1], concat(
                    {modifiers}[key % 40 + 1], ' ', {heads}[intDiv(key, 40) % 60 + 1], ' ',
                    {suffixes}[intDiv(key, 2400) % 40 + 1],
                    if(key < 96000, '', concat(' ', toString(intDiv(key, 96000)))))) AS word,
                toUInt64(exp2(h % 17) + h % 13) AS volume
             SELECT
                n,
                {countries}[h % 12 + 1],
                word,
                volume * 3,
                if(key BETWEEN 1000 AND 1000 + {refused} - 1, 9223372036854775808 + key, volume + n - key),
                volume * 7,
                if(h % 5 = 0, NULL, volume * 0.37),
                if(h % 4 = 0, NULL, toFloat32(h % 900 / 100)),
                if(h % 6 = 0, NULL, h % 101),
                {heads}[intDiv(key, 40) % 60 + 1],
                arraySlice(['snippet', 'images', 'video', 'local', 'shopping'], 1, h % 4),
                toUInt32(h % 100000),
                toDateTime('2025-06-01 00:00:00', 'UTC') + h % 7776000,
                toDateTime64('2025-06-01 00:00:00', 3, 'UTC') + h % 7776000 + (n - key)
             FROM (SELECT number AS n FROM numbers({rows}))
             WHERE h % {shards} = {shard}
             SETTINGS async_insert = 0",
            db = self.database,
            table = self.table,
            last = self.rows - Self::SUPERSEDED,
            refused = Self::REFUSED,
            rows = self.rows,
            shards = self.shards.len(),
        )
    }
}

/// The first replica of a shard.
fn first(shard: &str) -> &str {
    shard.split('|').next().unwrap_or(shard)
}

fn run(address: &str, sql: &str) {
    let (ok, answer) = query(address, sql);
    assert!(ok, "{address} refuses {sql}: {answer}");
}
