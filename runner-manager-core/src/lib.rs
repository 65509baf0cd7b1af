//! Runner Manager's core: everything that keeps queued GitHub Actions jobs supplied with self-hosted
//! runners, except the clouds and the HTTP server.
//!
//! Read it in this order:
//!
//! 1. [`domain`]: the words. Plain data that cannot be wrong once it is built.
//! 2. [`policy`]: the decisions. Pure, total functions of what is known and of the time.
//! 3. The traits, one a file: [`backend`], [`github`], [`store`], [`queue`], [`budget`],
//!    [`clock`]. What the outside must do.
//! 4. [`manager`]: the driver that asks the policy and does what it says.
//!
//! The rest are adapters behind the traits ([`embedded`], [`redis`], [`rest`] with [`octocrab`]), what a user writes
//! ([`config`]), and what tests need ([`testing`]).
//!
//! Nothing in here knows a cloud, and nothing in [`domain`] and [`policy`] reads a clock, draws a random
//! number, waits, logs or touches the network.

pub mod backend;
#[cfg(any(feature = "embedded", feature = "redis"))]
mod baton;
pub mod budget;
#[cfg(any(feature = "octocrab", feature = "redis"))]
mod certificates;
pub mod clock;
pub mod config;
pub mod domain;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod flaws;
pub mod github;
pub mod manager;

#[cfg(feature = "octocrab")]
pub mod octocrab;
pub mod policy;
pub mod queue;
pub mod random;
#[cfg(feature = "redis")]
pub mod redis;
pub mod rest;
pub mod retry;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod webhook;
