//! The built gateway as a process of its own, on free ports of the loopback.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// A running gateway, ended with the test.
pub(crate) struct Gateway {
    child: Child,
    /// Lines of the log, read on a thread of their own, so that no test waits for one without end.
    log: Receiver<String>,
    pub(crate) admin: String,
    pub(crate) proxy: String,
}

/// How long a line of the log may be in coming, before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

impl Gateway {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_schengate"))
            .arg("run")
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, log) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || {
            // Ends with the process, or with the test.
            for line in stderr.lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        let mut gateway = Self { child, log, admin: String::new(), proxy: String::new() };
        let line = gateway.until("admin pages");
        let told: serde_json::Value = serde_json::from_str(&line).unwrap();
        gateway.admin = told["fields"]["address"].as_str().unwrap().to_owned();
        let line = gateway.until("listening");
        let told: serde_json::Value = serde_json::from_str(&line).unwrap();
        gateway.proxy = told["fields"]["address"].as_str().unwrap().to_owned();
        gateway
    }

    /// The next line of the log that holds `part`.
    pub(crate) fn until(&mut self, part: &str) -> String {
        let mut seen = String::new();
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => {
                    seen.push_str(&line);
                    seen.push('\n');
                }
                Err(end) => panic!("no {part:?} ({end}) in\n{seen}"),
            }
        }
    }

    /// Every line of the log that has come and was not asked for.
    pub(crate) fn said(&self) -> Vec<String> {
        self.log.try_iter().collect()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// A page of the admin listener, with its head.
    pub(crate) fn page(&self, path: &str) -> String {
        let mut page = TcpStream::connect(&self.admin).unwrap();
        page.set_read_timeout(Some(PATIENCE)).unwrap();
        let host = &self.admin;
        write!(page, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        page.read_to_string(&mut text).unwrap();
        text
    }

    pub(crate) fn metric(&self, name: &str) -> String {
        let text = self.page("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
