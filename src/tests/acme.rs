//! Certificates from an authority: a small ACME server that checks signatures, nonces and challenges, and the gateway.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use rcgen::{CertificateParams, Issuer, KeyPair};
use ring::digest::{SHA256, digest};
use ring::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::sync::watch;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use crate::harness::*;

const DOMAIN: &str = "shop.test";

/// An authority with one order at a time. Everything it is sent has to be signed, with a nonce of its own, for the URL asked.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca: String,
    state: Mutex<State>,
    /// Where the domain "leads": ports for HTTP and TLS.
    gateway: watch::Sender<Option<(SocketAddr, SocketAddr)>>,
}

#[derive(Default)]
struct State {
    n_nonces: u64,
    nonces: HashSet<String>,
    /// Public key of the account, and its thumbprint.
    account: Option<(Vec<u8>, String)>,
    contact: Value,
    authorization: &'static str,
    chain: Option<String>,
    looked: Vec<&'static str>,
}

impl Authority {
    async fn start() -> (Arc<Authority>, Upstream) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let authority = Arc::new(Authority { issuer, ca, state: Mutex::default(), gateway: watch::Sender::new(None) });
        let own = authority.clone();
        let server = Upstream::start(move |_, seen| {
            let own = own.clone();
            async move { own.answer(seen).await }
        })
        .await;
        (authority, server)
    }

    fn reply(&self, status: u16, body: &str, location: Option<String>) -> Response {
        let mut state = self.state.lock();
        state.n_nonces += 1;
        let nonce = format!("nonce-{}", state.n_nonces);
        state.nonces.insert(nonce.clone());
        let mut response = answer(status, "application/json", body.to_owned());
        response.headers_mut().insert("replay-nonce", nonce.parse().unwrap());
        if let Some(location) = location {
            response.headers_mut().insert("location", location.parse().unwrap());
        }
        response
    }

    async fn answer(self: Arc<Self>, seen: Seen) -> Response {
        let base = format!("http://{}", seen.headers["host"]);
        let url = |path: &str| format!("{base}{path}");
        if seen.method == "GET" {
            let directory = json!({"newNonce": url("/nonce"), "newAccount": url("/account"), "newOrder": url("/order"),
                "revokeCert": url("/revoke"), "keyChange": url("/key")});
            return self.reply(200, &directory.to_string(), None);
        }
        if seen.method == "HEAD" {
            return self.reply(200, "", None);
        }
        let payload = match self.checked(&seen, &url(&seen.path)) {
            Ok(payload) => payload,
            Err(kind) => {
                let problem = json!({"type": format!("urn:ietf:params:acme:error:{kind}")}).to_string();
                return self.reply(400, &problem, None);
            }
        };
        let order = |status: &str| {
            let mut order = json!({"status": status, "authorizations": [url("/authorization")], "finalize": url("/finalize"),
                "identifiers": [{"type": "dns", "value": DOMAIN}]});
            if status == "valid" {
                order["certificate"] = json!(url("/certificate"));
            }
            order.to_string()
        };
        match seen.path.as_str() {
            "/account" => {
                self.state.lock().contact = payload["contact"].clone();
                self.reply(201, r#"{"status": "valid"}"#, Some(url("/account/1")))
            }
            "/order" => {
                assert_eq!(payload["identifiers"][0]["value"], DOMAIN);
                let mut state = self.state.lock();
                (state.authorization, state.chain) = ("pending", None);
                drop(state);
                self.reply(201, &order("pending"), Some(url("/order/1")))
            }
            "/order/1" => {
                let state = self.state.lock();
                let status = match (state.authorization, &state.chain) {
                    (_, Some(_)) => "valid",
                    ("valid", None) => "ready",
                    (other, None) => other,
                };
                drop(state);
                self.reply(200, &order(status), None)
            }
            "/authorization" => {
                let status = self.state.lock().authorization;
                let challenge = |kind: &str| json!({"type": kind, "url": url(&format!("/{kind}")), "token": "token-1", "status": "pending"});
                let body = json!({"status": status, "identifier": {"type": "dns", "value": DOMAIN},
                    "challenges": [challenge("http-01"), challenge("tls-alpn-01")]});
                self.reply(200, &body.to_string(), None)
            }
            kind @ ("/http-01" | "/tls-alpn-01") => {
                let (http, https) = self.gateway.subscribe().wait_for(Option::is_some).await.unwrap().unwrap();
                let proof = format!("token-1.{}", self.state.lock().account.as_ref().unwrap().1);
                let (is_proved, looked) = match kind {
                    "/http-01" => (http_proof(http).await == proof, "http-01"),
                    _ => (tls_proof(https, &proof).await, "tls-alpn-01"),
                };
                let mut state = self.state.lock();
                state.looked.push(looked);
                state.authorization = if is_proved { "valid" } else { "invalid" };
                drop(state);
                let body = json!({"type": &kind[1..], "url": url(kind), "token": "token-1", "status": "processing"});
                self.reply(200, &body.to_string(), None)
            }
            "/finalize" => {
                let csr = URL_SAFE_NO_PAD.decode(payload["csr"].as_str().unwrap()).unwrap();
                let leaf = CertificateParams::new(vec![DOMAIN.to_owned()]).unwrap();
                let leaf = leaf.signed_by(&requested_key(&csr), &self.issuer).unwrap().pem();
                self.state.lock().chain = Some(format!("{leaf}{}", self.ca));
                self.reply(200, &order("valid"), None)
            }
            "/certificate" => {
                let chain = self.state.lock().chain.clone().unwrap();
                self.reply(200, &chain, None)
            }
            other => panic!("{other} is asked for"),
        }
    }

    /// The payload of a request, or what kind of error it is.
    fn checked(&self, seen: &Seen, url: &str) -> Result<Value, &'static str> {
        let body = seen.json();
        let text = |key: &str| body[key].as_str().unwrap().to_owned();
        let decoded = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let head: Value = serde_json::from_slice(&decoded(&text("protected"))).unwrap();
        let mut state = self.state.lock();
        if !state.nonces.remove(head["nonce"].as_str().unwrap()) {
            return Err("badNonce");
        }
        if head["url"] != url || head["alg"] != "ES256" {
            return Err("malformed");
        }
        if let Some(jwk) = head.get("jwk") {
            let (x, y) = (jwk["x"].as_str().unwrap(), jwk["y"].as_str().unwrap());
            let point = [vec![4], decoded(x), decoded(y)].concat();
            let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
            let thumb = URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()));
            state.account = Some((point, thumb));
        } else if !head["kid"].as_str().unwrap().ends_with("/account/1") {
            return Err("accountDoesNotExist");
        }
        let (point, _) = state.account.as_ref().ok_or("accountDoesNotExist")?;
        let signed = format!("{}.{}", text("protected"), text("payload"));
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        key.verify(signed.as_bytes(), &decoded(&text("signature"))).map_err(|_| "unauthorized")?;
        Ok(serde_json::from_slice(&decoded(&text("payload"))).unwrap_or_default())
    }
}

