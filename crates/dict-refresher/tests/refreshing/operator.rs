//! What an operator sees, and the way back to the dictionary before.

use dict_refresher::{RollbackError, plan_rollback, rollback, status};
use pipeline::Outcome;

use crate::support::{KEYS, Tables};

async fn refreshed(versions: &[i64]) -> Tables {
    let mut tables = Tables::create();
    tables.as_replicas();
    for version in versions {
        for server in 0..2 {
            tables.insert(server, *version, 0..KEYS);
        }
        assert_eq!(tables.refresh(0, *version).await.outcome, Outcome::Done);
    }
    tables
}

async fn refused(tables: &Tables, shard: Option<u32>) -> String {
    match rollback(&tables.cluster(), &tables.dictionary, shard).await {
        Err(error @ (RollbackError::Refused { .. } | RollbackError::UnknownShard(_))) => {
            error.to_string()
        }
        other => panic!("{other:?}"),
    }
}

fn live(tables: &Tables, server: usize) -> String {
    tables.run(
        server,
        "SELECT dictGet('{db}.metrics', ('volume', 'version'), ('de', '0'))",
    )
}

#[tokio::test]
async fn the_status_says_for_each_replica_what_is_live_and_what_was_before() {
    let mut tables = refreshed(&[10, 20]).await;
    let both = status(&tables.cluster(), &tables.dictionary).await;
    assert_eq!(both.len(), 2);
    for replica in both {
        let (live, next) = (replica.live.unwrap(), replica.next.unwrap());
        assert_eq!(
            (live.run.as_deref(), live.version),
            (Some("r-20"), Some(20))
        );
        assert_eq!((live.entries, live.status.as_str()), (KEYS, "LOADED"));
        assert!(live.bytes > 0);
        assert_eq!((next.version, next.error.as_str()), (Some(10), ""));
        assert_eq!((replica.shard, replica.error), (0, None));
    }
    tables.target.cluster = "http://127.0.0.1:1".to_owned();
    let dead = status(&tables.cluster(), &tables.dictionary).await;
    assert!(dead[0].error.as_ref().unwrap().contains("no connection"));
    assert_eq!(dead[0].live, None);
}

#[tokio::test]
async fn a_rollback_brings_back_the_dictionary_before_on_every_replica_and_only_once() {
    let tables = refreshed(&[10, 20]).await;
    let planned = plan_rollback(&tables.cluster(), &tables.dictionary, None)
        .await
        .unwrap();
    assert_eq!(live(&tables, 0), "(20,20)");
    let done = rollback(&tables.cluster(), &tables.dictionary, Some(0))
        .await
        .unwrap();
    assert_eq!(done, planned);
    assert_eq!(done.len(), 2);
    assert_eq!(
        (done[0].from, done[0].to, done[0].to_run.as_str()),
        (Some(20), 10, "r-10")
    );
    for server in 0..2 {
        assert_eq!(live(&tables, server), "(10,10)");
        assert!(tables.dictionaries(server)[1].starts_with("r-20 LOADED"));
    }
    let again = refused(&tables, None).await;
    assert!(again.contains("version 20, and 10 is live"), "{again}");
    // The next run replaces whatever is live.
    assert_eq!(tables.refresh(0, 30).await.outcome, Outcome::Done);
    assert!(tables.dictionaries(0)[1].starts_with("r-10"));
}

#[tokio::test]
async fn a_rollback_that_broke_off_continues_with_the_replicas_that_are_left() {
    let tables = refreshed(&[10, 20]).await;
    tables.run(
        1,
        "EXCHANGE DICTIONARIES {db}.metrics AND {db}.metrics_next",
    );
    let done = rollback(&tables.cluster(), &tables.dictionary, None)
        .await
        .unwrap();
    assert_eq!(done.iter().filter(|step| step.already).count(), 1);
    for server in 0..2 {
        assert_eq!(live(&tables, server), "(10,10)");
    }
}

#[tokio::test]
async fn a_rollback_brings_all_shards_to_one_version_and_leaves_those_that_never_left_it() {
    let tables = Tables::create();
    for (shard, versions) in [(0, &[5, 10, 20][..]), (1, &[5, 10])] {
        for version in versions {
            tables.refresh(shard, *version).await;
        }
    }
    let done = rollback(&tables.cluster(), &tables.dictionary, None)
        .await
        .unwrap();
    let already: Vec<bool> = done.iter().map(|step| step.already).collect();
    assert_eq!(already, [false, true]);
    for server in 0..2 {
        assert!(tables.dictionaries(server)[0].starts_with("r-10 LOADED"));
    }
    // By itself a shard goes back further.
    rollback(&tables.cluster(), &tables.dictionary, Some(1))
        .await
        .unwrap();
    assert!(tables.dictionaries(1)[0].starts_with("r-5 LOADED"));
}

#[tokio::test]
async fn a_rollback_is_refused_where_there_is_no_earlier_dictionary() {
    let tables = Tables::create();
    assert!(
        refused(&tables, None)
            .await
            .contains("it has no dictionary")
    );
    let tables = refreshed(&[10]).await;
    assert!(
        refused(&tables, None)
            .await
            .contains("no earlier dictionary")
    );
    assert!(refused(&tables, Some(7)).await.contains("no shard 7"));
    assert_eq!(live(&tables, 0), "(10,10)");
}

#[tokio::test]
async fn a_dictionary_that_the_server_would_load_again_is_not_taken_for_the_earlier_one() {
    let tables = refreshed(&[10, 20]).await;
    // As after a restart of the server: only its definition is left of it.
    tables.run(1, "DETACH DICTIONARY {db}.metrics_next");
    tables.run(1, "ATTACH DICTIONARY {db}.metrics_next");
    assert!(
        refused(&tables, None)
            .await
            .contains("not in memory any more (NOT_LOADED)")
    );
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    tables.run(1, "SYSTEM RELOAD DICTIONARY {db}.metrics_next");
    assert!(
        refused(&tables, None)
            .await
            .contains("was loaded again after the live one")
    );
    for server in 0..2 {
        assert_eq!(live(&tables, server), "(20,20)");
    }
}
