//! apply_dict on one replica: the new dictionary becomes the live one.

use batch::Order;
use stores::clickhouse::{Error, Query, Replica};

use crate::DictionarySettings;
use crate::blueprint::Blueprint;
use crate::failure::{Failure, Step};
use crate::state::{Found, Status};

/// Puts the new dictionary in place, unless it is already; answers with its entries. The old one is beside it then,
/// until the next refresh.
pub(crate) async fn apply(
    replica: &Replica,
    dictionary: &DictionarySettings,
    blueprint: &Blueprint,
    order: &Order,
) -> Result<u64, Failure> {
    let failed = |error: &Error| Failure::of_dictionary(Step::ApplyDict, error);
    let found = Found::on(replica, dictionary)
        .await
        .map_err(|e| failed(&e))?;
    found.not_newer_than(order, replica)?;
    if let Some(live) = found
        .live
        .as_ref()
        .filter(|l| l.version() == Some(order.version))
    {
        return match live.status() {
            Status::Loaded => Ok(live.entries),
            _ => Err(overtaken(replica, "is in place and not loaded any more")),
        };
    }
    let next = found.next_of(order);
    if !next.is_some_and(|next| next.status() == Status::Loaded) {
        return Err(overtaken(
            replica,
            "is not there any more, loaded as it was",
        ));
    }
    exchange(
        replica,
        (&blueprint.live, &blueprint.next),
        found.live.is_some(),
    )
    .await
    .map_err(|e| failed(&e))?;
    // An exchange is undone by another one, such as that of an earlier try which the server still had to carry out.
    let found = Found::on(replica, dictionary)
        .await
        .map_err(|e| failed(&e))?;
    found.not_newer_than(order, replica)?;
    match found.live {
        Some(live) if live.version() == Some(order.version) => Ok(live.entries),
        _ => Err(overtaken(replica, "was exchanged and is not in place")),
    }
}

fn overtaken(replica: &Replica, what: &str) -> Failure {
    Failure::retry(
        Step::ApplyDict,
        format!("{}: the new dictionary {what}", replica.address()),
    )
}

/// One statement, in which no reader finds nothing: both names change what they stand for at once.
pub(crate) async fn exchange(
    replica: &Replica,
    (live, next): (&str, &str),
    live_exists: bool,
) -> Result<(), Error> {
    let statement = match live_exists {
        true => format!("EXCHANGE DICTIONARIES {live} AND {next}"),
        false => format!("RENAME DICTIONARY {next} TO {live}"),
    };
    replica.execute(&Query::new(statement)).await?;
    Ok(())
}
