//! The parsers of bytes from outside, for the fuzz targets and `tests/fuzz.rs`.
//!
//! Nothing here parses: each function hands its bytes to the code that parses
//! them in a running server, and tells what came of it. The bodies of the
//! targets, with what they hold against it, stand in `fuzz/src`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use futures::FutureExt;
use http_body_util::BodyExt;
use ringfence_access::caller::PeerCredential;
use ringfence_db::disk::sim::SimDisk;
use ringfence_format::checkpoint::VerifierKey;
use ringfence_format::witness::WitnessKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use crate::admin::call::Call;
use crate::admin::socket;
use crate::config::Config;
use crate::installation::{self, Installation, Options};
use crate::s3::Wire;
use crate::serve::{Stop, Stopping, connection, stop_channel};
use crate::witness;
use crate::witness::request::AddCheckpoint;
use crate::witness::state::State;

/// What a configuration that was accepted says.
pub struct Settings {
    /// The same again, as TOML.
    pub toml: String,
    /// Where it would listen.
    pub listens: Vec<SocketAddr>,
    /// Whether labels, sites and placement tables fit each other; a start
    /// would fail otherwise.
    pub fits: Result<(), String>,
}

/// What is said of a configuration that was refused.
pub struct Complaint {
    /// Its one line.
    pub line: String,
    /// The same with its place drawn, as a terminal shows it.
    pub drawn: String,
}

/// Reads a configuration and its overrides.
///
/// # Errors
/// What the operator would be told.
pub fn settings(text: &str, environment: &[(String, String)]) -> Result<Settings, Complaint> {
    let config = Config::parse(Path::new("ringfence.toml"), text, environment.iter().cloned()).map_err(|error| {
        let mut drawn = String::new();
        let handler = miette::GraphicalReportHandler::new().with_cause_chain();
        handler.render_report(&mut drawn, &error).expect("a string takes everything");
        Complaint { line: error.to_string(), drawn }
    })?;
    Ok(Settings {
        toml: toml::to_string(&config).expect("what was read can be written"),
        listens: [config.s3.addr, config.admin.addr].into_iter().chain(config.auth.addr).collect(),
        fits: installation::tables_fit(&config).map_err(|failure| failure.to_string()),
    })
}

/// The configuration that a first start writes.
pub const FIRST_SETTINGS: &str = crate::config::FIRST;

/// Reads an administrative call; `Some` is the same call again, as JSON.
pub fn call(bytes: &[u8]) -> Option<Vec<u8>> {
    let call: Call = serde_json::from_slice(bytes).ok()?;
    Some(serde_json::to_vec(&call).expect("a call is JSON"))
}

/// A whole server without its sockets: what a client would send comes in as
/// bytes, and what it would get goes out as bytes.
pub struct Server {
    at: Arc<Installation>,
    wire: Wire,
    key: (String, Zeroizing<String>),
    stopping: Stopping,
    _stop: Stop,
    runtime: Runtime,
}

/// Pieces in which a client and the server hand each other bytes.
const PIPE_BYTES: usize = 256 * 1024;

impl Server {
    /// A first start in an empty folder.
    pub fn start(dir: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let opened = runtime.block_on(Installation::open(dir, Options { create: true }));
        let at = Arc::new(opened.unwrap_or_else(|failure| panic!("the installation does not open: {failure}")));
        let key = at.first_credentials().expect("a first start makes a key");
        let wire = crate::s3::service(at.clone());
        let (stop, stopping) = stop_channel();
        let key = (key.id.to_string(), key.secret.clone());
        Self { at, wire, key, stopping, _stop: stop, runtime }
    }

    /// Id and secret of the first tenant's key.
    pub fn key(&self) -> (&str, &str) {
        (&self.key.0, &self.key.1)
    }

    /// The time it sees, in microseconds since 1970.
    pub fn now_us(&self) -> u64 {
        self.at.clock().now_us()
    }

    /// How many records its log has.
    pub fn records(&self) -> u64 {
        self.at.log().durable_size()
    }

    /// Sends bytes over a connection of their own to the S3 endpoint and reads
    /// to the end of the connection: the request must ask for that.
    pub fn s3(&self, request: &[u8]) -> Vec<u8> {
        let peer = SocketAddr::from((IpAddr::from(Ipv4Addr::LOCALHOST), 1));
        self.exchange(request, |stream| connection(stream, peer, self.wire.clone(), self.stopping.clone()))
    }

    /// The same to the administration socket, as the user this process runs as.
    pub fn admin(&self, request: &[u8]) -> Vec<u8> {
        let peer = PeerCredential::from_so_peercred(rustix::process::geteuid().as_raw());
        self.exchange(request, |stream| socket::connection(stream, peer, self.at.clone()))
    }

    fn exchange<F: Future<Output = ()>>(&self, request: &[u8], serve: impl FnOnce(DuplexStream) -> F) -> Vec<u8> {
        let (client, server) = tokio::io::duplex(PIPE_BYTES);
        let (mut answers, mut requests) = tokio::io::split(client);
        let mut answer = Vec::new();
        self.runtime.block_on(async {
            // A server may answer and go before it has read everything.
            let send = async { drop(requests.write_all(request).await) };
            let read = async { drop(answers.read_to_end(&mut answer).await) };
            tokio::join!(serve(server), send, read);
        });
        answer
    }
}

/// What a witness that watches this log, and has seen nothing of it, answers to
/// `add-checkpoint`: the status and the body.
pub fn add_checkpoint(log: &VerifierKey, body: &[u8]) -> (u16, Vec<u8>, WitnessKey) {
    let disk = SimDisk::new().shared();
    let state = State::open(disk, Path::new("/witness"), Some("witness.example/fuzz"), vec![log.clone()]);
    let state = state.expect("a new witness");
    let answer = witness::server::add(&state, body);
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().now_or_never().and_then(Result::ok).expect("it is in memory").to_bytes();
    (status, body.to_vec(), state.verifier_key().clone())
}

/// Reads the body of `add-checkpoint` and writes it again.
pub fn again(body: &[u8]) -> Option<String> {
    AddCheckpoint::from_body(body).ok().map(|asked| asked.to_body())
}

impl Drop for Server {
    fn drop(&mut self) {
        self.runtime.block_on(self.at.close());
    }
}
