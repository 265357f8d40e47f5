//! Receipts of one run, in a line each.

use batch::{
    BatchId, Decision, Fact, Reason, Receipt, Rows, RunId, RunMode, RunPlan, Stage, Started,
    TaskHash,
};
use ledger::RunState;

pub fn run_id() -> RunId {
    "direct-20260102T030405678Z".parse().unwrap()
}

pub fn task(n: u8) -> TaskHash {
    TaskHash::new([[n].as_slice()])
}

pub fn receipt(fact: Fact) -> Receipt {
    Receipt {
        run: run_id(),
        at_ms: 1_000,
        fact,
    }
}

pub fn started(stores: &[&str]) -> Receipt {
    receipt(Fact::Started(Started {
        pipeline: "direct".into(),
        mode: RunMode::Full,
        until_ms: 1_000,
        shards: 2,
        stores: stores.iter().map(|s| s.to_string()).collect(),
        partial: false,
        source: "s".into(),
        nonce: String::new(),
        differences: Vec::new(),
        run_plan: None,
    }))
}

/// The beginning of a run with gates, up to its SERP nodes when it writes to `ch`.
pub fn gated_run(stores: &[&str]) -> Receipt {
    let mut started = started(stores);
    if let Fact::Started(Started { run_plan, .. }) = &mut started.fact {
        let has_dictionary = stores.contains(&"ch");
        *run_plan = Some(RunPlan {
            dictionary_after: has_dictionary.then(|| "ch".to_owned()),
            serp: has_dictionary,
            ..RunPlan::default()
        });
    }
    started
}

pub fn gate_decided(stage: Stage, decision: Decision, operator_decisions: u32) -> Receipt {
    receipt(Fact::GateDecided {
        stage,
        decision,
        why: format!("{decision}"),
        operator_decisions,
    })
}

pub fn operator_decided(at_ms: i64, stage: Stage, decision: Decision) -> Receipt {
    let mut receipt = receipt(Fact::OperatorDecided {
        stage,
        decision,
        who: "ada".into(),
        why: "repaired".into(),
    });
    receipt.at_ms = at_ms;
    receipt
}

pub fn ordered(shards: &[u32]) -> Receipt {
    receipt(Fact::Ordered {
        shards: shards.to_vec(),
        operator_decisions: 0,
    })
}

pub fn synced(shard: u32) -> Receipt {
    receipt(Fact::ShardSynced { shard, replicas: 2 })
}

pub fn late(shard: u32, seconds: u64) -> Receipt {
    receipt(Fact::ReplicaLate {
        shard,
        replica: format!("laksa{shard:03}"),
        behind_seconds: Some(seconds),
        error: "timed out".into(),
    })
}

pub fn applied(shard: u32, nodes: &[&str]) -> Receipt {
    receipt(Fact::ShardApplied {
        shard,
        version: 1_000,
        entries: 10,
        nodes: nodes.iter().map(|node| node.to_string()).collect(),
    })
}

pub fn restarted(node: &str) -> Receipt {
    receipt(Fact::NodeRestarted {
        node: node.into(),
        shard: 0,
        restarted: 8,
        already: 0,
    })
}

pub fn order_failed(stage: Stage, target: &str, given_up: bool) -> Receipt {
    receipt(Fact::OrderFailed {
        stage,
        target: target.into(),
        step: "waiting".into(),
        error: "timed out".into(),
        given_up,
    })
}

pub fn manifest(tasks: u64) -> Receipt {
    receipt(Fact::Manifest {
        tasks,
        estimated_rows: tasks.saturating_mul(10),
    })
}

pub fn fetched(n: u8, attempt: u32, batches: u32, rows: u64) -> Receipt {
    receipt(Fact::Fetched {
        task: task(n),
        attempt,
        shard: 0,
        batches,
        rows,
        bytes: rows.saturating_mul(7),
    })
}

pub fn failed(n: u8, attempt: u32) -> Receipt {
    receipt(Fact::FetchFailed {
        task: task(n),
        attempt,
        error: format!("attempt {attempt} timed out"),
    })
}

pub fn given_up(n: u8) -> Receipt {
    receipt(Fact::TaskQuarantined {
        task: task(n),
        program: "fetcher".into(),
        reason: Reason::TooManyRetries,
    })
}

pub fn stored(store: &str, n: u8, attempt: u32, sequence: u32, rows: [u64; 3]) -> Receipt {
    let [stored, unchanged, quarantined] = rows;
    let rows = Rows {
        stored,
        unchanged,
        skipped: 0,
        quarantined,
    };
    receipt(Fact::Stored {
        store: store.into(),
        batch: BatchId {
            task: task(n),
            attempt,
            sequence,
        },
        shard: 0,
        rows: rows.clone(),
        targets: [(format!("index-{}", sequence % 3), rows)].into(),
        reasons: (quarantined > 0)
            .then_some((Reason::RefusedRows, quarantined))
            .into_iter()
            .collect(),
    })
}

/// As [`stored`], with the rows in quarantine there for `reason`.
pub fn stored_but(receipt: Receipt, reason: Reason) -> Receipt {
    let mut receipt = receipt;
    if let Fact::Stored { reasons, rows, .. } = &mut receipt.fact {
        *reasons = [(reason, rows.quarantined)].into();
    }
    receipt
}

pub fn fold<'a>(receipts: impl IntoIterator<Item = &'a Receipt>) -> RunState {
    let mut state = RunState::new(run_id());
    receipts.into_iter().for_each(|r| state.apply(r));
    state
}
