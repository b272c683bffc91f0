//! The command line of `ringfence gateway`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::config::Proxy;

/// What `--help` says beyond the flags.
pub const HELP: &str = "\
A proxy beside it asks http://ADDR:PORT/auth with the client's Authorization and DPoP headers; 200
names the session in x-ringfence-* headers, 401 and 403 refuse, 503 means that it cannot tell now. Home is asked for its log once a second, never for a request. Who
is revoked at home is refused here within seconds; without word from home for longer than --fresh,
sessions that may reach restricted data are refused, longer than --most, all are.

Examples:
  ringfence gateway --trust home.trust --home https://log.example --site cloud --listen 127.0.0.1:9320
  ringfence gateway --trust home.trust --home http://127.0.0.1:9301 --site home --listen 127.0.0.1:9320 --most 5

See docs/operate/gateway.md for the trust file, and proxies to put in front.";

/// `ringfence gateway`
#[derive(Args, Clone, Debug)]
pub struct GatewayArgs {
    /// The trust file: the log's key, its witnesses, the realms' roots and manifests.
    #[arg(long, value_name = "FILE")]
    pub trust: PathBuf,
    /// Where home serves its public log, without `/log`.
    #[arg(long, value_name = "URL")]
    pub home: String,
    /// The site this gateway stands at; tokens for other sites are refused.
    #[arg(long, value_name = "SITE")]
    pub site: String,
    /// Where it answers.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// How the proxy that asks says what it was asked for.
    #[arg(long, value_enum, default_value_t)]
    pub proxy: Proxy,
    /// Where the pinned checkpoint is kept; losing it is forgetting what home showed.
    #[arg(long, value_name = "DIR", default_value = "./ringfence-gateway")]
    pub state: PathBuf,
    /// Lower than 30 (5 at site `home`): refuse restricted sessions after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub fresh: Option<u64>,
    /// Lower than 60 (10 at site `home`): refuse everything after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub most: Option<u64>,
}
