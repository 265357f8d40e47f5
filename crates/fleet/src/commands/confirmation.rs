//! The confirmation of a command that changes something in place.

/// Flags of a command that changes nothing without `--yes`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct ConfirmationFlags {
    /// Do it
    #[arg(long)]
    yes: bool,
    /// Only say what would be done, which is the default; exit code 6 if anything
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

/// Proves that the operator gave `--yes`: [`ConfirmationFlags::confirmed`] alone makes one.
pub struct ConfirmationToken(());

impl ConfirmationFlags {
    /// `None` unless the operator wants it done.
    pub fn confirmed(self) -> Option<ConfirmationToken> {
        (self.yes && !self.dry_run).then_some(ConfirmationToken(()))
    }
}
