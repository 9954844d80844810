//! Snapshots on disk: `savevm`, `loadvm`, `delvm`, `info snapshots`, `-loadvm`, `rrsnapshot=`, and those made from time to time.
//!
//! The vCPU process saves and takes states (`replay::handover`); this process alone reads and writes the store (`replay::store`), in
//! threads, so that neither the guest nor the loop waits for compression. `desk` is what monitors and the vCPU process leave for
//! `keeper`, which does one thing after the other; `work` is what its threads do; `disks` knows on which layer each disk
//! of a recording goes on, `merging` makes few of many, `kept` what disks that are written in place have held; `disk_jobs` lets them.

pub mod desk;
mod disk_jobs;
pub mod disks;
pub mod keeper;
pub mod kept;
pub mod kept_file;
mod merging;
pub mod places;
pub mod replayed;
mod travel;
mod work;

pub use desk::Desk;
pub use keeper::Keeper;
pub use places::{Places, Setup};
pub use work::check_fits;
