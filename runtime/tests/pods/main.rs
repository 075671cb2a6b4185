//! The pod API over fakes in memory: one test or more for each behaviour of the contract, in seconds, without KVM.

mod container_create;
mod container_delete;
mod container_enter;
mod container_kill;
mod container_processes;
mod container_start;
mod container_status;
mod container_stop;
mod damage;
mod failures;
mod handles;
mod hooks;
mod locking;
mod model;
mod network;
mod pod_create;
mod pod_delete;
mod pod_list;
mod pod_pause;
mod pod_start;
mod pod_stop;
mod records;
mod sharing;
mod support;
mod workload;
