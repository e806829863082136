//! The loop that makes routing better with use: serve a router, record outcomes, train, gate, promote, swap.
//!
//! `live` is what requests see: the serving router of a name, swapped whole. `learner` turns recorded outcomes into a new
//! version and lets the gate decide. `follow` keeps the live routers equal to the versions marked as serving in the
//! database, so that `weirgate router promote` in another process takes effect like our own promotion.
//!
//! Called by the `semantic-router` plugin, by `server` and by the command line. Knows no HTTP and no configuration format.

pub mod follow;
pub mod learner;
pub mod live;
