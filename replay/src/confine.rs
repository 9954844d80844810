//! What a child process gives up before it meets the guest: system calls that only an intruder would want.
//!
//! Guest and back-ends are distrusted (design section 14). A vCPU or device process that was taken over can still
//! compute and use the descriptors it was given; it cannot start programs, look into other processes, change users,
//! mounts, kernels or namespaces.

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter_all_threads};
use std::collections::BTreeMap;

/// System calls refused in every child process, with EPERM.
const REFUSED: &[libc::c_long] = &[
    // Other programs and other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_perf_event_open,
    // Users and privileges.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Mounts, roots and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    // The kernel itself and its clock.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_bpf,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
];

/// System calls that a vCPU process does not need besides: its peers are connected before it confines itself. Debuggers come
/// later; it accepts them on a socket that it was given.
const REFUSED_IN_VCPU: &[libc::c_long] = &[
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_chown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
];

/// Kinds of child process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs guest code.
    Vcpu,
    /// Serves a device; its streams may connect and accept.
    Device,
}

/// Why a process could not be confined.
#[derive(Debug, thiserror::Error)]
#[error("cannot give up system calls (seccomp): {0}")]
pub struct ConfineError(#[from] seccompiler::Error);

/// Gives up the system calls that `role` has no use for, in all threads, for good.
///
/// # Errors
/// When the kernel has no seccomp filters or the process has one that forbids more.
pub fn confine(role: Role) -> Result<(), ConfineError> {
    let more: &[libc::c_long] = match role {
        Role::Vcpu => REFUSED_IN_VCPU,
        Role::Device => &[],
    };
    let rules: BTreeMap<i64, Vec<_>> = REFUSED.iter().chain(more).map(|&call| (call, vec![])).collect();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64);
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(seccompiler::Error::from)?;
    Ok(apply_filter_all_threads(&program)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const CHILD: &str = "REPRISE_TEST_CONFINED";

    /// What a confined process sees; runs in a process of its own, because a filter holds for good.
    #[test]
    fn child() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        confine(Role::Vcpu).unwrap();
        let refused = Command::new("/bin/true").status().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        let refused = std::net::UdpSocket::bind("127.0.0.1:0").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        assert!(std::fs::read("/proc/self/status").unwrap().len() > 100, "what it needs still works");
    }

    #[test]
    fn a_confined_process_starts_no_programs_and_opens_no_sockets() {
        let this = std::env::current_exe().unwrap();
        let mut command = Command::new(this);
        let output = command.args(["--exact", "confine::tests::child"]).env(CHILD, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
