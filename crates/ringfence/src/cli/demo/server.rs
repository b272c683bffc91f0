//! The server the demo talks to: the one that runs, or one of its own.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::admin::call::Call;
use crate::cli::{Common, Failure, Kind, Output, connect};

/// How long a first start may take.
const START: Duration = Duration::from_secs(60);

/// Where to talk to; one that was started here ends with it.
pub struct Server {
    pub endpoint: String,
    started: Option<Child>,
}

/// Finds the server of a data directory, or starts one.
pub fn find_or_start(common: &Common, output: &Output) -> Result<Server, Failure> {
    let socket = common.data.join(crate::admin::socket::NAME);
    if UnixStream::connect(&socket).is_ok() {
        return running(common, None, output);
    }
    output.say(&format!("no server runs on {}: starting one for the demo", common.data.display()));
    let (s3, admin) = (free_address()?, free_address()?);
    let program = std::env::current_exe().map_err(Failure::internal)?;
    let child = Command::new(program)
        .args(["serve", "--json", "--s3", &s3, "--admin", &admin, "--data"])
        .arg(&common.data)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .env("RINGFENCE_TRACE", "warn")
        .spawn()
        .map_err(|e| Failure::internal(format!("a server cannot be started: {e}")))?;
    // From here on dropping it ends the child.
    let mut server = Server { endpoint: format!("http://{s3}"), started: Some(child) };
    let deadline = Instant::now() + START;
    while UnixStream::connect(&socket).is_err() {
        let ended = server.started.as_mut().and_then(|child| child.try_wait().ok().flatten());
        if ended.is_some() || Instant::now() > deadline {
            return Err(Failure::new(Kind::Unavailable, "the server for the demo did not start")
                .next("see its message above; `ringfence serve` starts it alone"));
        }
        wait_a_little();
    }
    let child = server.started.take();
    running(common, child, output)
}

fn running(common: &Common, started: Option<Child>, output: &Output) -> Result<Server, Failure> {
    let mut server = Server { endpoint: String::new(), started };
    let status = connect::call(common, Call::Status {}, output)?;
    server.endpoint = format!("http://{}", status["s3"].as_str().unwrap_or_default());
    Ok(server)
}

/// A port that is free now; the server binds it a moment later.
fn free_address() -> Result<String, Failure> {
    let probe = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    probe.map(|addr| addr.to_string()).map_err(|e| Failure::internal(format!("no free port: {e}")))
}

/// Another process tells us nothing we could wait for.
#[allow(clippy::disallowed_methods)]
fn wait_a_little() {
    std::thread::sleep(Duration::from_millis(50));
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut child) = self.started.take() else { return };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = child.wait();
    }
}
