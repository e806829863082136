//! `weirgate serve`

use std::net::IpAddr;

use clap::Args;

use super::{CliError, Places};
use crate::server;

#[derive(Args)]
pub struct ServeArgs {
    #[command(flatten)]
    places: Places,
    /// Port for HTTP (1.1 and h2c); 0 takes a free one and prints it.
    #[arg(long, value_name = "N")]
    http_port: Option<u16>,
    /// Port for HTTPS.
    #[arg(long, value_name = "N")]
    https_port: Option<u16>,
    /// Port for health, metrics and the admin API.
    #[arg(long, value_name = "N")]
    admin_port: Option<u16>,
    /// Address for traffic.
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<IpAddr>,
}

pub fn run(args: &ServeArgs) -> Result<(), CliError> {
    let mut settings = args.places.settings()?;
    let listen = &mut settings.listen;
    listen.http_port = args.http_port.unwrap_or(listen.http_port);
    listen.https_port = args.https_port.unwrap_or(listen.https_port);
    listen.admin_port = args.admin_port.unwrap_or(listen.admin_port);
    listen.bind = args.bind.unwrap_or(listen.bind);
    server::run(settings, args.places.config_dir.is_some())?;
    Ok(())
}
