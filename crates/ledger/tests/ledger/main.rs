//! The fold over receipts.

mod order;
mod receipts;
mod state;
