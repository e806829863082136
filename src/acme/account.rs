//! The account at the authority: made on first use, its key kept in the data folder for ever after.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use instant_acme::{
    Account, AccountBuilder, AccountCredentials, BodyWrapper, BytesResponse, Error, HttpClient, NewAccount,
};
use serde::{Deserialize, Serialize};

use super::Transport;

/// The file's content. An account belongs to one authority.
#[derive(Serialize, Deserialize)]
struct Kept {
    directory: String,
    credentials: AccountCredentials,
}

/// The account for this directory of an authority.
///
/// # Errors
/// The authority refuses, or the file is of no use.
pub(super) async fn account(
    directory: &str,
    email: Option<&str>,
    file: &Path,
    transport: &Arc<dyn Transport>,
) -> Result<Account, String> {
    let place = file.display();
    if file.exists() {
        let text = fs::read(file).map_err(|error| format!("{place} cannot be read: {error}"))?;
        let kept: Kept = serde_json::from_slice(&text)
            .map_err(|error| format!("{place} is no account ({error}); move it away for a new one"))?;
        if kept.directory == directory {
            return builder(transport).from_credentials(kept.credentials).await.map_err(|error| error.to_string());
        }
        tracing::info!(from = kept.directory, to = directory, "Another ACME authority: a new account is made");
    }
    new_account(directory, email, file, transport).await
}

/// Another account, which takes the place of the one in the file.
///
/// # Errors
/// The authority refuses, or the file cannot be written.
pub(super) async fn new_account(
    directory: &str,
    email: Option<&str>,
    file: &Path,
    transport: &Arc<dyn Transport>,
) -> Result<Account, String> {
    let place = file.display();
    let contact = email.map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let created = builder(transport).create(&new, directory.to_owned(), None).await;
    let (account, credentials) = created.map_err(|error| format!("no account could be made: {error}"))?;
    let kept = Kept { directory: directory.to_owned(), credentials };
    keep(file, &kept).map_err(|error| format!("{place} cannot be written: {error}"))?;
    Ok(account)
}

fn keep(file: &Path, kept: &Kept) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    // Whoever has the key can have certificates revoked.
    let mut out = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(file)?;
    out.write_all(&serde_json::to_vec_pretty(kept)?)?;
    out.sync_all()
}

fn builder(transport: &Arc<dyn Transport>) -> AccountBuilder {
    Account::builder_with_http(Box::new(Client(transport.clone())))
}

/// The transport, as the crate wants it.
struct Client(Arc<dyn Transport>);

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let transport = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let answer = transport.send(Request::from_parts(parts, body)).await;
            answer
                .map(|answer| BytesResponse::from(answer.map(Full::new)))
                .map_err(|reason| Error::Other(reason.into()))
        })
    }
}
