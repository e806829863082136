//! Every socket the process listens on.

use std::net::{SocketAddr, TcpListener};

use super::start_error::StartError;
use crate::config::settings::Settings;
use crate::proxy::listener::Bound;

/// All listening sockets, bound before anything else.
pub struct Sockets {
    pub http: Bound,
    pub https: Bound,
    pub admin: TcpListener,
    pub admin_address: SocketAddr,
}

impl Sockets {
    /// # Errors
    /// One of the addresses cannot be had.
    pub fn bind(settings: &Settings, n_threads: usize) -> Result<Sockets, StartError> {
        let listen = &settings.listen;
        let bind = |port: u16, flag: &'static str| {
            let address = SocketAddr::new(listen.bind, port);
            Bound::bind(address, n_threads).map_err(|error| StartError::Listen { address, flag, error })
        };
        let address = SocketAddr::new(listen.admin_bind, listen.admin_port);
        let refused = |error| StartError::Listen { address, flag: "admin-port", error };
        let admin = TcpListener::bind(address).map_err(refused)?;
        admin.set_nonblocking(true).map_err(refused)?;
        let admin_address = admin.local_addr().map_err(refused)?;
        Ok(Sockets {
            http: bind(listen.http_port, "http-port")?,
            https: bind(listen.https_port, "https-port")?,
            admin,
            admin_address,
        })
    }
}
