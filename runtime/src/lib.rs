//! Pods and containers on the hutch virtual machine monitor, and what they share with `hutch run`: the channel to the
//! agent in the guest, and the relaying of standard streams.
#![deny(unsafe_code)]

pub mod agent_client;
pub mod guest;
pub mod sandbox;
pub mod stdio;
