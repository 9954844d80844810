//! The children: who they are, how they ended, and which of several deaths was the first cause.

use crate::logging::LogSettings;
use crate::logging::link::Link;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// What a child is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The vCPU process.
    Vcpu,
    /// A device process.
    Device,
}

/// One child.
#[derive(Debug)]
pub struct Member {
    /// What it is for.
    pub role: Role,
    /// Its name in messages, e.g. `device process chardev "serial0"`.
    pub name: String,
    child: Child,
    status: Option<ExitStatus>,
    /// Where it hears what to log.
    log: Option<Link>,
}

/// All children; those that are left are killed on drop.
#[derive(Debug, Default)]
pub struct Children {
    members: Vec<Member>,
    /// Those that were told to end and are not blamed for anything, and when they are killed.
    leaving: Vec<(Member, Instant)>,
}

impl Member {
    /// Process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// How it ended, if it did.
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            // A child that cannot be waited for is not ours any more.
            self.status = self.child.try_wait().unwrap_or(Some(ExitStatus::from_raw(0)));
        }
        self.status
    }

    fn signal(&mut self, signal: Signal) {
        if self.poll().is_none() {
            // It has not been reaped, so the number is still its own.
            let _ = kill(Pid::from_raw(self.pid()), signal);
        }
    }

    /// How much its end explains: a signal more than an error, an error more than a quiet end.
    fn weight(&self) -> u8 {
        match self.status {
            None => 0,
            Some(status) if status.success() => 1,
            Some(status) if status.signal().is_none() => 2,
            Some(_) => 3,
        }
    }

    /// `device process chardev "serial0" (pid 12) was killed by signal 9`.
    pub fn describe_end(&self) -> String {
        let how = match self.status {
            None => "runs".to_owned(),
            Some(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => format!("was killed by signal {signal}"),
                (None, Some(code)) => format!("ended with status {code}"),
                (None, None) => "ended".to_owned(),
            },
        };
        format!("{} (pid {}) {how}", self.name, self.pid())
    }
}

impl Children {
    /// Takes a child in; returns its process id.
    pub fn add(&mut self, role: Role, name: String, child: Child) -> i32 {
        let member = Member { role, name, child, status: None, log: None };
        let pid = member.pid();
        self.members.push(member);
        pid
    }

    /// A child hears by `link` what to log.
    pub fn add_link(&mut self, pid: i32, link: Link) {
        if let Some(member) = self.members.iter_mut().find(|member| member.pid() == pid) {
            member.log = Some(link);
        }
    }

    /// Tells all what to log.
    pub fn tell_log(&mut self, settings: &LogSettings) {
        self.members.iter_mut().filter_map(|member| member.log.as_mut()).for_each(|link| link.tell(settings));
    }

    /// Names of those that live and have not heard what to log.
    pub fn deaf(&mut self) -> Vec<String> {
        let mut names = vec![];
        for member in self.members.iter_mut().filter(|member| member.status.is_none()) {
            if member.log.as_mut().is_some_and(|link| !link.has_heard()) {
                names.push(member.name.clone());
            }
        }
        names
    }

    /// Leaves a child that has ended out of account from here on.
    pub fn forget(&mut self, pid: i32) {
        self.members.retain(|member| member.status.is_none() || member.pid() != pid);
    }

    /// Tells a device process to end, and leaves it out of account from here on. It is killed if it does not end in time.
    pub fn begin_to_end(&mut self, pid: i32) {
        let Some(at) = self.members.iter().position(|member| member.pid() == pid) else { return };
        let mut member = self.members.remove(at);
        member.signal(Signal::SIGTERM);
        // A stopped process takes no SIGTERM before it goes on.
        member.signal(Signal::SIGCONT);
        self.leaving.push((member, Instant::now() + DEVICE_FINISH_TIMEOUT));
    }

    /// Whether one of these, which were told to end, has not done so yet.
    pub fn are_leaving(&mut self, pids: &[i32]) -> bool {
        self.reap_leaving();
        self.leaving.iter().any(|(member, _)| pids.contains(&member.pid()))
    }

    fn reap_leaving(&mut self) {
        let now = Instant::now();
        self.leaving.retain_mut(|(member, deadline)| {
            if now >= *deadline {
                member.signal(Signal::SIGKILL);
            }
            member.poll().is_none()
        });
    }

