//! Against the real services: `deploy/local/services up` starts them.

mod clickhouse_ddl;
mod clickhouse_failures;
mod clickhouse_settings;
mod clickhouse_transport;
mod elasticsearch;
mod elasticsearch_configure;
mod fakes;

/// All pieces of an answer.
async fn collect(
    mut stream: stores::clickhouse::ByteStream,
) -> Result<Vec<bytes::Bytes>, stores::clickhouse::Error> {
    let mut pieces = Vec::new();
    while let Some(piece) = stream.try_next().await? {
        pieces.push(piece);
    }
    Ok(pieces)
}
