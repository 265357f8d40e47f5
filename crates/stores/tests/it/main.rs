//! Against the real services: `deploy/local/services up` starts them.

mod clickhouse_ddl;
mod clickhouse_failures;
mod clickhouse_transport;
mod elasticsearch;
mod elasticsearch_configure;
mod fakes;