/// The key that a certificate is requested for, by somebody who has its other half.
fn requested_key(csr: &[u8]) -> RequestedKey {
    let (_, csr) = X509CertificationRequest::from_der(csr).unwrap();
    let info = &csr.certification_request_info;
    let point = info.subject_pki.subject_public_key.data.to_vec();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &point);
    key.verify(info.raw, &csr.signature_value.data).unwrap();
    let names = csr.requested_extensions().unwrap().find_map(|extension| match extension {
        ParsedExtension::SubjectAlternativeName(names) => Some(names.general_names.clone()),
        _ => None,
    });
    assert_eq!(names.unwrap(), [GeneralName::DNSName(DOMAIN)]);
    RequestedKey(point)
}

struct RequestedKey(Vec<u8>);

impl rcgen::PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

async fn http_proof(gateway: SocketAddr) -> String {
    let path = "/.well-known/acme-challenge/token-1";
    let other = send(gateway, "GET", "/.well-known/acme-challenge/other", &[("host", DOMAIN)], "".into()).await;
    assert_eq!(other.json(), "shop", "what is no challenge of ours goes on");
    send(gateway, "GET", path, &[("host", DOMAIN)], "".into()).await.text()
}

/// Whether the certificate shown to `acme-tls/1` holds the digest of the proof.
async fn tls_proof(gateway: SocketAddr, proof: &str) -> bool {
    let shown = tokio::task::spawn_blocking(move || handshake(gateway, &[b"acme-tls/1"])).await.unwrap().unwrap().0;
    let (_, certificate) = x509_parser::parse_x509_certificate(&shown[0]).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names, [GeneralName::DNSName(DOMAIN)]);
    // id-pe-acmeIdentifier of RFC 8737: a critical octet string.
    let extension = certificate.extensions().iter().find(|it| it.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
    let expected = digest(&SHA256, proof.as_bytes());
    extension.critical && extension.value == [&[4, 32], expected.as_ref()].concat()
}

