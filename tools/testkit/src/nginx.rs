//! nginx as a server of a test, with a configuration that the test writes.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{Process, READY_WITHIN};
use crate::tools;

/// Somebody else may take a port between our look and nginx's bind; this many times in a
/// row would be no coincidence.
const ATTEMPTS: usize = 5;

/// An nginx that is about to start.
#[derive(Debug)]
pub struct NginxBuilder {
    http: String,
    main: String,
    events: String,
    ports: usize,
    files: Vec<(String, Vec<u8>)>,
}

/// A running nginx with one worker. Dropping it ends it.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    ports: Vec<u16>,
    folder: TempDir,
}

impl Nginx {
    #[expect(clippy::new_ret_no_self, reason = "reads as what it makes; `start` ends the making")]
    /// An nginx with this text inside its `http` block. `{port}`, `{port2}`, … stand for
    /// free ports and `{dir}` for the folder of its files.
    pub fn new(http: &str) -> NginxBuilder {
        NginxBuilder {
            http: http.to_owned(),
            main: String::new(),
            events: String::new(),
            ports: 1,
            files: Vec::new(),
        }
    }

    /// The base URL of the first port.
    pub fn url(&self) -> String {
        self.url_of(0)
    }

    /// The base URL of a port, from 0.
    pub fn url_of(&self, index: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[index])
    }

    /// The ports, in the order of their placeholders.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// The folder of configuration, files and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process identifiers: the master's first, then the workers'.
    pub fn pids(&self) -> Vec<u32> {
        let master = self.process.pid();
        let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children"));
        let children = children.unwrap_or_default();
        let workers = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        std::iter::once(master).chain(workers).collect()
    }

    /// Ends it, connections included.
    pub fn stop(mut self) {
        self.process.terminate(READY_WITHIN);
    }
}

impl NginxBuilder {
    /// Adds directives to the main block, for example `worker_cpu_affinity 01;`.
    pub fn main(mut self, text: &str) -> Self {
        self.main.push_str(text);
        self
    }

    /// Adds directives to the `events` block.
    pub fn events(mut self, text: &str) -> Self {
        self.events.push_str(text);
        self
    }

    /// How many free ports the configuration uses.
    pub fn ports(mut self, count: usize) -> Self {
        self.ports = count;
        self
    }

    /// Puts a file into `{dir}`.
    pub fn file(mut self, name: &str, contents: impl AsRef<[u8]>) -> Self {
        self.files.push((name.to_owned(), contents.as_ref().to_vec()));
        self
    }

    /// Starts it and waits until every port accepts connections.
    pub fn start(self) -> Nginx {
        for _ in 1..ATTEMPTS {
            if let Ok(nginx) = self.attempt() {
                return nginx;
            }
        }
        self.attempt().unwrap_or_else(|mut process| process.fail("ended at once"))
    }

    /// One start; gives the process back where it ended, since its port may be taken.
    fn attempt(&self) -> Result<Nginx, Process> {
        let folder = tempfile::tempdir().unwrap();
        for (name, contents) in &self.files {
            std::fs::write(folder.path().join(name), contents).unwrap();
        }
        let ports = free_ports(self.ports);
        let config = folder.path().join("nginx.conf");
        std::fs::write(&config, self.text(folder.path(), &ports)).unwrap();
        let mut command = tools::debian("nginx");
        command.arg("-p").arg(folder.path()).arg("-c").arg(&config).args(["-e", "stderr"]);
        let mut process = Process::start("nginx", command);
        let ready = process.wait_until(READY_WITHIN, || {
            ports.iter().all(|port| is_listening(*port)).then_some(())
        });
        match ready {
            Ok(()) => Ok(Nginx { process, ports, folder }),
            Err(_) => Err(process),
        }
    }

    fn text(&self, folder: &Path, ports: &[u16]) -> String {
        let mut http = self.http.replace("{dir}", &folder.display().to_string());
        for (index, port) in ports.iter().enumerate().rev() {
            let name =
                if index == 0 { "{port}".to_owned() } else { format!("{{port{}}}", index + 1) };
            http = http.replace(&name, &port.to_string());
        }
        // A worker of another user could not read a folder that is private to this one.
        let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {};\n", temp_path(folder, name).display()))
            .collect();
        format!(
            "daemon off; {user} worker_processes 1; pid {pid}; error_log stderr warn;\n{main}\n\
             events {{ worker_connections 8192; {events} }}\n\
             http {{ access_log off;\n{temporary}{http}\n}}\n",
            pid = folder.join("nginx.pid").display(),
            main = self.main,
            events = self.events,
        )
    }
}

fn temp_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}_temp"))
}

/// Ports that nobody listened on a moment ago.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    // All at once, so that no port comes twice.
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

pub(crate) fn is_listening(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serves_its_configuration_and_files() {
        let nginx = Nginx::new(
            "server { listen 127.0.0.1:{port}; location / { root {dir}; } }
             server { listen 127.0.0.1:{port2}; location / { return 200 second; } }",
        )
        .ports(2)
        .file("hello.txt", "hello")
        .start();
        assert_eq!(crate::http::get(&format!("{}/hello.txt", nginx.url())).text(), "hello");
        assert_eq!(crate::http::get(&nginx.url_of(1)).text(), "second");
        assert_eq!(nginx.pids().len(), 2);
        nginx.stop();
    }
}
