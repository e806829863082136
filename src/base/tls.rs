//! The cryptography of this process.

/// Names it, for HTTP clients that bring none. Doing it again changes nothing.
pub fn install_provider() {
    // It fails only if there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
