//! One test's directory, and the program under test, found and known to be up to date.

use crate::process::{Child, Done};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

/// After this a run counts as hung. Generous: other tests may share the CPUs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program: beside the tests, and not older than its sources.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let path = test.parent().and_then(Path::parent).unwrap().join("reprise");
        let release = path.parent().is_some_and(|parent| parent.ends_with("release"));
        let build = if release { "cargo build --release -p broker" } else { "cargo build -p broker" };
        let Some(built) = modified(&path) else { panic!("{} is missing: run `{build}`", path.display()) };
        let sources = std::fs::read_to_string(path.with_extension("d")).unwrap_or_default();
        for source in sources.split_whitespace().skip(1) {
            let newer = modified(Path::new(source)).is_some_and(|changed| changed > built);
            assert!(!newer, "{} is older than {source}: run `{build}`", path.display());
        }
        path
    })
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

/// Connects to a UNIX socket as soon as it is there; a read that takes too long fails.
pub fn connect(path: &Path) -> UnixStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return stream;
            }
            Err(error) => assert!(Instant::now() < deadline, "{}: {error}", path.display()),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A test's own directory, in which everything it starts runs.
pub struct Lab {
    directory: TempDir,
}

impl Lab {
    pub fn new() -> Lab {
        Lab { directory: TempDir::with_prefix("reprise-test-").unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Copies a recording.
    pub fn copy(&self, from: &str, to: &str) {
        std::fs::create_dir(self.path(to)).unwrap();
        for entry in std::fs::read_dir(self.path(from)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), self.path(to).join(entry.file_name())).unwrap();
        }
    }

    /// Starts the program with the words of a line.
    pub fn start(&self, line: &str) -> Child {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.start_words(&words)
    }

    pub fn start_words(&self, words: &[&str]) -> Child {
        let mut command = Command::new(program());
        command.args(words).current_dir(self.directory.path()).env_remove("REPRISE_LOG");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Child::new(format!("reprise {}", words.join(" ")), command.spawn().unwrap())
    }

    /// Runs it to its end, without input.
    pub fn run(&self, line: &str) -> Done {
        self.start(line).end(PATIENCE)
    }

    /// What `reprise info` says the run ended with: the cause in the log.
    pub fn cause(&self, recording: &str) -> String {
        let log = self.run(&format!("log {recording} --kind shutdown --json")).well();
        let line = log.text().lines().next().unwrap_or_default().to_owned();
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        event["cause"].as_str().unwrap_or("none").to_owned()
    }
}
