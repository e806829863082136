//! Calls of Dubbo services from HTTP requests, as Http2Rpc objects describe them.
//!
//! [`mapping`] makes a call of a request, [`dubbo`] its frame and reads the answer's, [`hessian`] is the encoding inside.
//! Pure: bytes in, bytes out; `proxy` has the connections. The calls are generic ones (`$invoke`), which need no Java
//! classes on this side; that is how Higress makes them too (`http_dubbo_transcoder` of its Envoy).

pub mod dubbo;
pub mod hessian;
pub mod mapping;
