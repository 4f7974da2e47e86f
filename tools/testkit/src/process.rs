//! A process of a test: its own process group, its log, and its certain end.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How long a server may take until it is ready. Loaded machines are slow.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(30);

/// Pause between two looks at a log or at a child's state.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A running process that leads its own process group. Dropping it kills the group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    watchdog: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
    keep_log: bool,
}

impl Process {
    /// Starts `command` with no input, and with both outputs appended to one log file.
    pub fn start(name: &str, mut command: Command) -> Self {
        let log = log_path(name);
        let file = open_log(&log);
        let again = file.try_clone().unwrap();
        command.stdin(Stdio::null()).stdout(file).stderr(again).process_group(0);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        let watchdog = watch(child.id());
        Self { name: name.to_owned(), child, watchdog, log, ended: None, keep_log: false }
    }

    /// The process identifier, which is also its group's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that the process has written so far.
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        let mut file = File::open(&self.log).unwrap();
        file.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits until `find` returns something for the log. Panics when the process ends
    /// before that, or after `within`.
    pub fn wait_for_log<T>(&mut self, within: Duration, find: impl Fn(&str) -> Option<T>) -> T {
        let until = Instant::now() + within;
        loop {
            // The order matters: what a process wrote before it ended must be seen.
            let ended = self.try_wait();
            if let Some(found) = find(&self.log()) {
                return found;
            }
            if let Some(status) = ended {
                self.fail(&format!("ended too early ({status})"));
            }
            if Instant::now() > until {
                self.fail(&format!("did not write the expected line within {within:?}"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Sends a signal to the process group, for example `Signal::TERM`.
    pub fn signal(&self, signal: Signal) {
        let group = Pid::from_child(&self.child);
        kill_process_group(group, signal)
            .unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// The exit status, if the process has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended
    }

    /// Waits for the end of the process. Panics after `within`.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let until = Instant::now() + within;
        loop {
            if let Some(status) = self.try_wait() {
                return status;
            }
            if Instant::now() > until {
                self.fail(&format!("did not end within {within:?}"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Asks the process to end, as an operator would, and waits for it.
    pub fn terminate(&mut self, within: Duration) -> ExitStatus {
        if self.try_wait().is_none() {
            self.signal(Signal::TERM);
        }
        self.wait(within)
    }

    /// Panics with the end of the log, and keeps the log.
    pub(crate) fn fail(&mut self, why: &str) -> ! {
        self.keep_log = true;
        let log = self.log();
        let from = log.floor_char_boundary(log.len().saturating_sub(4_000));
        panic!("{} {why}; its log is {}:\n{}", self.name, self.log.display(), &log[from..]);
    }

    /// Whether the process ended before the deadline because of a taken port; used to try
    /// again with another one.
    pub(crate) fn wait_until<T>(
        &mut self,
        within: Duration,
        ready: impl Fn() -> Option<T>,
    ) -> Result<T, ExitStatus> {
        let until = Instant::now() + within;
        loop {
            if let Some(status) = self.try_wait() {
                return Err(status);
            }
            if let Some(value) = ready() {
                return Ok(value);
            }
            if Instant::now() > until {
                self.fail(&format!("was not ready within {within:?}"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        // The group may outlive its leader, so it is killed even when the leader is gone;
        // a group that is gone as well is no error.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        if self.ended.is_none() {
            let _ = self.child.wait();
        }
        if self.keep_log || std::thread::panicking() {
            eprintln!("the log of {} is {}", self.name, self.log.display());
        } else {
            let _ = std::fs::remove_file(&self.log);
        }
    }
}

/// Kills a process group when this process is gone, however it ended: a signal, such as
/// that of Ctrl-C, runs no `drop`.
fn watch(group: u32) -> Child {
    // The pipe closes with this process, and `read` returns.
    let script = "read -r line; kill -s KILL -- \"-$0\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, &group.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().unwrap_or_else(|error| panic!("cannot start sh: {error}"))
}

fn open_log(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()))
}

/// `target/testkit/TEST-PID-N-NAME.log`.
fn log_path(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let folder = crate::tools::target_dir().join("testkit");
    std::fs::create_dir_all(&folder)
        .unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("main").replace("::", "-");
    folder.join(format!("{test}-{}-{number}-{name}.log", std::process::id()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn is_running(pid: u32) -> bool {
        // A zombie whose parent has not asked yet counts as gone.
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn drop_kills_the_children_too() {
        let mut process = Process::start("sh", shell("sleep 600 & echo child $!; wait"));
        let child: u32 = process.wait_for_log(READY_WITHIN, |log| {
            log.lines().find_map(|line| line.strip_prefix("child ")?.parse().ok())
        });
        assert!(is_running(child));
        drop(process);
        let until = Instant::now() + READY_WITHIN;
        while is_running(child) {
            assert!(Instant::now() < until, "the child outlived its group");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_panic_ends_the_process_and_keeps_its_log() {
        let result = std::thread::Builder::new()
            .name("panics".to_owned())
            .spawn(|| {
                let mut process = Process::start("sh", shell("echo up; sleep 600"));
                process.wait_for_log(READY_WITHIN, |log| log.contains("up").then_some(()));
                let facts = (process.pid(), process.log.clone());
                std::panic::resume_unwind(Box::new(facts));
            })
            .unwrap()
            .join();
        let facts = result.unwrap_err().downcast::<(u32, PathBuf)>().unwrap();
        assert!(!is_running(facts.0));
        assert_eq!(std::fs::read_to_string(&facts.1).unwrap(), "up\n");
        std::fs::remove_file(&facts.1).unwrap();
    }

    /// This process stands for one that a signal ended: only its end of the pipe closes.
    #[test]
    fn the_watchdog_kills_when_nobody_drops() {
        let mut process = Process::start("sh", shell("echo up; sleep 600"));
        process.wait_for_log(READY_WITHIN, |log| log.contains("up").then_some(()));
        drop(process.watchdog.stdin.take());
        assert_eq!(process.wait(READY_WITHIN).signal(), Some(Signal::KILL.as_raw()));
    }

    #[test]
    #[should_panic(expected = "ended too early")]
    fn an_early_end_is_told() {
        let mut process = Process::start("sh", shell("echo no such option; exit 2"));
        process.wait_for_log(READY_WITHIN, |log| log.contains("listening").then_some(()));
    }

    #[test]
    fn terminate_is_polite() {
        let mut process =
            Process::start("sh", shell("trap 'exit 7' TERM; echo up; sleep 600 & wait"));
        process.wait_for_log(READY_WITHIN, |log| log.contains("up").then_some(()));
        assert_eq!(process.terminate(READY_WITHIN).code(), Some(7));
    }
}
