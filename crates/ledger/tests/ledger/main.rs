//! The fold over receipts.

mod gates;
mod history;
mod order;
mod receipts;
mod state;