/// The chain that the gateway shows for the domain and, without `alpn`, its answer to a request.
fn handshake(gateway: SocketAddr, alpn: &[&[u8]]) -> std::io::Result<(Vec<CertificateDer<'static>>, Vec<u8>)> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone());
    let verifier = Arc::new(Anyone(provider));
    let mut config = builder
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), DOMAIN.try_into().unwrap()).unwrap();
    let mut socket = TcpStream::connect(gateway)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    let chain =
        connection.peer_certificates().unwrap().iter().map(|certificate| certificate.clone().into_owned()).collect();
    let mut answer = Vec::new();
    if alpn.is_empty() {
        let mut stream = rustls::Stream::new(&mut connection, &mut socket);
        stream.write_all(format!("GET / HTTP/1.1\r\nhost: {DOMAIN}\r\nconnection: close\r\n\r\n").as_bytes())?;
        // Some servers close without saying so.
        let _ = stream.read_to_end(&mut answer);
    }
    Ok((chain, answer))
}

/// What counts in a challenge is the extension that rustls refuses: it is looked at afterwards.
#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A gateway with one host of which `higress-https` says that its certificate is to be issued into the Secret `shop`.
async fn gateway(authority: &Authority, server: &Upstream, folder: Folder, challenge: &str) -> Gateway {
    let upstream = Upstream::start(|_, _| async { ok(&json!("shop")) }).await;
    folder.services(&[("shop", upstream.address)]);
    let cert = json!({"automaticHttps": true, "acmeIssuer": [{"name": "letsencrypt", "email": "me@shop.test"}],
        "credentialConfig": [{"domains": [DOMAIN], "tlsSecret": "shop", "tlsIssuer": "letsencrypt"}]});
    folder.write(
        "configmaps/higress-https.yaml",
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "higress-https"}, "data": {"cert": cert.to_string()}}),
    );
    let backend = json!({"resource": {"apiGroup": "networking.higress.io", "kind": "McpBridge", "name": "default"}});
    folder.write(
        "ingresses/shop.yaml",
        &json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": "shop", "annotations": {"higress.io/destination": "shop.static"}},
            "spec": {"tls": [{"hosts": [DOMAIN]}],
                "rules": [{"host": DOMAIN, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}}),
    );
    let settings =
        format!("[acme]\ndirectory = \"http://{}/directory\"\nchallenge = \"{challenge}\"\n", server.address);
    let gateway = Gateway::start_with(folder, &settings);
    authority.gateway.send_replace(Some((gateway.http, gateway.https)));
    gateway
}

/// Waits for the certificate in the folder, then asks for it.
async fn served(authority: &Authority, gateway: &Gateway) {
    let issued = eventually("the issued certificate", || authority.state.lock().chain.clone());
    let leaf = rustls::pki_types::pem::PemObject::from_pem_slice(issued.as_bytes());
    let leaf: CertificateDer<'static> = leaf.unwrap();
    let https = gateway.https;
    eventually_async("the certificate being served", || async {
        let (chain, answer) = tokio::task::spawn_blocking(move || handshake(https, &[])).await.unwrap().ok()?;
        (chain.first() == Some(&leaf) && String::from_utf8_lossy(&answer).contains("shop")).then_some(())
    })
    .await;
    let account = gateway.folder.data().join("acme-account.json");
    assert_eq!(std::fs::metadata(account).unwrap().permissions().mode() & 0o077, 0);
    eventually_async("the metrics", || async {
        let text = send(gateway.admin, "GET", "/metrics", &[], "".into()).await.text();
        let is_known = text.contains("weirgate_certificate_not_after_seconds{secret=\"higress-system/shop\"}");
        (is_known && text.contains("weirgate_certificate_orders_total{result=\"issued\"} 1")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_issued_over_http_01_and_served() {
    let (authority, server) = Authority::start().await;
    let gateway = gateway(&authority, &server, Folder::new(), "http-01").await;
    served(&authority, &gateway).await;
    let file = gateway.folder.config().join("secrets/shop.yaml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0, "the key is in it");
    let state = authority.state.lock();
    assert_eq!((state.looked.as_slice(), &state.contact), (&["http-01"][..], &json!(["mailto:me@shop.test"])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_ends_soon_is_renewed_over_tls_alpn_01() {
    let (authority, server) = Authority::start().await;
    let mut params = CertificateParams::new(vec![DOMAIN.to_owned()]).unwrap();
    // Long over, whatever the day.
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    let key = KeyPair::generate().unwrap();
    let old = params.self_signed(&key).unwrap();
    let folder = Folder::new();
    let data = json!({"tls.crt": old.pem(), "tls.key": key.serialize_pem()});
    folder.write(
        "secrets/shop.yaml",
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop", "resourceVersion": "3", "labels": {"a": "b"}},
            "stringData": data}),
    );
    let gateway = gateway(&authority, &server, folder, "tls-alpn-01").await;
    served(&authority, &gateway).await;
    assert_eq!(authority.state.lock().looked, ["tls-alpn-01"]);
    let text = std::fs::read_to_string(gateway.folder.config().join("secrets/shop.yaml")).unwrap();
    assert!(text.contains("resourceVersion: \"4\"") && text.contains("a: b"), "{text}");
}
