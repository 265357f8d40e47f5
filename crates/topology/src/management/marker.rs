//! Marker exchanges: no message is ever sent to them; that they exist, and their arguments, say something.

use super::actual::ActualExchange;
use super::objects::{Objects, PlanStep};
use super::{Management, ManagementError};
use crate::{Exchange, ObjectArguments};

impl Management {
    /// Arguments of the exchange of this name; `None` where there is none.
    pub async fn marker(&self, name: &str) -> Result<Option<ObjectArguments>, ManagementError> {
        let exchanges: Vec<ActualExchange> = self.list("exchanges").await?;
        let mut named = exchanges.into_iter().filter(|found| found.name == name);
        Ok(named.next().map(|exchange| exchange.arguments))
    }

    /// Declares a marker; one of the same arguments may be there already.
    pub async fn put_marker(
        &self,
        name: &str,
        arguments: ObjectArguments,
    ) -> Result<(), ManagementError> {
        let exchange = Exchange {
            name: name.to_owned(),
            // A type that no program's exchange has.
            kind: "fanout",
            arguments,
        };
        self.execute(&PlanStep::PutExchange(exchange)).await
    }

    /// Deletes a marker; it need not be there.
    pub async fn delete_marker(&self, name: &str) -> Result<(), ManagementError> {
        self.execute(&PlanStep::DeleteExchange(name.to_owned()))
            .await
    }
}