    /// The child with this role and the highest claim to be named; reaps first.
    pub fn first_cause(&mut self) -> Option<&Member> {
        self.reap();
        let ended = self.members.iter().filter(|member| member.status.is_some());
        ended.max_by_key(|member| (member.weight(), member.role == Role::Vcpu))
    }

    /// Reaps; says whether any child has ended.
    pub fn reap(&mut self) -> bool {
        self.reap_leaving();
        let ended = self.members.iter_mut().filter_map(Member::poll).count();
        ended > 0
    }

    /// The vCPU process, once it was started.
    pub fn vcpu(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.role == Role::Vcpu)
    }

    /// How the child with this process id ended, if it does so within `timeout`.
    pub fn wait_one(&mut self, pid: i32, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        let member = self.members.iter_mut().find(|member| member.pid() == pid)?;
        while member.poll().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        member.status
    }

    /// Waits until all children of this role have ended; false when `timeout` was too short.
    pub fn wait(&mut self, role: Role, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let mut of_role = self.members.iter_mut().filter(|member| member.role == role);
            if of_role.all(|member| member.poll().is_some()) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal to all children of this role that live.
    pub fn signal(&mut self, role: Role, signal: Signal) {
        for member in self.members.iter_mut().filter(|member| member.role == role) {
            member.signal(signal);
        }
    }

    /// Ends what is left: the vCPU at once, devices after they have put their terminals and sockets in order.
    pub fn end_all(&mut self) {
        self.members.extend(self.leaving.drain(..).map(|(member, _)| member));
        self.signal(Role::Vcpu, Signal::SIGKILL);
        self.signal(Role::Device, Signal::SIGTERM);
        // A stopped process takes no SIGTERM before it goes on.
        self.signal(Role::Device, Signal::SIGCONT);
        if !self.wait(Role::Device, DEVICE_TERM_TIMEOUT) {
            self.signal(Role::Device, Signal::SIGKILL);
        }
        for member in &mut self.members {
            if member.status.is_none() {
                member.status = member.child.wait().ok();
            }
        }
    }
}

/// How long one device process may take that is ended in order while the run goes on: a little more than it promises to take
/// for its last output (docs/devices.md).
const DEVICE_FINISH_TIMEOUT: Duration = Duration::from_secs(6);
/// How long devices may take after SIGTERM.
const DEVICE_TERM_TIMEOUT: Duration = Duration::from_millis(500);

impl Drop for Children {
    fn drop(&mut self) {
        self.end_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn add(children: &mut Children, role: Role, name: &str, script: &str) {
        let child = Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
        children.add(role, name.to_owned(), child);
    }

    #[test]
    fn the_killed_one_is_named_not_its_victims() {
        let mut children = Children::default();
        add(&mut children, Role::Vcpu, "vcpu process", "exit 1");
        add(&mut children, Role::Device, "device process a", "exit 0");
        add(&mut children, Role::Device, "device process b", "kill -9 $$");
        assert!(children.wait(Role::Vcpu, Duration::from_secs(5)));
        assert!(children.wait(Role::Device, Duration::from_secs(5)));
        let text = children.first_cause().unwrap().describe_end();
        assert!(
            text.starts_with("device process b (pid ") && text.ends_with("was killed by signal 9"),
            "{text}"
        );
    }

    #[test]
    fn one_that_was_replaced_is_not_blamed() {
        let mut children = Children::default();
        add(&mut children, Role::Device, "device process a", "exec sleep 100");
        add(&mut children, Role::Device, "device process a", "kill -9 $$");
        let pids: Vec<i32> = children.members.iter().map(Member::pid).collect();
        children.begin_to_end(pids[0]);
        while children.are_leaving(&pids[..1]) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(kill(Pid::from_raw(pids[0]), None).is_err());
        assert!(children.wait_one(pids[1], Duration::from_secs(5)).is_some());
        assert_eq!(children.first_cause().unwrap().pid(), pids[1]);
        children.forget(pids[1]);
        assert!(children.first_cause().is_none() && !children.reap());
    }

    #[test]
    fn nothing_is_left() {
        let mut children = Children::default();
        add(&mut children, Role::Vcpu, "vcpu process", "exec sleep 100");
        add(&mut children, Role::Device, "device", "trap '' TERM; while :; do sleep 0.01; done");
        let pids: Vec<i32> = children.members.iter().map(Member::pid).collect();
        assert!(!children.reap());
        drop(children);
        for pid in pids {
            assert!(kill(Pid::from_raw(pid), None).is_err());
        }
    }
}
