//! Starts real counterparts on free ports of loopback and stops them by pid.
//!
//! They are installed by `make test-services`; a missing one fails the test
//! with that advice, since a skipped test proves nothing.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::{
    env,
    fs::File,
    io::Write,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ringfence_format::names::SiteId;
use ringfence_store::site::{SecretRef, SiteCredential};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long a counterpart may take to answer on a busy machine.
const START: Duration = Duration::from_secs(60);
/// Bucket or container that the tests use.
pub const BUCKET: &str = "ringfence-contract";

/// A server that a test talks to; dropped, it is stopped.
pub struct Counterpart {
    child: Child,
    addr: SocketAddr,
    log: PathBuf,
    /// Its data; goes away with it.
    dir: TempDir,
}

impl Counterpart {
    /// S3 by moto: in memory, accepts any credential.
    pub async fn moto() -> Self {
        let moto = tool(".venv/bin/moto_server");
        let server = Self::start(|port, _| {
            let mut command = Command::new(&moto);
            command.args(["-H", "127.0.0.1", "-p", port]);
            command
        });
        server.ready().await;
        let made = request(server.addr, "PUT", &format!("/{BUCKET}"), SIGNED_FOR_MOTO).await;
        assert!(made.starts_with("HTTP/1.1 200"), "moto makes a bucket: {made}");
        server
    }

    /// S3 by rclone over a folder, whose sub-folders are its buckets.
    pub async fn rclone() -> Self {
        let rclone = tool(".venv/bin/rclone");
        let server = Self::start(|port, dir| {
            std::fs::create_dir_all(dir.join("s3").join(BUCKET)).expect("made");
            let mut command = Command::new(&rclone);
            command.args([
                "serve",
                "s3",
                "--addr",
                &format!("127.0.0.1:{port}"),
                "--auth-key",
                "test-access-key,test-secret",
            ]);
            command.args(["--vfs-cache-mode", "off", "--config", "/dev/null"]).arg(dir.join("s3"));
            command
        });
        server.ready().await;
        server
    }

    /// Azure Blob by Azurite.
    pub async fn azurite() -> Self {
        let azurite = tool("tests/services/node_modules/.bin/azurite-blob");
        let server = Self::start(|port, dir| {
            let mut command = Command::new(&azurite);
            command.args(["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--blobHost", "127.0.0.1"]);
            command.args(["--blobPort", port, "-l"]).arg(dir);
            command
        });
        server.ready().await;
        azure_container(&server).await;
        server
    }

    /// Google Cloud Storage by gcp-storage-emulator, in memory.
    pub async fn gcs() -> Self {
        let gcs = tool(".venv/bin/gcp-storage-emulator");
        let server = Self::start(|port, _| {
            let mut command = Command::new(&gcs);
            command.args(["start", "--host", "127.0.0.1", "--port", port, "--in-memory"]);
            command.args(["--default-bucket", BUCKET]);
            command
        });
        server.ready().await;
        server
    }

    /// `http://127.0.0.1:PORT` and the path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn start(command: impl FnOnce(&str, &Path) -> Command) -> Self {
        let addr = free_address();
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let out = File::create(&log).expect("made");
        let mut command = command(&addr.port().to_string(), dir.path());
        command.current_dir(dir.path()).stdin(Stdio::null());
        command.stderr(out.try_clone().expect("cloned")).stdout(out);
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
        Self { child, addr, log, dir }
    }

    /// Waits until it answers HTTP.
    async fn ready(&self) {
        let begun = Instant::now();
        let mut pause = tokio::time::interval(Duration::from_millis(100));
        loop {
            pause.tick().await;
            if let Ok(Ok(answer)) =
                tokio::time::timeout(Duration::from_secs(2), try_request(self.addr, "GET", "/", "")).await
                && answer.starts_with("HTTP/1")
            {
                return;
            }
            if begun.elapsed() > START {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                panic!("the counterpart does not answer on {}:\n{log}", self.addr);
            }
        }
    }
}

impl Drop for Counterpart {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The repository's root, above this crate.
fn repository() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let above = here.ancestors().find(|dir| dir.join("tests/services/package.json").is_file());
    above.unwrap_or_else(|| panic!("no tests/services above {}", here.display())).to_owned()
}

fn tool(path: &str) -> PathBuf {
    let tool = repository().join(path);
    assert!(tool.exists(), "{path} is missing: run `make test-services`");
    tool
}

/// A port that was free a moment ago. Another process may take it in between;
/// the counterpart then fails to start and the test says so.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("loopback has a free port")
}

/// moto looks for a credential scope only to find the region.
const SIGNED_FOR_MOTO: &str = "authorization: AWS4-HMAC-SHA256 \
    Credential=test-access-key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0\r\n";

/// A credential that moto and our rclone accept.
pub fn s3_credential() -> SiteCredential {
    let site = SiteId::parse("s3").expect("a name");
    let access = secret("test-access-key");
    let key = secret("test-secret");
    SiteCredential::s3(&site, &access.0, &key.0).expect("readable")
}

/// The well-known account of Azurite, published in its documentation.
pub fn azure_credential() -> SiteCredential {
    let site = SiteId::parse("azure").expect("a name");
    let key = secret(AZURITE_KEY);
    SiteCredential::azure(&site, "devstoreaccount1", &key.0).expect("readable")
}

const AZURITE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A reference to a secret in a file, which goes away with the second part.
fn secret(text: &str) -> (SecretRef, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().expect("made");
    file.write_all(text.as_bytes()).expect("written");
    (SecretRef::File(file.path().to_owned()), file)
}

/// HMAC-SHA256 under [`AZURITE_KEY`] of the string to sign ("Authorize with
/// Shared Key") of this one request; the emulator does not mind its date.
const AZURITE_SIGNATURE: &str = "NU3Ap0hSTZkO9GfidTsmQx8U3TxOu8UlEnOY+4mRC8E=";

/// Makes the container.
async fn azure_container(server: &Counterpart) {
    let headers = format!(
        "x-ms-date: Thu, 01 Jan 2026 00:00:00 GMT\r\nx-ms-version: 2021-08-06\r\n\
         authorization: SharedKey devstoreaccount1:{AZURITE_SIGNATURE}\r\n"
    );
    let path = format!("/devstoreaccount1/{BUCKET}?restype=container");
    let made = request(server.addr, "PUT", &path, &headers).await;
    assert!(made.starts_with("HTTP/1.1 201"), "azurite makes a container: {made}");
}

async fn request(addr: SocketAddr, method: &str, path: &str, headers: &str) -> String {
    try_request(addr, method, path, headers).await.expect("an answer")
}

/// One HTTP request without a body; the answer as text.
async fn try_request(addr: SocketAddr, method: &str, path: &str, headers: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: {addr}\r\ncontent-length: 0\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
