//! The plainest Pingora reverse proxy: one listener, one upstream, nothing else. `weirgate-eval load` measures gateways beside it,
//! because the ratio to it holds on a busy machine where absolute numbers do not.

use std::net::SocketAddr;

use async_trait::async_trait;
use clap::Parser;
use pingora_core::Result;
use pingora_core::apps::HttpServerOptions;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

#[derive(Parser)]
#[command(name = "pingora-min", about = "Forwards every request to one upstream")]
struct Args {
    #[arg(long, default_value = "127.0.0.1:19180")]
    listen: SocketAddr,
    #[arg(long, default_value = "127.0.0.1:19000")]
    upstream: SocketAddr,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Listens with TLS here, too; needs --cert and --key
    #[arg(long, requires_all = ["cert", "key"])]
    tls_listen: Option<SocketAddr>,
    #[arg(long)]
    cert: Option<String>,
    #[arg(long)]
    key: Option<String>,
}

struct To(SocketAddr);

#[async_trait]
impl ProxyHttp for To {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let conf = ServerConf {
        threads: args.threads,
        upstream_keepalive_pool_size: 512,
        // Nobody waits for what a measurement leaves behind.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..Default::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, To(args.upstream));
    service.add_tcp(&args.listen.to_string());
    if let Some(logic) = service.app_logic_mut() {
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        logic.server_options = Some(options);
    }
    if let (Some(listen), Some(cert), Some(key)) = (args.tls_listen, &args.cert, &args.key) {
        let mut settings = TlsSettings::intermediate(cert, key)?;
        settings.enable_h2();
        service.add_tls_with_settings(&listen.to_string(), None, settings);
    }
    server.add_service(service);
    server.run_forever();
}
